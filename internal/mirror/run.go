package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/hook"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// begin begins a run; its mutex is held. The run belongs to Run.
func (m *Mirror) begin(j *job, src source) *run {
	ctx, cancel := context.WithCancelCause(m.life)
	r := &run{
		source: src, began: time.Now(), cancel: cancel, done: make(chan struct{}),
		result: &hadv1.SyncResult{Name: j.sync.Name, Epoch: src.epoch, Owner: src.owner},
	}
	cmd := hook.Command{
		Name: fmt.Sprintf("sync %q", j.sync.Name), Line: slices.Clone(j.sync.Command), Timeout: j.sync.Timeout,
		Env: []string{
			"HAD_CLUSTER=" + m.cfg.Cluster, "HAD_NODE=" + m.cfg.Self.GetName(), "HAD_SYNC=" + j.sync.Name,
			"HAD_OWNER=" + src.owner, fmt.Sprintf("HAD_EPOCH=%d", src.epoch),
		},
	}
	j.run, j.due = r, r.began.Add(j.sync.Every+m.jitter(j.sync))
	m.runs.Go(func() {
		defer cancel(nil)
		result, err := m.cfg.Commands.Run(ctx, j.sync.Name, cmd)
		m.ended(ctx, j, result, err)
	})
	return r
}

// ended takes what became of a run.
func (m *Mirror) ended(ctx context.Context, j *job, result hook.Result, err error) {
	view, _ := m.cfg.Log.View()
	now, _ := m.source(view)
	m.mu.Lock()
	defer m.mu.Unlock()
	r := j.run
	fill(r.result, result)
	switch {
	case err != nil:
		m.stuck[j.sync.Name] = fmt.Sprintf("sync %s can't be ended, and may still write: %v", j.sync.Name, err)
		r.result.Outcome, r.result.Error = hadv1.SyncResult_OUTCOME_FAILED, m.stuck[j.sync.Name]
	case result.OK() && (now != r.source || ctx.Err() != nil):
		// It ended well, but nobody can say that all of it is of one owner.
		r.result.Outcome, r.result.Error = hadv1.SyncResult_OUTCOME_STOPPED, "the owner changed while it ran"
	}
	switch r.result.GetOutcome() {
	case hadv1.SyncResult_OUTCOME_COPIED:
		j.failures, j.why = 0, ""
		// What the owner had when the run began is what is certainly there.
		m.fresh[j.sync.Name] = r.began
		m.save()
	case hadv1.SyncResult_OUTCOME_STOPPED:
		j.due = time.Time{}
	default:
		j.failures++
		j.why = r.result.GetError()
	}
	if !(r.result.GetOutcome() == hadv1.SyncResult_OUTCOME_COPIED && j.told == "" && view.SyncCopied(j.sync.Name, m.cfg.Self.GetName()) >= r.source.epoch) {
		m.tell(j, r.result)
	}
	m.cfg.Logger.Info("sync "+j.sync.Name, "outcome", r.result.GetOutcome(), "from", r.source.owner, "took", result.Duration.Round(time.Millisecond), "error", r.result.GetError())
	j.run = nil
	close(r.done)
	poke(m.woken)
}

// fill says in the log's terms what became of a command.
func fill(to *hadv1.SyncResult, r hook.Result) {
	to.ExitCode, to.Signal = int32(r.ExitCode), r.Signal //nolint:gosec // 0 to 255
	to.Started, to.DurationNs = timestamppb.New(r.Started), r.Duration.Nanoseconds()
	to.OutputTail, to.Error = r.OutputTail, steps.Printable(r.Err)
	switch {
	case r.OK():
		to.Outcome = hadv1.SyncResult_OUTCOME_COPIED
	case r.Outcome == hook.TimedOut:
		to.Outcome = hadv1.SyncResult_OUTCOME_TIMED_OUT
	case r.Outcome == hook.Canceled:
		to.Outcome = hadv1.SyncResult_OUTCOME_STOPPED
	case r.Outcome == hook.Exited:
		to.Outcome, to.Error = hadv1.SyncResult_OUTCOME_FAILED, fmt.Sprintf("it exited with %d", r.ExitCode)
	case r.Outcome == hook.Signaled:
		to.Outcome, to.Error = hadv1.SyncResult_OUTCOME_FAILED, "it was ended by "+r.Signal
	default:
		to.Outcome = hadv1.SyncResult_OUTCOME_FAILED
	}
}

// tell reports what is news: a schedule of minutes would fill the history with
// what went as it should, or failed as it did before.
func (m *Mirror) tell(j *job, r *hadv1.SyncResult) {
	news := fmt.Sprint(r.GetOutcome(), r.GetEpoch(), r.GetExitCode(), r.GetSignal())
	if news == j.told {
		return
	}
	j.told = news
	m.desk.reports = append(m.desk.reports, r)
	poke(m.desk.mail)
}

// Sync runs a sync now, and returns what became of it. One that is under way is
// waited for. The run goes on when ctx ends.
func (m *Mirror) Sync(ctx context.Context, name string) (*hadv1.SyncResult, error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
	}
	view, _ := m.cfg.Log.View()
	src, why := m.source(view)
	m.mu.Lock()
	j := m.jobs[name]
	held := view.SyncHeld(name)
	var r *run
	var err error
	switch {
	case j == nil:
		err = refuse("%s knows no sync called %q yet: look at hactl policy show", m.cfg.Self.GetName(), name)
	case j.run != nil:
		r = j.run
	case src.owner == m.cfg.Self.GetName():
		err = refuse("%s owns: it is what is copied from", src.owner)
	case src.owner == "":
		err = refuse("%s", why)
	case held != "":
		err = refuse("%s; if it is the one whose data to keep: hactl sync resume %s", held, name)
	case m.mayBegin(view) != "":
		err = refuse("%s", m.mayBegin(view))
	default:
		r = m.begin(j, src)
	}
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return r.result, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("wait for sync %s, which goes on", name), ctx.Err())
	}
}
