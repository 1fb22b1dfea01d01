package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// Journal records the runs of hook scripts.
var _ hook.Recorder = (*Journal)(nil)

// Started writes down that a script is about to run. Unless it returns nil, a
// daemon that dies during the run doesn't know of it afterwards.
func (j *Journal) Started(ctx context.Context, r hook.Running) error {
	if r.ID == "" {
		return errors.New("write down that a hook starts: it has no ID")
	}
	value, err := json.Marshal(r)
	if err == nil {
		err = j.commit(ctx, func() []change {
			return []change{{bucket: runningBucket, key: []byte(r.ID), value: value}}
		})
	}
	if err != nil {
		return fmt.Errorf("write down that %s starts: %w", r.Script, err)
	}
	return nil
}

// Finished turns the run into a report and forgets that it runs, both in one
// write: after a crash it is one or the other. As with Append, a disk that
// refuses is no error.
func (j *Journal) Finished(ctx context.Context, r hook.Running, result hook.Result) error {
	e, err := newEntry(report(r, result))
	if err != nil {
		return err
	}
	wait, err := j.enqueue(func() []change {
		return []change{j.add(e), {bucket: runningBucket, key: []byte(r.ID)}}
	})
	if err != nil {
		return fmt.Errorf("write down how %s ended: %w", r.Script, err)
	}
	_ = wait(ctx) // Problem tells
	return nil
}

// Interrupted returns the runs that an earlier daemon began and didn't finish,
// the oldest first. What is left of each has to be killed (hook.KillOrphan)
// before anything else is done.
func (j *Journal) Interrupted() []hook.Running {
	j.mu.Lock()
	defer j.mu.Unlock()
	runs := slices.Clone(j.interrupted)
	slices.SortStableFunc(runs, func(a, b hook.Running) int { return a.Started.Compare(b.Started) })
	return runs
}

// ReportInterrupted reports one of Interrupted with an unknown outcome, once
// nothing of it is left.
func (j *Journal) ReportInterrupted(ctx context.Context, r hook.Running) error {
	err := j.Finished(ctx, r, hook.Result{
		Stage:   r.Stage,
		Script:  r.Script,
		VIP:     r.VIP.String(),
		Digest:  r.Digest,
		Outcome: hook.Unknown,
		Started: r.Started,
		Forced:  r.Forced,
		Err:     "had died while it ran; what was left of it has been killed",
	})
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.interrupted = slices.DeleteFunc(j.interrupted, func(other hook.Running) bool { return other.ID == r.ID })
	return nil
}

// report is a run as the replicated log has it.
func report(r hook.Running, result hook.Result) *hadv1.Report {
	return &hadv1.Report{
		At:   timestamppb.New(result.Started.Add(result.Duration)),
		Node: r.Node,
		Body: &hadv1.Report_HookResult{HookResult: HookResult(r.Epoch, result)},
	}
}

// HookResult is a result as it goes over the wire. Text comes from file names and
// error messages, which may hold any bytes; a proto string may not.
func HookResult(epoch uint64, result hook.Result) *hadv1.HookResult {
	text := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	return &hadv1.HookResult{
		Epoch:       epoch,
		Stage:       string(result.Stage),
		Script:      text(result.Script),
		Vip:         result.VIP,
		Digest:      result.Digest,
		Outcome:     outcome(result.Outcome),
		ExitCode:    int32(result.ExitCode), // 0 to 255
		Signal:      result.Signal,
		Started:     timestamppb.New(result.Started),
		DurationNs:  result.Duration.Nanoseconds(),
		OutputTail:  result.OutputTail,
		OutputBytes: result.OutputBytes,
		Forced:      result.Forced,
		Error:       text(result.Err),
	}
}

func outcome(o hook.Outcome) hadv1.HookResult_Outcome {
	switch o {
	case hook.Exited:
		return hadv1.HookResult_OUTCOME_EXITED
	case hook.Signaled:
		return hadv1.HookResult_OUTCOME_SIGNALED
	case hook.TimedOut:
		return hadv1.HookResult_OUTCOME_TIMED_OUT
	case hook.Canceled:
		return hadv1.HookResult_OUTCOME_CANCELED
	case hook.Refused:
		return hadv1.HookResult_OUTCOME_REFUSED
	case hook.Unknown:
		return hadv1.HookResult_OUTCOME_UNKNOWN
	default:
		return hadv1.HookResult_OUTCOME_UNSPECIFIED
	}
}
