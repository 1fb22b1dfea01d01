package journal

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

func running(id string, at time.Time) hook.Running {
	return hook.Running{
		ID: id, Stage: hook.PreAcq, Event: hook.Acquire, Script: "PreAcq" + id, VIP: netip.MustParseAddr("192.0.2.10"),
		Digest: "d", Node: "alpha", Epoch: 7, Forced: true, Started: at,
	}
}

func TestInterruptedRunsAreReportedOnce(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	now := time.Now().UTC().Truncate(time.Second)
	for _, r := range []hook.Running{running("b", now), running("a", now.Add(time.Second)), running("c", now.Add(2*time.Second))} {
		if err := j.Started(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Finished(t.Context(), running("c", now), hook.Result{Stage: hook.PreAcq, Script: "PreAcqc", Outcome: hook.Exited, ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	if got := j.Interrupted(); len(got) != 0 {
		t.Errorf("this process's own runs count as interrupted: %v", got)
	}

	j = reopen(t, j)
	got := j.Interrupted()
	if len(got) != 2 || got[0] != running("b", now) || got[1] != running("a", now.Add(time.Second)) {
		t.Fatalf("interrupted = %+v", got)
	}
	if err := j.ReportInterrupted(t.Context(), got[0]); err != nil {
		t.Fatal(err)
	}
	if left := j.Interrupted(); len(left) != 1 || left[0].ID != "a" {
		t.Errorf("left = %v", left)
	}

	j = reopen(t, j)
	if left := j.Interrupted(); len(left) != 1 || left[0].ID != "a" {
		t.Errorf("left after reopening = %v", left)
	}
	reports := j.Pending(10)
	if len(reports) != 2 {
		t.Fatalf("reports = %v", reports)
	}
	if h := reports[0].GetHookResult(); h.GetOutcome() != hadv1.HookResult_OUTCOME_EXITED || h.GetExitCode() != 3 {
		t.Errorf("finished run = %v", h)
	}
	h := reports[1].GetHookResult()
	if h.GetOutcome() != hadv1.HookResult_OUTCOME_UNKNOWN || h.GetScript() != "PreAcqb" || h.GetStage() != "PreAcq" || h.GetVip() != "192.0.2.10" ||
		h.GetEpoch() != 7 || h.GetDigest() != "d" || !h.GetForced() || h.GetError() == "" || !h.GetStarted().AsTime().Equal(now) || reports[1].GetNode() != "alpha" {
		t.Errorf("interrupted run = %v", reports[1])
	}
}

func TestStartedNeedsAnID(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	if err := j.Started(t.Context(), hook.Running{}); err == nil {
		t.Error("a run without ID can't be found again")
	}
}

// A real script with a name and output that are not UTF-8.
func TestRunnerRecordsIntoTheJournal(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	dir := t.TempDir()
	folder := filepath.Join(dir, "192.0.2.10")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "PostAcq\xff"), []byte("#!/bin/sh\nprintf '\\377'\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := hook.NewRunner(hook.Config{Dir: dir, Timeout: 20 * time.Second, Recorder: j})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	results, err := r.Stage(t.Context(), hook.Run{
		Stage: hook.PostAcq, Event: hook.Acquire, VIP: netip.MustParseAddr("192.0.2.10"),
		Env: hook.Env{Node: "alpha", Epoch: 9},
	})
	if err != nil || len(results) != 1 {
		t.Fatal(results, err)
	}

	j = reopen(t, j)
	if left := j.Interrupted(); len(left) != 0 {
		t.Errorf("still running: %v", left)
	}
	reports := j.Pending(10)
	if len(reports) != 1 {
		t.Fatalf("reports = %v", reports)
	}
	h := reports[0].GetHookResult()
	if h.GetScript() != "PostAcq\uFFFD" || string(h.GetOutputTail()) != "\xff" || h.GetOutputBytes() != 1 || h.GetExitCode() != 4 ||
		h.GetOutcome() != hadv1.HookResult_OUTCOME_EXITED || h.GetEpoch() != 9 || len(h.GetDigest()) != 64 || h.GetDurationNs() <= 0 {
		t.Errorf("report = %v", h)
	}
}
