package failover

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

const start = clock.Instant(time.Hour)

func named(node string) *hadv1.Instance {
	return &hadv1.Instance{Node: node, NodeId: "id-" + node, BootId: "boot", Nonce: "1"}
}

func claimOf(i *hadv1.Instance, epoch uint64) *hadv1.Claim {
	return &hadv1.Claim{Epoch: epoch, Instance: i, LastLeaseIndex: epoch + 1, Terms: cluster.TimingFor(500 * time.Millisecond).Terms(cluster.LayerLifetime)}
}

// idleLeader is alpha, which leads, could own, and finds everything closed.
func idleLeader() Inputs {
	return Inputs{
		Now: start, Instance: named("alpha"), Margin: 50 * time.Millisecond, LastLease: start.Add(-time.Minute),
		Leadership: cluster.Leadership{Leading: true, Ready: true, Term: 3, Leader: "alpha"},
		View:       cluster.View{Policy: &hadv1.Policy{Version: 1}, LastEpoch: 7, LastOwner: "beta"},
		Policy:     &policy.Policy{Prefer: []string{"gamma"}, VIPs: []policy.VIP{{Name: "web"}}},
		Peers:      map[string]Peer{"beta": {Fresh: true, Eligible: true}, "gamma": {Fresh: true, Eligible: true}},
	}
}

// owner is alpha, which serves epoch 9 under a good lease.
func owner() Inputs {
	in := idleLeader()
	in.View.Open, in.View.LastEpoch, in.View.LastOwner = []*hadv1.Claim{claimOf(in.Instance, 9)}, 9, "alpha"
	in.Holding = Holding{Epoch: 9, Phase: PhaseServing, PolicyVersion: 1}
	in.LeaseEpoch, in.LeaseUntil = 9, start.Add(time.Second)
	return in
}

// yielding is alpha, which hands epoch 9 over to beta.
func yielding() Inputs {
	in := owner()
	in.Holding.Phase, in.Holding.Target = PhaseYielding, "beta"
	in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta", FromEpoch: 9}}
	return in
}

// text is a plan in a line: its steps, or why there is none.
func text(p Plan) string {
	if len(p.Steps) == 0 {
		return "rest: " + p.Why
	}
	var out []string
	for _, s := range p.Steps {
		line := string(s.Kind)
		if s.Target != "" {
			line += " to " + s.Target
		}
		out = append(out, line)
	}
	return strings.Join(out, ", ")
}

// candidate makes alpha one.
func candidate(in *Inputs) { in.Leadership = cluster.Leadership{Standing: true, Term: 4} }

