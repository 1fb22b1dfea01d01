package failover

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/check"
	"had/internal/clock"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

func frozen() *hadv1.Frozen {
	return &hadv1.Frozen{Index: 5, Freeze: &hadv1.Freeze{By: "ann", ForNs: int64(time.Hour), Until: timestamppb.New(time.Unix(3600, 0))}}
}

func siteFails() []check.Result {
	return []check.Result{{Check: policy.Check{Name: "site", Failures: 3}, State: check.Failing, Times: 3, Detail: "HTTP 503"}}
}

func fails3(node string, passedSince bool) *hadv1.FailingCheck {
	return &hadv1.FailingCheck{Node: node, Change: &hadv1.CheckChange{Check: "site", Failing: true}, PassedSince: passedSince}
}

func TestSteering(t *testing.T) {
	set := func(base Inputs, changes ...func(in *Inputs)) Inputs {
		for _, change := range changes {
			change(&base)
		}
		return base
	}
	freeze := func(in *Inputs) { in.View.Frozen = frozen() }
	over := func(in *Inputs) { in.FreezeOver = true }
	hold := func(in *Inputs) { in.View.Held = &hadv1.Held{} }
	sick := func(in *Inputs) { in.Failing = siteFails() }
	tooOften := func(in *Inputs) { in.Flapping = "the limit of 3 failovers within 10m is reached" }
	drain := func(nodes ...string) func(in *Inputs) {
		return func(in *Inputs) {
			in.View.Drained = map[string]*hadv1.Drain{}
			for _, n := range nodes {
				in.View.Drained[n] = &hadv1.Drain{Node: n, By: "ann"}
			}
		}
	}
	nobodyElse := func(in *Inputs) { in.Peers = map[string]Peer{"beta": {Fresh: true, Reasons: []string{"no disk"}}} }
	moveTo := func(node string) func(in *Inputs) {
		return func(in *Inputs) { in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: node, FromEpoch: 9}} }
	}
	failback := func(in *Inputs) { in.FailBack = "gamma" }
	lastWas := func(node string) func(in *Inputs) { return func(in *Inputs) { in.View.LastOwner = node } }
	silent := func(in *Inputs) {
		in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start.Add(-time.Minute)
	}
	for _, c := range []struct {
		name string
		in   Inputs
		want string
	}{
		// A freeze.
		{"frozen: the owner serves", set(owner(), freeze), "rest: serving"},
		{"frozen, and the lease ends", set(owner(), freeze, func(in *Inputs) { in.LeaseUntil = start }), "force, finish"},
		{"frozen, and another leads", set(owner(), freeze, func(in *Inputs) { in.Leadership = cluster.Leadership{Leader: "beta"} }), "force, finish"},
		{"frozen: a check that fails moves nothing", set(owner(), freeze, sick), "rest: serving"},
		{"frozen: no failback", set(owner(), freeze, failback), "rest: serving"},
		{"frozen: a lost link moves nothing", set(owner(), freeze, func(in *Inputs) { in.HandOver = "eth0 has lost its link" }), "rest: serving"},
		{"frozen: a person moves it", set(owner(), freeze, moveTo("beta")), "yield to beta"},
		{"frozen: a person drains the owner", set(owner(), freeze, drain("alpha")), "order-move to gamma"},
		{"frozen and stopping: nobody is given it", set(owner(), freeze, func(in *Inputs) { in.Stopping = true }), "release, transfer to gamma, finish"},
		{"frozen, without what its lease rests on", set(owner(), freeze, func(in *Inputs) { in.Retire = "it has no guard" }), "order-move to gamma"},
		{"frozen for long enough", set(owner(), freeze, over), "unfreeze"},
		{"frozen for long enough, with a move under way", set(owner(), freeze, over, moveTo("beta")), "unfreeze"},
		{"frozen: the last owner comes back", set(idleLeader(), freeze, lastWas("alpha"), silent), "acquire"},
		{"frozen: it prefers itself to a better node", set(idleLeader(), freeze, lastWas("alpha"), func(in *Inputs) {
			in.View.Nodes = map[string]*hadv1.NodeRecord{"alpha": {Failures: 1}}
		}), "acquire"},
		{"frozen: a dead owner is not succeeded", set(idleLeader(), freeze, silent, func(in *Inputs) { in.Peers["beta"] = Peer{} }),
			"rest: frozen by ann until 1970-01-01 01:00:00 UTC: only beta, the last owner, may own"},
		{"frozen: leadership goes to the last owner", set(idleLeader(), freeze), "transfer to beta"},
		{"frozen: but not again and again", set(idleLeader(), freeze, func(in *Inputs) { in.TransferAfter = start.Add(1) }), "rest: frozen"},
		{"frozen: nobody begins to own", set(idleLeader(), freeze, func(in *Inputs) { in.View.LastEpoch, in.View.LastOwner = 0, "" }), "rest: frozen by ann until 1970-01-01 01:00:00 UTC: nobody may begin"},
		{"frozen: whom a person has it moved to", set(idleLeader(), freeze, moveTo("alpha")), "acquire"},
		{"nobody owns, and the freeze is over", set(idleLeader(), freeze, over), "unfreeze"},
		{"a witness says so, too", set(idleLeader(), freeze, over, func(in *Inputs) { in.Witness = true }), "unfreeze"},
		{"a leader that only waits for its barrier doesn't", set(idleLeader(), freeze, over, func(in *Inputs) { in.Leadership.Ready = false }), "rest: this node has just been elected"},

		// A drain.
		{"the owner is drained", set(owner(), drain("alpha")), "order-move to gamma"},
		{"another is drained", set(owner(), drain("beta")), "rest: serving"},
		{"drained, and nobody else could", set(owner(), drain("alpha"), nobodyElse), "rest: serving"},
		{"drained, and one has just said no", set(owner(), drain("alpha"), func(in *Inputs) { in.Declined = map[string]string{"gamma": "Test"} }), "order-move to beta"},
		{"drained, and all have", set(owner(), drain("alpha"), func(in *Inputs) { in.Declined = map[string]string{"gamma": "Test", "beta": "Test"} }), "rest: serving"},
		{"drained, and held by the limits", set(owner(), drain("alpha"), hold), "order-move to gamma"},

		// A check.
		{"a check fails", set(owner(), sick), "order-move to gamma"},
		{"a check fails, and nobody is eligible", set(owner(), sick, nobodyElse), "rest: serving"},
		{"a check fails that failed on the preferred one before", set(owner(), sick, func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("gamma", false)}
		}), "order-move to beta"},
		{"it fails on every node", set(owner(), sick, func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("alpha", false), fails3("beta", false), fails3("gamma", false)}
		}), "rest: serving"},
		{"it failed there once, and a later owner has passed it", set(owner(), sick, func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("beta", false), fails3("gamma", true)}
		}), "order-move to gamma"},
		{"a check fails while a move is under way", set(owner(), sick, moveTo("beta")), "yield to beta"},
		{"stopping comes first", set(owner(), sick, func(in *Inputs) { in.Stopping = true }), "order-move to gamma"},
		{"who failed a check isn't the next owner", set(idleLeader(), func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("alpha", false), fails3("gamma", false)}
		}), "transfer to beta"},
		{"unless there is no better one", set(idleLeader(), func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("alpha", false)}
			in.Peers = nil
		}), "acquire"},

		// The limits.
		{"too often", set(owner(), sick, tooOften), "hold"},
		{"too often, and nobody is better", set(owner(), sick, tooOften, nobodyElse), "rest: serving"},
		{"too often, and all is well", set(owner(), tooOften), "rest: serving"},
		{"held", set(owner(), sick, tooOften, hold), "rest: serving"},
		{"held: no failback", set(owner(), failback, hold), "rest: serving"},
		{"held: a person moves it", set(owner(), hold, moveTo("beta")), "yield to beta"},
		{"held: stopping", set(owner(), hold, func(in *Inputs) { in.Stopping = true }), "order-move to gamma"},
		{"held: a dead owner is succeeded", set(idleLeader(), hold, silent), "acquire"},
		{"a script failed, and the limits kept the turn", set(owner(), tooOften, func(in *Inputs) { in.Holding.Kept = true }), "hold"},

		// A failback.
		{"the preferred node is back for long enough", set(owner(), failback), "order-move to gamma"},
		{"a check fails: that comes first", set(owner(), failback, sick, func(in *Inputs) {
			in.View.FailingChecks = []*hadv1.FailingCheck{fails3("gamma", false)}
		}), "order-move to beta"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(Decide(c.in)); !strings.HasPrefix(got, c.want) {
				t.Errorf("plan %q, want %q", got, c.want)
			}
		})
	}
}

