// Package journal is a node's own durable memory, one file in its data
// folder: reports that are not in the replicated log yet, what this node may
// hold in its kernel, and which hook scripts are running.
//
// The reasons behind it are in DESIGN.md.
package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// diskPatience is how long a call waits for the disk before it goes on
// without: a release must not hang because a disk does.
const diskPatience = 2 * time.Second

var errClosed = errors.New("the journal is closed")

// Journal is safe for concurrent use. What is in memory is ahead of the file
// by the queue; a writer goroutine, joined by Close, is the only one that
// writes the file.
type Journal struct {
	path   string
	nodeID string
	stream string
	db     *bolt.DB

	wake chan struct{} // capacity 1: the queue has grown
	stop chan struct{} // closed by Close
	done chan struct{} // closed when the writer has ended

	mu          sync.Mutex
	closed      bool
	pending     []*entry // oldest first
	lastKey     uint64   // key of the newest entry ever made since Open
	seq         uint64   // of the newest report in stream
	storedSeq   uint64   // of the newest report of stream that is in the file; at most seq
	spare       counter  // numbers for reports that could not be stored
	offered     string   // stream of the reports Pending last returned
	tenure      []byte   // encoded; nil: none
	interrupted []hook.Running
	queue       []change      // not in the file yet, oldest first
	next        *attempt      // the write that will take what is queued now
	writing     time.Time     // since when a write is under way; zero: none
	problem     error         // why the last write failed; nil: it did not
	changed     chan struct{} // closed and replaced when Pending may return more
}

// entry is a pending report.
type entry struct {
	key    uint64 // in the file
	report *hadv1.Report
	// settled: the report's stream and seq are final, because it is in the
	// file or because its place in a stream that dies with this process is.
	// Only then may it be delivered.
	settled bool
	stored  bool // it is in the file
}

// counter numbers the reports of one stream from 1.
type counter struct {
	stream string
	seq    uint64
}

// Stream returns the random name that was drawn when the file was created.
// Reports carry it unless the disk refused them; then they carry another.
func (j *Journal) Stream() string { return j.stream }

// Append takes a report: it copies it, fills in node_id, stream and seq, and
// waits until it is on disk, but not beyond ctx or two seconds. A report that
// the disk refuses is kept in memory and retried until it is stored, and
// Problem says so; that is not an error here, because the caller has nothing
// left to do. An error means that the report was not taken.
func (j *Journal) Append(ctx context.Context, r *hadv1.Report) (uint64, error) {
	e, err := newEntry(r)
	if err != nil {
		return 0, err
	}
	wait, err := j.enqueue(func() []change { return []change{j.add(e)} })
	if err != nil {
		return 0, fmt.Errorf("append a report to the journal: %w", err)
	}
	_ = wait(ctx) // Problem tells
	j.mu.Lock()
	defer j.mu.Unlock()
	return e.report.GetSeq(), nil
}

// newEntry copies a report and makes sure that it can be encoded: one that
// can't would keep everything after it from being stored.
func newEntry(r *hadv1.Report) (*entry, error) {
	e := &entry{report: proto.CloneOf(r)}
	if e.report.GetBody() == nil {
		return nil, errors.New("append a report to the journal: it says nothing")
	}
	if _, err := proto.Marshal(e.report); err != nil {
		return nil, fmt.Errorf("append a report to the journal: %w", err)
	}
	return e, nil
}

// add numbers e and makes it pending. It is called with mu held.
func (j *Journal) add(e *entry) change {
	j.lastKey++
	j.seq++
	e.key = j.lastKey
	e.report.NodeId, e.report.Stream, e.report.Seq = j.nodeID, j.stream, j.seq
	j.pending = append(j.pending, e)
	return change{bucket: reportsBucket, key: entryKey(e.key), entry: e}
}

// Pending returns up to limit reports that are to be delivered, oldest first,
// all of one stream. They must not be changed. There is one deliverer: Ack is
// about what Pending returned last.
func (j *Journal) Pending(limit int) []*hadv1.Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	var reports []*hadv1.Report
	for _, e := range j.pending {
		if len(reports) == limit || !e.settled || len(reports) > 0 && e.report.GetStream() != j.offered {
			break
		}
		j.offered = e.report.GetStream()
		reports = append(reports, e.report)
	}
	return reports
}

// Ack says that the reports which Pending returned are in the replicated log
// up to the one numbered seq. They are forgotten. It doesn't wait for the disk:
// what is delivered twice after a crash is skipped by its number.
func (j *Journal) Ack(seq uint64) error {
	_, err := j.enqueue(func() []change {
		var gone []change
		for len(j.pending) > 0 {
			e := j.pending[0]
			if !e.settled || e.report.GetStream() != j.offered || e.report.GetSeq() > seq {
				break
			}
			j.pending = j.pending[1:]
			gone = append(gone, change{bucket: reportsBucket, key: entryKey(e.key)})
		}
		return gone
	})
	if err != nil {
		return fmt.Errorf("trim the journal: %w", err)
	}
	return nil
}

// Delivered returns the stream of the file and up to which of its reports the
// replicated log is known to have had.
func (j *Journal) Delivered() (stream string, seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.pending {
		if e.report.GetStream() == j.stream {
			return j.stream, e.report.GetSeq() - 1
		}
	}
	return j.stream, j.seq
}

// PendingCount returns how many reports are not known to be in the log.
func (j *Journal) PendingCount() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending)
}

// Changed returns a channel that is closed when Pending has more to return
// than it had at the time of the call.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Flush waits until everything is on disk, until ctx ends, or until a write
// has failed; the error then says why.
func (j *Journal) Flush(ctx context.Context) error {
	wait, err := j.enqueue(func() []change { return nil })
	if err == nil {
		err = wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("flush the journal: %w", err)
	}
	return nil
}

// Problem returns a sentence about why the file is behind, or "" when it
// isn't. What it counts is lost if the process ends before the disk takes it.
func (j *Journal) Problem() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	unsaved := 0
	for _, e := range j.pending {
		if !e.stored {
			unsaved++
		}
	}
	switch {
	case j.problem != nil:
		return fmt.Sprintf("the journal %s can't be written: %v; reports in memory only: %d; make room or repair the disk before had stops", j.path, j.problem, unsaved)
	case !j.writing.IsZero() && time.Since(j.writing) > diskPatience:
		return fmt.Sprintf("the disk under the journal %s has not answered for %s; reports in memory only: %d", j.path, time.Since(j.writing).Round(time.Second), unsaved)
	default:
		return ""
	}
}

// closeLimit is how long Close waits for a disk that doesn't answer.
const closeLimit = 5 * time.Second

// Close tries once more to store what is not, stops the writer and releases
// the file. The error says what was lost.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()
	close(j.stop)
	timer := time.NewTimer(closeLimit)
	defer timer.Stop()
	select {
	case <-j.done:
	case <-timer.C: // the writer is inside the kernel; the file is its own until the process ends
		return fmt.Errorf("close the journal: %s", j.Problem())
	}
	var err error
	if problem := j.Problem(); problem != "" {
		err = errors.New(problem)
	}
	return errors.Join(err, j.db.Close())
}