func TestDecide(t *testing.T) {
	set := func(base Inputs, change func(in *Inputs)) Inputs { change(&base); return base }
	for _, c := range []struct {
		name string
		in   Inputs
		want string // the beginning of text
	}{
		// Without anything.
		{"everything closed: acquire", idleLeader(), "acquire"},
		{"no leader", set(idleLeader(), func(in *Inputs) { in.Leadership = cluster.Leadership{} }), "rest: no leader is known"},
		{"another leads", set(idleLeader(), func(in *Inputs) { in.Leadership = cluster.Leadership{Leader: "beta"} }), "rest: beta leads"},
		{"no barrier yet", set(idleLeader(), func(in *Inputs) { in.Leadership.Ready = false }), "rest: this node has just been elected"},
		{"no policy", set(idleLeader(), func(in *Inputs) { in.View.Policy, in.Policy = nil, nil }), "rest: there is no policy yet"},
		{"a policy without addresses", set(idleLeader(), func(in *Inputs) { in.Policy = &policy.Policy{} }), "rest: the policy names no address"},
		{"stopping", set(idleLeader(), func(in *Inputs) { in.Stopping = true }), "transfer to gamma"},

		// While the votes are counted.
		{"a candidate prepares", set(idleLeader(), candidate), "prepare"},
		{"a candidate prepares once", set(idleLeader(), func(in *Inputs) { candidate(in); in.Prepared = true }), "rest: no leader is known"},
		{"a candidate whom a move names has been asked", set(idleLeader(), func(in *Inputs) {
			candidate(in)
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha"}}
		}), "rest: no leader is known"},
		{"a candidate that can't own prepares nothing", set(idleLeader(), func(in *Inputs) { candidate(in); in.Blockers = []string{"no link"} }), "rest: no leader is known"},
		{"a witness stands and prepares nothing", set(idleLeader(), func(in *Inputs) { candidate(in); in.Witness = true }), "rest: no leader is known"},
		{"a candidate with a better one prepares nothing", set(idleLeader(), func(in *Inputs) { candidate(in); in.View.LastEpoch = 0 }), "rest: no leader is known"},
		{"a candidate has a long wait before it", set(idleLeader(), func(in *Inputs) {
			candidate(in)
			in.Policy.Prefer = nil
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start
		}), "rest: no leader is known"},

		// Who should.
		{"a witness hands on at once", set(idleLeader(), func(in *Inputs) { in.Witness = true }), "transfer to gamma"},
		{"blocked", set(idleLeader(), func(in *Inputs) { in.Blockers = []string{"no link"} }), "transfer to gamma"},
		{"blocked, and so is everybody", set(idleLeader(), func(in *Inputs) {
			in.Blockers = []string{"no link"}
			in.Peers = map[string]Peer{"beta": {Fresh: true, Reasons: []string{"no disk"}}, "gamma": {Eligible: true}}
		}), "rest: no node can own: alpha: no link; beta: no disk; gamma: it doesn't answer"},
		{"blocked, but leadership has just been handed around", set(idleLeader(), func(in *Inputs) {
			in.Blockers, in.TransferAfter = []string{"no link"}, start.Add(time.Second)
		}), "rest: no node can own"},
		{"a blocked leader doesn't wait for the lease first", set(idleLeader(), func(in *Inputs) {
			in.Blockers = []string{"no link"}
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start
		}), "transfer to gamma"},
		{"another failed less", set(idleLeader(), func(in *Inputs) {
			in.View.Nodes = map[string]*hadv1.NodeRecord{"alpha": {Failures: 1}, "gamma": {Failures: 2}}
		}), "transfer to beta"},
		{"a cold start goes by preference", set(idleLeader(), func(in *Inputs) { in.View.LastEpoch = 0 }), "transfer to gamma"},
		{"a cold start waits for the preferred node's word", set(idleLeader(), func(in *Inputs) {
			in.View.LastEpoch, in.View.Policy, in.PolicySeen = 0, &hadv1.Policy{Version: 1, Index: 5}, start.Add(-time.Second)
			in.Peers["gamma"] = Peer{Fresh: true, Reasons: []string{"there is no policy yet"}, Applied: 4}
			in.Peers["beta"] = Peer{}
		}), "rest: the policy prefers gamma"},
		{"but not for ever", set(idleLeader(), func(in *Inputs) {
			in.View.LastEpoch, in.View.Policy, in.PolicySeen = 0, &hadv1.Policy{Version: 1, Index: 5}, start.Add(-2*time.Second)
			in.Peers["gamma"] = Peer{Fresh: true, Applied: 4} // its disk is full
			in.Peers["beta"] = Peer{}
		}), "acquire"},
		{"an ordered move goes before preference", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha"}}
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start
		}), "rest: waiting until the lease of beta"},
		{"a cold start doesn't wait for a silent node", set(idleLeader(), func(in *Inputs) {
			in.View.LastEpoch, in.View.Policy = 0, &hadv1.Policy{Version: 1, Index: 5}
			in.Peers = map[string]Peer{"gamma": {Applied: 4}}
		}), "acquire"},
		{"handed over by its owner", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha", FromEpoch: 7}}
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start
		}), "take-over"},
		{"handed over to an earlier run of this node", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha", FromEpoch: 7}}
			c := claimOf(named("beta"), 7)
			c.HandedTo = 8
			in.View.Open, in.LastLease = []*hadv1.Claim{c}, start
		}), "rest: waiting until the lease of beta"},
		{"a wait leaves time for preference", set(idleLeader(), func(in *Inputs) {
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start
		}), "transfer to gamma"},
		{"later, preference moves nothing", idleLeader(), "acquire"},
		{"a move's target gets it", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
		}), "transfer to beta"},
		{"a move's target is asked by whoever was elected in the midst of it", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
			in.Peers["beta"], in.ReadySince = Peer{}, start.Add(-targetLimit+1)
		}), "rest: beta, to which the owner moves"},
		{"but not for ever, for nobody owns meanwhile", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
			in.Peers["beta"], in.ReadySince = Peer{}, start.Add(-targetLimit)
		}), "acquire"},
		{"a move's target that can't doesn't", set(idleLeader(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
			in.Peers["beta"] = Peer{Fresh: true}
		}), "acquire"},
		{"the last turn failed just now", set(idleLeader(), func(in *Inputs) { in.TurnAfter = start.Add(time.Second) }), "rest: the last turn failed"},

		// An earlier owner.
		{"its lease may last", set(idleLeader(), func(in *Inputs) {
			in.Policy.Prefer, in.Prepared = nil, true
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start.Add(-4*time.Second)
		}), "rest: waiting until the lease of beta"},
		{"its lease may last, but not for long", set(idleLeader(), func(in *Inputs) {
			in.Policy.Prefer = nil
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start.Add(-4*time.Second)
		}), "prepare"},
		{"its lease may last, and the last turn failed", set(idleLeader(), func(in *Inputs) {
			in.Policy.Prefer, in.TurnAfter = nil, start.Add(time.Second)
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start.Add(-4*time.Second)
		}), "rest: waiting until the lease of beta"},
		{"its lease is over for certain", set(idleLeader(), func(in *Inputs) {
			in.View.Open, in.LastLease = []*hadv1.Claim{claimOf(named("beta"), 7)}, start.Add(-5*time.Second)
		}), "acquire"},
		{"its terms were longer than ours", set(idleLeader(), func(in *Inputs) {
			in.Policy.Prefer, in.Prepared = nil, true
			c := claimOf(named("beta"), 7)
			c.Terms = cluster.TimingFor(time.Second).Terms(cluster.LayerLifetime)
			in.View.Open, in.LastLease = []*hadv1.Claim{c}, start.Add(-5*time.Second)
		}), "rest: waiting until the lease of beta"},
		{"its own, from a commit it had given up on", set(idleLeader(), func(in *Inputs) {
			in.View.Open = []*hadv1.Claim{claimOf(in.Instance, 9)}
		}), "report-clean"},
		{"the same on a follower", set(idleLeader(), func(in *Inputs) {
			in.View.Open, in.Leadership = []*hadv1.Claim{claimOf(in.Instance, 9)}, cluster.Leadership{Leader: "beta"}
		}), "report-clean"},
		{"its own, reported already", set(idleLeader(), func(in *Inputs) {
			in.View.Open, in.Reported = []*hadv1.Claim{claimOf(in.Instance, 9)}, 9
		}), "rest: this node has released epoch 9"},
		{"its own, and it can't say that it is released", set(idleLeader(), func(in *Inputs) {
			in.View.Open, in.Stuck = []*hadv1.Claim{claimOf(in.Instance, 9)}, "a script can't be ended"
		}), "transfer to gamma"},

		// The owner.
		{"serving", owner(), "rest: serving"},
		{"the lease is over", set(owner(), func(in *Inputs) { in.LeaseUntil = start }), "force, finish"},
		{"the margin has begun", set(owner(), func(in *Inputs) { in.LeaseUntil = start.Add(49 * time.Millisecond) }), "force, finish"},
		{"the lease is another epoch's", set(owner(), func(in *Inputs) { in.LeaseEpoch = 8 }), "force, finish"},
		{"the epoch is closed", set(owner(), func(in *Inputs) { in.View.Open = nil }), "force, finish"},
		{"deposed", set(owner(), func(in *Inputs) { in.Leadership = cluster.Leadership{Leader: "beta"} }), "force, finish"},
		{"no quorum, the lease lasts", set(owner(), func(in *Inputs) { in.Leadership = cluster.Leadership{} }), "rest: leadership is in doubt"},
		{"elected again, no barrier yet", set(owner(), func(in *Inputs) { in.Leadership.Ready = false }), "rest: leadership is in doubt"},
		{"the turn failed", set(owner(), func(in *Inputs) { in.Holding.Phase = PhaseAcquiring }), "release, transfer to gamma, finish"},
		{"stopping", set(owner(), func(in *Inputs) { in.Stopping = true }), "order-move to gamma"},
		{"stopping, and nobody is ready", set(owner(), func(in *Inputs) { in.Stopping, in.NoMove = true, true }), "release, transfer to gamma, finish"},
		{"its guard died", set(owner(), func(in *Inputs) { in.Retire = "its guard died" }), "order-move to gamma"},
		{"stopping, a move is under way", set(owner(), func(in *Inputs) {
			in.Stopping, in.View.Move = true, &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
		}), "yield to beta"},
		{"stopping, alone", set(owner(), func(in *Inputs) { in.Stopping, in.Peers = true, nil }), "release, finish"},
		{"the link is gone", set(owner(), func(in *Inputs) { in.HandOver = "eth0 has lost its link" }), "release, transfer to gamma, finish"},
		{"a move", set(owner(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta"}}
		}), "yield to beta"},
		{"yielding, the target is being elected", set(yielding(), func(in *Inputs) { in.Leadership = cluster.Leadership{} }), "rest: beta takes over"},
		{"yielding, the target leads", set(yielding(), func(in *Inputs) { in.Leadership = cluster.Leadership{Leader: "beta"} }), "rest: beta takes over"},
		{"yielding, the target leads and hasn't asked before the lease's end", set(yielding(), func(in *Inputs) {
			in.Leadership, in.LeaseUntil = cluster.Leadership{Leader: "beta"}, start.Add(49*time.Millisecond)
		}), "force, finish"},
		{"yielding, another leads", set(yielding(), func(in *Inputs) { in.Leadership = cluster.Leadership{Leader: "gamma"} }), "force, finish"},
		{"yielding, and it still leads", yielding(), "release, end-move, finish"},
		{"a move to itself", set(owner(), func(in *Inputs) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha"}}
		}), "end-move"},
		{"a new policy", set(owner(), func(in *Inputs) { in.View.Policy = &hadv1.Policy{Version: 2} }), "reconfigure"},
		{"a new policy without addresses", set(owner(), func(in *Inputs) {
			in.View.Policy, in.Policy = &hadv1.Policy{Version: 2}, &policy.Policy{}
		}), "release, finish"},
		{"a new policy it can't read", set(owner(), func(in *Inputs) {
			in.View.Policy, in.Policy = &hadv1.Policy{Version: 2}, nil
		}), "rest: serving"},
		{"released, hooks left", set(owner(), func(in *Inputs) { in.Holding.Phase = PhaseLeaving }), "finish"},
		{"released a moment ago", set(owner(), func(in *Inputs) {
			in.Holding.Phase, in.Holding.Target, in.Holding.FinishAt = PhaseLeaving, "beta", start.Add(1)
		}), "rest: beta takes over"},
		{"released, and the successor had its time", set(owner(), func(in *Inputs) {
			in.Holding.Phase, in.Holding.Target, in.Holding.FinishAt = PhaseLeaving, "beta", start
		}), "finish"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(Decide(c.in)); !strings.HasPrefix(got, c.want) {
				t.Errorf("plan %q, want %q", got, c.want)
			}
		})
	}
}

