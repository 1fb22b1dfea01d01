package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

type logger = hclog.Logger

func (b *bench) acquire(t *testing.T, addrs ...string) uint64 {
	t.Helper()
	if err := b.x.acquire(t.Context(), b.inputs(addrs...), Step{Kind: StepAcquire, Cause: "a test"}); err != nil {
		t.Fatal(err)
	}
	return b.x.held().Epoch
}

func (b *bench) giveBack(t *testing.T, epoch uint64) {
	t.Helper()
	for _, do := range []func(context.Context, Step) error{b.x.release, b.x.finish} {
		if err := do(t.Context(), Step{Epoch: epoch, Cause: "a test"}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATurnInOrder(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1", "192.0.2.2")
	b.giveBack(t, epoch)
	want := []string{
		"Test 192.0.2.1", "Test 192.0.2.2", "PreAcq 192.0.2.1", "PreAcq 192.0.2.2", "set 2",
		"PostAcq 192.0.2.1", "PostAcq 192.0.2.2", "report OUTCOME_SERVING",
		"PreRel 192.0.2.2", "PreRel 192.0.2.1", "remove 2", "report released 3", "PostRel 192.0.2.2", "PostRel 192.0.2.1", "clear tenure",
	}
	if got := b.diary.all(); !slices.Equal(got, want) {
		t.Errorf("the turn was\n%q, want\n%q", got, want)
	}
	if v, _ := b.log.View(); len(v.Open) != 0 {
		t.Errorf("epochs %v are still open in the log", v.Open)
	}
}

func TestPreAcqFailureUndoes(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	b.hooks.do[hook.PreAcq] = fails
	if err := b.x.acquire(t.Context(), b.inputs("192.0.2.1"), Step{Kind: StepAcquire}); err == nil {
		t.Fatal("the turn went on")
	}
	h := b.x.held()
	if h.Phase != PhaseAcquiring || b.kernel.holds() != 0 {
		t.Fatalf("holding %+v with %d addresses", h, b.kernel.holds())
	}
	b.giveBack(t, h.Epoch)
	v, _ := b.log.View()
	if len(v.Open) != 0 || v.Nodes["alpha"].GetFailures() != 1 {
		t.Errorf("open %v, failures %v", v.Open, v.Nodes)
	}
	if got := b.diary.all(); !slices.Contains(got, "PreRel 192.0.2.1") || !slices.Contains(got, "PostRel 192.0.2.1") {
		t.Errorf("what PreAcq had begun was not undone: %q", got)
	}
}

// A stopped daemon may wake up past its lease between two scripts, and before
// anything has canceled the stage.
func TestNoScriptStartsPastTheLease(t *testing.T) {
	for _, stage := range []hook.Stage{hook.PreAcq, hook.PostAcq} {
		b := newBench(t.Context(), hclog.NewNullLogger())
		var before, after error
		b.hooks.do[stage] = func(ctx context.Context, run hook.Run) ([]hook.Result, error) {
			before = run.Allowed()
			now := b.x.keeper.now
			b.x.keeper.now = func() clock.Instant { return now().Add(time.Hour) }
			after = run.Allowed()
			b.x.keeper.now = now
			return nil, ctx.Err()
		}
		b.acquire(t, "192.0.2.1")
		if before != nil || !errors.Is(after, errLeaseOver) {
			t.Errorf("%s may run: within the lease %v, past it %v", stage, before, after)
		}
	}
	// What gives back runs whether the lease lasts or not.
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	why := errors.New("PostRel was not run")
	b.hooks.do[hook.PostRel] = func(_ context.Context, run hook.Run) ([]hook.Result, error) {
		now := b.x.keeper.now
		b.x.keeper.now = func() clock.Instant { return now().Add(time.Hour) }
		why = run.Allowed()
		return nil, nil
	}
	b.giveBack(t, epoch)
	if why != nil {
		t.Error(why)
	}
}

// A script in uninterruptible sleep may still act when it wakes up: the node
// can't say that it holds nothing, so the successor has to wait.
func TestNothingIsReportedReleasedWhileAScriptCannotBeEnded(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	b.hooks.do[hook.PreRel] = func(context.Context, hook.Run) ([]hook.Result, error) { return nil, hook.ErrStillRunning }
	b.giveBack(t, epoch)
	if b.kernel.holds() != 0 {
		t.Error("the addresses stayed")
	}
	if got := b.journal.released(); len(got) != 0 {
		t.Errorf("epochs %v were reported released", got)
	}
	v, _ := b.log.View()
	if len(v.Open) != 1 {
		t.Errorf("%d open epochs, want the one that can't be proved released", len(v.Open))
	}
	if _, stuck := b.x.reports(); stuck == "" {
		t.Error("nothing says why")
	}
}

// A host that was short of time, or a server that answers again: what could not
// be ended has ended, and what could not be said can be.
func TestTheReleaseIsReportedOnceTheScriptHasEnded(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	gone := false
	b.hooks.do[hook.PreRel] = func(context.Context, hook.Run) ([]hook.Result, error) {
		b.x.left = []*leftover{{"PreRel1 is stuck", func(context.Context) (bool, error) { return gone, nil }}}
		return nil, nil
	}
	b.giveBack(t, epoch)
	b.x.lookAtLeft(t.Context())
	if _, stuck := b.x.reports(); stuck != "PreRel1 is stuck" || len(b.journal.released()) != 0 {
		t.Fatalf("while it runs: stuck %q, released %v", stuck, b.journal.released())
	}
	gone = true
	b.x.lookAtLeft(t.Context())
	if _, stuck := b.x.reports(); stuck != "" {
		t.Errorf("it has ended, and the node says %q", stuck)
	}
	if err := b.x.reportClean(t.Context(), Step{Epoch: epoch, Cause: "not this"}); err != nil {
		t.Fatal(err)
	}
	v, _ := b.log.View()
	if len(v.Open) != 0 {
		t.Errorf("%d epochs are open", len(v.Open))
	}
}

// The name of a script may hold any bytes; the report must not be lost.
func TestReportsSurviveNamesThatAreNotUTF8(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	b.hooks.do[hook.PreRel] = func(_ context.Context, run hook.Run) ([]hook.Result, error) {
		return []hook.Result{{Stage: run.Stage, Script: "PreRel\xff", Outcome: hook.Exited, ExitCode: 1}}, nil
	}
	b.giveBack(t, epoch)
	if v, _ := b.log.View(); len(v.Open) != 0 {
		t.Error("the release never reached the log")
	}
}

func TestReconfigure(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1", "192.0.2.2")
	before := len(b.diary.all())
	if err := b.x.reconfigure(t.Context(), b.inputs("192.0.2.2", "192.0.2.3"), Step{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	want := []string{"PreRel 192.0.2.1", "PreAcq 192.0.2.3", "set 2", "PostRel 192.0.2.1", "PostAcq 192.0.2.3", "report OUTCOME_SERVING"}
	if got := slices.DeleteFunc(b.diary.all()[before:], func(s string) bool { return strings.HasPrefix(s, "report released") }); !slices.Equal(got, want) {
		t.Errorf("it did\n%q, want\n%q", got, want)
	}
	if n := len(b.journal.tenure.Addresses); n != 2 {
		t.Errorf("the journal names %d addresses, want the 2 of the new policy", n)
	}
}

func TestFailedReconfigureReleasesOldAndNew(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1", "192.0.2.2")
	b.kernel.failSet, b.kernel.failAfter = errors.New("no memory"), 0
	before := len(b.diary.all())
	if err := b.x.reconfigure(t.Context(), b.inputs("192.0.2.2", "192.0.2.3"), Step{Epoch: epoch}); err == nil {
		t.Fatal("it didn't fail")
	}
	if h := b.x.held(); h.Phase != PhaseAcquiring {
		t.Fatalf("holding %+v: the ring would try the same again, for ever", h)
	}
	b.giveBack(t, epoch)
	did := b.diary.all()[before:]
	for line, times := range map[string]int{
		"PreRel 192.0.2.1": 1, "PreRel 192.0.2.2": 1, "PreRel 192.0.2.3": 1,
		"PostRel 192.0.2.1": 1, "PostRel 192.0.2.2": 1, "PostRel 192.0.2.3": 1,
	} {
		n := 0
		for _, l := range did {
			if l == line {
				n++
			}
		}
		if n != times {
			t.Errorf("%s ran %d times, want %d: %q", line, n, times, did)
		}
	}
	if b.kernel.holds() != 0 {
		t.Error("an address is left")
	}
}

func TestReconfigureWithoutItsInterfaceHandsOver(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	in := b.inputs("192.0.2.2")
	b.network.missing = errors.New("no interface")
	if err := b.x.reconfigure(t.Context(), in, Step{Epoch: epoch}); err == nil {
		t.Fatal("it didn't fail")
	}
	if h := b.x.held(); h.Phase != PhaseAcquiring {
		t.Errorf("holding %+v: the ring would spin", h)
	}
}

func TestPostAcqFailureByPolicy(t *testing.T) {
	for action, fail := range map[policy.FailureAction]bool{policy.Continue: false, policy.HandOver: true} {
		b := newBench(t.Context(), hclog.NewNullLogger())
		b.hooks.do[hook.PostAcq] = fails
		in := b.inputs("192.0.2.1")
		in.Policy.Hooks.OnFailure = map[string]policy.FailureAction{policy.PostAcq: action}
		err := b.x.acquire(t.Context(), in, Step{Kind: StepAcquire})
		if (err != nil) != fail {
			t.Errorf("on_failure %s: acquire gave %v", action, err)
		}
		var outcomes []hadv1.Progress_Outcome
		for _, r := range b.journal.pending {
			outcomes = append(outcomes, r.GetProgress().GetOutcome())
		}
		if want := hadv1.Progress_OUTCOME_FAILED; slices.Contains(outcomes, want) != fail {
			t.Errorf("on_failure %s: reported %v", action, outcomes)
		}
	}
}

// A second Ctrl-C cuts the last hooks short. They must not be forgotten: the
// next start finds the record and runs them.
func TestHooksCutShortAreLeftToTheNextStart(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	epoch := b.acquire(t, "192.0.2.1")
	ctx, cancel := context.WithCancel(t.Context())
	if err := b.x.release(ctx, Step{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := b.x.finish(ctx, Step{Epoch: epoch}); err == nil {
		t.Error("hooks that did not run count as run")
	}
	if tenure := b.journal.tenure; tenure == nil || !tenure.Released {
		t.Errorf("the record is %+v, want it kept and marked released", tenure)
	}
}
