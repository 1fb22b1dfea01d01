package journal

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// retryEvery is how often a write that failed is tried again when nobody asks
// for one.
const retryEvery = time.Second

// change is one key to be set or removed. It has the same effect when it is
// done twice: a write that failed may have reached the disk all the same.
type change struct {
	bucket string
	key    []byte
	value  []byte // nil: remove the key
	entry  *entry // instead of value: encoded when it is written
}

// attempt is one write of the queue. Everybody whose changes it takes waits
// for the same one, so that a burst costs one fsync.
type attempt struct {
	done chan struct{}
	err  error // valid once done is closed
}

func newAttempt() *attempt { return &attempt{done: make(chan struct{})} }

// enqueue lets mutate change the memory, with mu held, and queues what it
// returns, all of it for one write. The wait it returns ends with that write.
func (j *Journal) enqueue(mutate func() []change) (wait func(context.Context) error, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, errClosed
	}
	j.queue = append(j.queue, mutate()...)
	a := j.next
	select {
	case j.wake <- struct{}{}:
	default: // the writer is being woken already
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, diskPatience, fmt.Errorf("the disk has not answered for %s", diskPatience))
		defer cancel()
		select {
		case <-a.done:
			return a.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, nil
}

// commit is enqueue and the wait for the disk.
func (j *Journal) commit(ctx context.Context, mutate func() []change) error {
	wait, err := j.enqueue(mutate)
	if err != nil {
		return err
	}
	return wait(ctx)
}

// write is the writer goroutine.
func (j *Journal) write() {
	defer close(j.done)
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	for stopping := false; !stopping; {
		select {
		case <-j.wake:
		case <-retry.C:
		case <-j.stop:
			stopping = true
		}
		if !j.save() {
			retry.Reset(retryEvery)
		}
	}
}

// save makes one attempt to store all of the queue.
func (j *Journal) save() (ok bool) {
	j.mu.Lock()
	batch, a := j.queue, j.next
	j.queue, j.next = nil, newAttempt()
	j.writing = time.Now()
	j.mu.Unlock()

	var err error
	if len(batch) > 0 {
		err = j.store(batch)
	}

	j.mu.Lock()
	j.writing = time.Time{}
	j.problem = err
	if err != nil {
		j.queue = append(batch, j.queue...)
		j.renumber()
	} else {
		j.settle(batch)
	}
	close(j.changed)
	j.changed = make(chan struct{})
	j.mu.Unlock()

	a.err = err
	close(a.done)
	return err == nil
}

// settle marks what is in the file now. It is called with mu held.
func (j *Journal) settle(batch []change) {
	for _, c := range batch {
		if c.entry == nil {
			continue
		}
		c.entry.settled, c.entry.stored = true, true
		if c.entry.report.GetStream() == j.stream {
			j.storedSeq = max(j.storedSeq, c.entry.report.GetSeq())
		}
	}
}

// renumber moves the reports that could not be stored to a stream that dies
// with this process, so that they can be delivered all the same. Under the
// file's stream they can't: if one was delivered and this process died, the
// next would give its number to another report, which the log would skip. It
// is called with mu held, by the writer, while nothing is being written.
func (j *Journal) renumber() {
	for _, e := range j.pending {
		if e.settled {
			continue
		}
		if j.spare.stream == "" {
			j.spare.stream = rand.Text()
		}
		j.spare.seq++
		r := proto.CloneOf(e.report)
		r.Stream, r.Seq = j.spare.stream, j.spare.seq
		e.report, e.settled = r, true
	}
	j.seq = j.storedSeq
}

// store writes the batch in one transaction.
func (j *Journal) store(batch []change) (err error) {
	// A damaged page makes bbolt panic, a file that was cut off makes the
	// memory map fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is damaged: %v", p)
		}
	}()
	return j.db.Update(func(tx *bolt.Tx) error {
		s, err := loadSeal(tx)
		if err != nil {
			return err
		}
		seq := uint64(0)
		for _, c := range batch {
			value := c.value
			if c.entry != nil {
				if value, err = proto.Marshal(c.entry.report); err != nil {
					return fmt.Errorf("encode a report: %w", err)
				}
				if c.entry.report.GetStream() == j.stream {
					seq = max(seq, c.entry.report.GetSeq())
				}
			}
			if err := s.set(tx, c.bucket, c.key, value); err != nil {
				return err
			}
		}
		if seq > 0 {
			if err := s.set(tx, metaBucket, []byte(seqKey), encodeUint(seq)); err != nil {
				return err
			}
		}
		return s.save(tx)
	})
}