// Whatever is put in, some plans must never come out.
func TestDecideNever(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	flip := func() bool { return rnd.IntN(2) == 0 }
	moment := func() clock.Instant { return start.Add(time.Duration(rnd.IntN(12_000)-6000) * time.Millisecond) }
	steps := map[StepKind]int{}
	for range 200_000 {
		in := idleLeader()
		if flip() {
			in = owner()
			in.LeaseUntil = moment()
			in.Holding.Phase = []Phase{PhaseAcquiring, PhaseServing, PhaseYielding, PhaseLeaving}[rnd.IntN(4)]
			in.Holding.Target = "beta"
			in.NoMove = rnd.IntN(4) == 0
			in.Holding.Left = Predecessor{Epoch: uint64(rnd.IntN(2) + 1), CloseAt: moment()}
			if flip() {
				in.Retire = "it has no guard"
			}
		}
		in.Leadership = []cluster.Leadership{{}, {Leader: "beta"}, {Leading: true}, in.Leadership, in.Leadership, in.Leadership}[rnd.IntN(6)]
		in.LastLease, in.TurnAfter, in.TransferAfter = moment(), moment(), moment()
		in.Witness, in.Stopping, in.Prepared = rnd.IntN(8) == 0, rnd.IntN(8) == 0, flip()
		if rnd.IntN(4) == 0 {
			in.Blockers = []string{"blocked"}
		}
		for _, node := range []string{"alpha", "beta"} {
			if rnd.IntN(4) == 0 {
				c := claimOf(named(node), uint64(rnd.IntN(3)+1))
				if rnd.IntN(4) == 0 {
					c.HandedTo = 9
				}
				in.View.Open = append(in.View.Open, c)
			}
		}
		if flip() {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{
				Target: []string{"alpha", "beta", "gamma"}[rnd.IntN(3)], FromEpoch: uint64(rnd.IntN(3) + 1),
			}}
		}
		for _, node := range []string{"beta", "gamma"} {
			in.Peers[node] = Peer{Fresh: flip(), Eligible: flip(), Witness: rnd.IntN(8) == 0}
		}
		if flip() {
			unsettle(&in, rnd)
		}
		plan := Decide(in)
		for _, s := range plan.Steps {
			steps[s.Kind]++
		}
		if wrong := cmp.Or(forbidden(in, plan), missteered(in, plan)); wrong != "" {
			t.Fatalf("%s: plan %q for\n%+v", wrong, text(plan), in)
		}
	}
	for _, kind := range []StepKind{StepPrepare, StepAcquire, StepTakeOver, StepOrderMove, StepYield, StepCloseLeft, StepUnfreeze, StepHold} {
		if steps[kind] < 50 {
			t.Errorf("only %d plans %s: the inputs don't try enough", steps[kind], kind)
		}
	}
}

