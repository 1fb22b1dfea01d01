package simtest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/hook"
	"had/internal/journal"
	hadv1 "had/proto/had/v1"
)

// journalFile is a host's journal: all of it is on disk the moment it is
// written.
type journalFile struct {
	nodeID string

	mu      sync.Mutex
	pending []*hadv1.Report
	seq     uint64
	tenure  *journal.Tenure
	running map[string]hook.Running
	written []*hadv1.Report // every report ever taken, for the checker
}

func newJournalFile(nodeID string) *journalFile {
	return &journalFile{nodeID: nodeID, running: map[string]hook.Running{}}
}

func (f *journalFile) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pending)
}

// reports returns every report ever written.
func (f *journalFile) reports() []*hadv1.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.written)
}

// open is what a daemon does at its start.
func (f *journalFile) open(p *process) *openJournal {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := &openJournal{f: f, p: p, changed: make(chan struct{})}
	for _, r := range f.running {
		j.interrupted = append(j.interrupted, r)
	}
	slices.SortFunc(j.interrupted, func(a, b hook.Running) int { return a.Started.Compare(b.Started) })
	return j
}

// openJournal is the journal as one daemon has it open.
type openJournal struct {
	f *journalFile
	p *process

	// Guarded by f.mu.
	changed     chan struct{}
	interrupted []hook.Running
}

func (j *openJournal) Append(_ context.Context, r *hadv1.Report) (uint64, error) {
	if err := j.p.pass(); err != nil {
		return 0, err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	return j.add(r), nil
}

func (j *openJournal) add(r *hadv1.Report) uint64 {
	r = proto.CloneOf(r)
	j.f.seq++
	r.NodeId, r.Stream, r.Seq = j.f.nodeID, "journal", j.f.seq
	j.f.pending = append(j.f.pending, r)
	j.f.written = append(j.f.written, r)
	close(j.changed)
	j.changed = make(chan struct{})
	return r.GetSeq()
}

// Release appends a release and marks the tenure in the same step, as the real
// journal does in one write.
func (j *openJournal) Release(_ context.Context, r *hadv1.Report, forced bool) error {
	if err := j.p.pass(); err != nil {
		return err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	if j.f.tenure != nil {
		t := *j.f.tenure
		t.Released, t.Forced = true, forced
		j.f.tenure = &t
	}
	j.add(r)
	return nil
}

func (j *openJournal) Pending(limit int) []*hadv1.Report {
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	return slices.Clone(j.f.pending[:min(limit, len(j.f.pending))])
}

func (j *openJournal) Ack(seq uint64) error {
	if err := j.p.pass(); err != nil {
		return err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	j.f.pending = slices.DeleteFunc(slices.Clone(j.f.pending), func(r *hadv1.Report) bool { return r.GetSeq() <= seq })
	return nil
}

func (j *openJournal) PendingCount() int { return j.f.count() }

func (j *openJournal) Changed() <-chan struct{} {
	_ = j.p.pass()
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	return j.changed
}

func (j *openJournal) SetTenure(t *journal.Tenure) error {
	if err := j.p.pass(); err != nil {
		return err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	j.f.tenure = t
	return nil
}

func (j *openJournal) ClearTenure() error { return j.SetTenure(nil) }

func (j *openJournal) Tenure() (*journal.Tenure, error) {
	if err := j.p.pass(); err != nil {
		return nil, err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	return j.f.tenure, nil
}

// Started, Finished, Interrupted and ReportInterrupted are what a hook.Runner
// and the recovery use.

func (j *openJournal) Started(_ context.Context, r hook.Running) error {
	if err := j.p.pass(); err != nil {
		return err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	j.f.running[r.ID] = r
	return nil
}

func (j *openJournal) Finished(_ context.Context, r hook.Running, result hook.Result) error {
	if err := j.p.pass(); err != nil {
		return err
	}
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	delete(j.f.running, r.ID)
	j.add(&hadv1.Report{
		At: timestamppb.New(result.Started.Add(result.Duration)), Node: r.Node,
		Body: &hadv1.Report_HookResult{HookResult: &hadv1.HookResult{
			Epoch: r.Epoch, Stage: string(r.Stage), Script: r.Script, Vip: r.VIP.String(), Forced: r.Forced,
			Outcome: hadv1.HookResult_Outcome(result.Outcome), ExitCode: int32(result.ExitCode),
			Started: timestamppb.New(result.Started), DurationNs: int64(result.Duration), Error: result.Err,
		}},
	})
	return nil
}

func (j *openJournal) Interrupted() []hook.Running {
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	return slices.Clone(j.interrupted)
}

func (j *openJournal) ReportInterrupted(ctx context.Context, r hook.Running) error {
	if j.p.h.scripts.runs(r.ID) {
		return fmt.Errorf("simulation: script %s was reported while it still ran", r.ID)
	}
	return j.Finished(ctx, r, hook.Result{Outcome: hook.Unknown, Started: r.Started, Err: "had died while it ran"})
}