func TestCauseNamesTheCheck(t *testing.T) {
	in := idleLeader()
	in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha", By: "had on beta", Reason: siteFails()[0].String(), Checks: []string{"site"}}}
	if got := causeOf(in); got != "beta: check site failed 3 times: HTTP 503" {
		t.Errorf("cause %q", got)
	}
}

func TestFlappingCountsWithinTheWindow(t *testing.T) {
	now := time.Unix(100_000, 0)
	ago := func(ds ...time.Duration) (out []*hadv1.Failover) {
		for _, d := range ds {
			out = append(out, &hadv1.Failover{At: timestamppb.New(now.Add(-d))})
		}
		return out
	}
	three := &policy.Policy{} // by default 3 within 10 minutes
	one := &policy.Policy{Limits: policy.Limits{MaxFailovers: 1, Within: time.Hour}}
	for _, c := range []struct {
		name string
		of   *policy.Policy
		at   []*hadv1.Failover
		want bool
	}{
		{"none", three, nil, false},
		{"two", three, ago(0, time.Minute), false},
		{"three", three, ago(0, time.Minute, 9*time.Minute), true},
		{"three, one of them long ago", three, ago(0, time.Minute, 10*time.Minute), false},
		{"three by a clock that is ahead", three, ago(-time.Hour, -time.Hour, 0), true},
		{"one within the hour", one, ago(50 * time.Minute), true},
		{"no policy", nil, ago(0, 0, 0), false},
	} {
		if got := flapping(c.at, c.of, now); got != "" != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// serving3 is an owner whose policy wants gamma and gives it the addresses back.
func serving3() Inputs {
	in := owner()
	in.Policy = &policy.Policy{Prefer: []string{"gamma", "alpha", "beta"}, Failback: policy.Failback{Auto: true, Delay: time.Minute}}
	return in
}

func TestFailbackNeedsItsWholeDelay(t *testing.T) {
	var s steering
	look := func(after time.Duration, change func(in *Inputs)) string {
		in := serving3()
		in.Now = start.Add(after)
		change(&in)
		s.complete(&in, nil)
		return in.FailBack
	}
	well := func(*Inputs) {}
	for _, c := range []struct {
		after  time.Duration
		change func(in *Inputs)
		want   string
	}{
		{0, well, ""},
		{59 * time.Second, well, ""},
		{60 * time.Second, well, "gamma"},
		{61 * time.Second, func(in *Inputs) { in.Peers["gamma"] = Peer{Fresh: true} }, ""}, // not eligible for a moment
		{62 * time.Second, well, ""},
		{121 * time.Second, well, ""},
		{122 * time.Second, well, "gamma"},
		{123 * time.Second, func(in *Inputs) { in.Holding.Epoch = 11 }, ""}, // another turn
		{183 * time.Second, func(in *Inputs) { in.Holding.Epoch = 11 }, "gamma"},
		{184 * time.Second, func(in *Inputs) { in.Holding.Epoch, in.Policy.Failback.Auto = 11, false }, ""},
		{300 * time.Second, func(in *Inputs) { in.View.FailingChecks = []*hadv1.FailingCheck{fails3("gamma", true)} }, ""},
		{301 * time.Second, func(in *Inputs) { in.View.Nodes = map[string]*hadv1.NodeRecord{"gamma": {Failures: 1}} }, ""},
		{302 * time.Second, func(in *Inputs) { in.View.Applied = MaxLag + 1 }, ""},
		{400 * time.Second, func(in *Inputs) { in.Policy.Prefer = []string{"alpha", "gamma"} }, ""},
	} {
		if got := look(c.after, c.change); got != c.want {
			t.Errorf("after %v: %q, want %q", c.after, got, c.want)
		}
	}
}

// A freeze ends by the wall clock, or by the node's own when the wall clock is
// set back.
func TestFreezeEndsByEitherClock(t *testing.T) {
	until := func(d time.Duration) func(in *Inputs) {
		return func(in *Inputs) {
			in.View.Frozen = &hadv1.Frozen{Index: 5, Freeze: &hadv1.Freeze{ForNs: int64(time.Hour), Until: timestamppb.New(time.Now().Add(d))}}
		}
	}
	for _, c := range []struct {
		name  string
		wall  time.Duration // left by the wall clock
		after time.Duration // seen for so long
		want  bool
	}{
		{"it lasts", time.Hour, 0, false},
		{"over by the wall clock", -time.Second, 0, true},
		{"the wall clock was set back", 100 * time.Hour, time.Hour, true},
		{"the wall clock was set back, and it isn't over", 100 * time.Hour, 59 * time.Minute, false},
	} {
		var s steering
		in := owner()
		until(c.wall)(&in)
		s.complete(&in, nil)
		in.Now = start.Add(c.after)
		s.complete(&in, nil)
		if in.FreezeOver != c.want {
			t.Errorf("%s: over is %t", c.name, in.FreezeOver)
		}
	}
}

func TestWhoDeclinedIsAskedLaterAndLater(t *testing.T) {
	now := start
	s := steering{now: func() clock.Instant { return now }}
	declined := func() bool {
		in := owner()
		in.Now = now
		s.complete(&in, nil)
		return in.Declined["beta"] != ""
	}
	for _, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		s.decline("beta", errors.New("its Test said no"))
		if now = now.Add(wait - 1); !declined() {
			t.Errorf("asked again before %v", wait)
		}
		if now = now.Add(1); declined() {
			t.Errorf("not asked again after %v", wait)
		}
	}
	s.decline("beta", errors.New("its Test said no"))
	s.accept("beta")
	if declined() {
		t.Error("it has said yes since")
	}
}

// unsettle draws what people, checks and limits could have said.
func unsettle(in *Inputs, rnd *rand.Rand) {
	seldom := func() bool { return rnd.IntN(4) == 0 }
	if seldom() {
		in.View.Frozen, in.FreezeOver = frozen(), seldom()
	}
	if rnd.IntN(8) == 0 {
		in.View.Held = &hadv1.Held{}
	}
	if rnd.IntN(2) == 0 {
		in.Flapping = "too often"
	}
	if rnd.IntN(2) == 0 {
		in.Failing = siteFails()
	}
	in.Holding.Kept = seldom()
	in.View.Drained, in.Declined = map[string]*hadv1.Drain{}, map[string]string{}
	for _, node := range []string{"alpha", "beta", "gamma"} {
		if seldom() {
			in.View.Drained[node] = &hadv1.Drain{Node: node}
		}
		if seldom() {
			in.View.FailingChecks = append(in.View.FailingChecks, fails3(node, seldom()))
		}
		if seldom() && node != "alpha" {
			in.Declined[node] = "Test"
		}
	}
	if seldom() && in.Peers["gamma"].canOwn() {
		in.FailBack = "gamma"
	}
	if seldom() {
		in.View.LastOwner = "alpha"
	}
}

// missteered says what is wrong with a plan by the rules of steer.go; empty:
// nothing.
func missteered(in Inputs, p Plan) string {
	for _, s := range p.Steps {
		switch s.Kind {
		case StepAcquire, StepTakeOver, StepPrepare:
			if in.View.Frozen != nil && in.View.LastOwner != "alpha" && in.View.Move.GetOrder().GetTarget() != "alpha" {
				return "takes over what is frozen"
			}
		case StepHold, StepUnfreeze:
			if !in.Leadership.Ready || len(p.Steps) > 1 {
				return "says something for the cluster that doesn't lead, or doesn't decide again after it"
			}
		case StepOrderMove:
			drained := in.View.Drained["alpha"] != nil
			switch {
			case !s.Soft:
			case !in.Peers[s.Target].canOwn() || in.Declined[s.Target] != "" && s.Target != in.FailBack:
				return "moves to a node that can't own, or has said so"
			case !drained && (in.View.Frozen != nil || in.View.Held != nil):
				return "moves what is frozen or held"
			case len(s.Checks) > 0 && (unfit(in, s.Target) > 0 || in.Flapping != ""):
				return "leaves for a node that is no better, or too often"
			}
		default:
		}
	}
	return ""
}