// forbiddenTakeOver says why an epoch may not be taken from its living owner.
func forbiddenTakeOver(in Inputs, s Step) string {
	o := in.View.Move.GetOrder()
	if o.GetTarget() != "alpha" || o.GetFromEpoch() != s.Epoch || len(in.View.Open) != 1 {
		return "takes over without its owner's order, or with another epoch open"
	}
	if c := in.View.Open[0]; c.GetEpoch() != s.Epoch || c.GetHandedTo() != 0 || c.GetInstance().GetNode() == "alpha" {
		return "takes over what is handed over already, or its own"
	}
	return ""
}

// forbidden says what is wrong with a plan; empty: nothing.
func forbidden(in Inputs, p Plan) string {
	for i, s := range p.Steps {
		switch s.Kind {
		case StepPrepare, StepAcquire, StepTakeOver:
			switch {
			case in.Holding.Epoch != 0:
				return "acquires while it still has an epoch"
			case !in.Leadership.Ready, in.Witness, in.Stopping, len(in.Blockers) > 0, in.Now.Before(in.TurnAfter):
				return "acquires although it may not"
			}
			switch s.Kind {
			case StepTakeOver:
				return forbiddenTakeOver(in, s)
			case StepPrepare:
				if in.Prepared || len(p.Steps) > 1 {
					return "prepares what is prepared, or doesn't decide again after it"
				}
				return ""
			default:
			}
			switch {
			case len(in.View.Open) > 0 && in.Now.Before(cluster.TakeoverAt(in.LastLease, in.View.Open)):
				return "acquires before the earlier owner's time is over"
			case slices.ContainsFunc(in.View.Open, func(c *hadv1.Claim) bool {
				return c.GetInstance().GetNonce() == "1" && c.GetInstance().GetNode() == "alpha"
			}):
				return "acquires over an open epoch of its own"
			case len(s.Evidence) != len(in.View.Open):
				return fmt.Sprintf("acquires with %d pieces of evidence for %d open epochs", len(s.Evidence), len(in.View.Open))
			}
		case StepTransfer:
			if peer := in.Peers[s.Target]; peer.Witness || s.Target == "alpha" {
				return "hands leadership to a node that can't own"
			}
			if in.Holding.Epoch != 0 && (i == 0 || p.Steps[i-1].Kind != StepRelease) {
				return "hands leadership on before it has released"
			}
		case StepOrderMove, StepYield:
			if in.Holding.Phase != PhaseServing || !in.Leadership.Ready || in.Peers[s.Target].Witness || s.Target == "alpha" {
				return "moves what it doesn't serve, or to a node that can't own"
			}
		case StepCloseLeft:
			if in.Holding.Phase != PhaseServing || !in.Leadership.Ready || in.View.Claim(s.Epoch) == nil || in.Now.Before(in.Holding.Left.CloseAt) {
				return "closes an epoch that isn't open, or before its time is over"
			}
		case StepReconfigure:
			if !in.Now.Before(in.LeaseUntil.Add(-in.Margin)) {
				return "changes what it holds after its lease"
			}
		case StepRelease, StepForce, StepFinish, StepReportClean, StepEndMove, StepUnfreeze, StepHold:
		}
	}
	leaseOver := in.LeaseEpoch != in.Holding.Epoch || !in.Now.Before(in.LeaseUntil.Add(-in.Margin))
	if in.Holding.Epoch != 0 && in.Holding.Phase != PhaseLeaving && leaseOver && (len(p.Steps) == 0 || p.Steps[0].Kind != StepForce) {
		return "keeps what it holds after its lease"
	}
	return ""
}

// A lease that this node ended itself is no fault of the quorum.
func TestALeaseGivenUpSaysWhy(t *testing.T) {
	in := owner()
	in.LeaseEpoch, in.LeaseUntil, in.LeaseLost = 0, 0, "the guard has ended epoch 9"
	plan := Decide(in)
	if len(plan.Steps) == 0 || plan.Steps[0].Kind != StepForce || !strings.Contains(plan.Steps[0].Cause, in.LeaseLost) {
		t.Errorf("plan %+v, want a forced release because of the guard", plan)
	}
}
