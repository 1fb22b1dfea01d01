package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// TestRefusals lists what Apply refuses. Each case starts with alpha owning
// epoch 3 in term 5, renewed at entry 4.
func TestRefusals(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	acquire := func(change func(a *hadv1.Acquire)) *hadv1.Command {
		cmd := acquireCmd(instance("beta", 1), 6, waited(3, 4))
		change(cmd.GetAcquire())
		return cmd
	}
	other := testBirth()
	other.ClusterId = "c-2"
	stranger := instance("beta", 1)
	stranger.NodeId = "id-of-new-hardware"
	late := hookResult("beta", 7, 3)
	foreign := released("alpha", 1, 3)
	foreign.NodeId = "id-of-new-hardware"
	borrowed := released("alpha", 1, 3)
	borrowed.Node = "beta"

	cases := []struct {
		name string
		cmd  *hadv1.Command
		why  string
	}{
		{"another birth", birthCmd(other), "the cluster was born with ID c-1"},
		{"a policy made from an old one", policyCmd(0, "x"), "at version 1, not 0"},
		{"a policy made from one that isn't there", policyCmd(2, "x"), "at version 1, not 2"},
		{"an Acquire of another term", acquire(func(a *hadv1.Acquire) { a.Term = 5 }), "proposed in term 5 and logged in term 6"},
		{"an Acquire of a wiped node", acquire(func(a *hadv1.Acquire) { a.Instance = stranger }), "not a member"},
		{"an Acquire under another member's name", acquire(func(a *hadv1.Acquire) { a.Instance.Node = "alpha" }), "not a member"},
		{"an Acquire without an instance", acquire(func(a *hadv1.Acquire) { a.Instance = nil }), "not a member"},
		{"an Acquire of a witness", acquire(func(a *hadv1.Acquire) { a.Instance = instance("gamma", 1) }), "witness"},
		{"an Acquire for another policy", acquire(func(a *hadv1.Acquire) { a.PolicyVersion = 2 }), "policy version 2"},
		{"an Acquire without terms", acquire(func(a *hadv1.Acquire) { a.Terms = nil }), "a lease of 0s"},
		{"an Acquire with a lease of an hour", acquire(func(a *hadv1.Acquire) { a.Terms.TtlNs = int64(time.Hour) }), "a lease of 1h0m0s"},
		{"an Acquire that claims a move nobody ordered", acquire(func(a *hadv1.Acquire) { a.MoveOperation = "made-up" }), "no move to"},
		{"an Acquire without a lifetime", acquire(func(a *hadv1.Acquire) { a.Terms.AddressLifetimeNs = 0 }), "an address lifetime of 0s"},
		{"an Acquire without evidence", acquire(func(a *hadv1.Acquire) { a.Evidence = nil }), "epoch 3 of alpha is still open"},
		{"an Acquire with evidence on another epoch", acquire(func(a *hadv1.Acquire) { a.Evidence[0].Epoch = 2 }), "epoch 3 of alpha is still open"},
		{"an Acquire that waited for an older lease", acquire(func(a *hadv1.Acquire) { a.Evidence[0].LeaseIndex = 3 }), "renewed at entry 4; the wait was for entry 3"},
		{"an Acquire that waited for a lease to come", acquire(func(a *hadv1.Acquire) { a.Evidence[0].LeaseIndex = 5 }), "renewed at entry 4; the wait was for entry 5"},
		{"an Acquire that says released on its own", acquire(func(a *hadv1.Acquire) { a.Evidence[0].Kind = hadv1.Evidence_KIND_RELEASED }), "can't be closed by KIND_RELEASED"},
		{"an Acquire that says rebooted on its own", acquire(func(a *hadv1.Acquire) { a.Evidence[0].Kind = hadv1.Evidence_KIND_REBOOTED }), "can't be closed by KIND_REBOOTED"},
		{"an Acquire with two kinds of evidence, the first void", acquire(func(a *hadv1.Acquire) {
			a.Evidence = []*hadv1.Evidence{{Epoch: 3, Kind: hadv1.Evidence_KIND_UNSPECIFIED}, waited(3, 4)}
		}), "two kinds of evidence"},
		{"an Acquire over the instance's own epoch", acquire(func(a *hadv1.Acquire) { a.Instance = alpha }), "must be released, not waited for"},
		{"a renewal of another term", renewCmd(alpha, 5, 3), "proposed in term 5 and logged in term 6"},
		{"a renewal of an unknown epoch", renewCmd(alpha, 6, 2), "epoch 2 is closed"},
		{"a renewal by another node", renewCmd(beta, 6, 3), "belongs to another run of had on alpha"},
		{"a renewal by a restarted had", renewCmd(instance("alpha", 2), 6, 3), "belongs to another run of had on alpha"},
		{"a report of a wiped node", deliverCmd(foreign), "its reports count for nothing"},
		{"a report under another member's name", deliverCmd(borrowed), "its reports count for nothing"},
		{"reports with a gap", deliverCmd(hookResult("beta", 1, 3), hookResult("beta", 3, 3)), "report 3 of beta came after report 1"},
		{"reports that don't begin at 1", deliverCmd(late), "report 7 of beta came after report 0"},
		{"a good report beside a stranger's", deliverCmd(released("alpha", 1, 3), foreign), "its reports count for nothing"},
		{"a move to nobody", moveCmd("op", 3, "delta"), `"delta" is not a node`},
		{"a move to the witness", moveCmd("op", 3, "gamma"), "witness"},
		{"a move to the owner", moveCmd("op", 3, "alpha"), "owns already"},
		{"a move from an epoch that is over", moveCmd("op", 2, "beta"), "epoch 2 is over"},
		{"the end of no move", moveEndCmd("op"), "no move with operation op"},
		{"the end of a move without a name", moveEndCmd(""), "no move with operation"},
		{"a record of a newer version", &hadv1.Command{}, "doesn't know the record"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := bornLog(t)
			l.must(5, acquireCmd(alpha, 5))
			l.must(5, renewCmd(alpha, 5, 3))
			if why := l.refused(6, c.cmd); !strings.Contains(why, c.why) {
				t.Errorf("refused with %q, want %q in it", why, c.why)
			}
		})
	}
}

func TestAcquireBeforeThePolicyIsRefused(t *testing.T) {
	l := newLog(t)
	l.refused(1, acquireCmd(instance("alpha", 1), 1)) // nor a birth
	l.must(1, birthCmd(testBirth()))
	for version := range uint64(2) {
		cmd := acquireCmd(instance("alpha", 1), 1)
		cmd.GetAcquire().PolicyVersion = version
		l.refused(1, cmd)
	}
}

func TestBirthIsRecordedOnce(t *testing.T) {
	l := newLog(t)
	l.must(1, birthCmd(testBirth()))
	l.must(2, birthCmd(testBirth())) // the next leader proposed it too
	if events, _ := l.state.History(0); len(events) != 1 {
		t.Errorf("history has %d events, want the birth alone: %v", len(events), events)
	}
}

func TestSuccession(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	l := bornLog(t)
	first := l.must(1, acquireCmd(alpha, 1))
	lease := l.must(1, renewCmd(alpha, 1, first))
	second := l.must(2, acquireCmd(beta, 2, waited(first, lease)))

	v := l.state.View()
	if got := l.open(); !slices.Equal(got, []uint64{second}) {
		t.Errorf("open epochs %v, want %d alone", got, second)
	}
	if v.LastEpoch != second || v.LastOwner != "beta" || v.Newest().GetEpoch() != second || v.Claim(first) != nil {
		t.Errorf("the owner is %s in epoch %d, want beta in %d", v.LastOwner, v.LastEpoch, second)
	}
	events, _ := l.state.History(lease)
	if len(events) != 2 || events[0].GetClosed().GetLeaseIndex() != lease || events[0].GetNode() != "alpha" ||
		events[1].GetAcquired() == nil || events[1].GetSub() != 1 {
		t.Errorf("the succession is told as %v", events)
	}

	l.must(2, deliverCmd(released("beta", 1, second)))
	third := l.must(3, acquireCmd(alpha, 3)) // nothing is open: nothing to prove
	if v := l.state.View(); v.LastEpoch != third || third <= second {
		t.Errorf("epoch %d after %d", v.LastEpoch, second)
	}
}

func TestFailedTurnsAreRemembered(t *testing.T) {
	failures := func(l *log) uint32 { return l.state.View().Nodes["beta"].GetFailures() }
	l := bornLog(t)
	l.must(1, deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_VETOED)))
	l.must(1, deliverCmd(progress("beta", 2, 0, hadv1.Progress_OUTCOME_FAILED)))
	if failures(l) != 2 {
		t.Errorf("%d failures, want 2", failures(l))
	}
	l.must(1, deliverCmd(progress("beta", 2, 0, hadv1.Progress_OUTCOME_FAILED)))
	if failures(l) != 2 {
		t.Errorf("a report delivered again counts: %d failures, want 2", failures(l))
	}
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, moveCmd("op", epoch, "beta"))
	if failures(l) != 0 {
		t.Error("a person asked for beta, and its failures still count")
	}
	l.must(1, deliverCmd(progress("beta", 3, 0, hadv1.Progress_OUTCOME_FAILED)))
	l.must(1, deliverCmd(progress("beta", 4, 0, hadv1.Progress_OUTCOME_SERVING)))
	if failures(l) != 0 {
		t.Error("beta served, and its failures still count")
	}
	l.must(1, deliverCmd(progress("beta", 5, 0, hadv1.Progress_OUTCOME_FAILED)))
	l.must(1, policyCmd(1, "another"))
	if failures(l) != 0 {
		t.Error("the policy changed, and beta's failures still count")
	}
}

func TestServingTellsWhatTheEpochHolds(t *testing.T) {
	l := bornLog(t)
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
	foreign := progress("beta", 1, epoch, hadv1.Progress_OUTCOME_SERVING)
	l.must(1, deliverCmd(foreign))
	if c := l.state.View().Claim(epoch); c.GetProgress() != hadv1.Progress_OUTCOME_UNSPECIFIED {
		t.Errorf("beta's progress changed alpha's claim: %v", c)
	}
	own := progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_SERVING)
	own.GetProgress().Addresses = []*hadv1.HeldAddress{{Vip: "mail", Address: "192.0.2.11"}}
	own.GetProgress().PolicyVersion = 1
	l.must(1, deliverCmd(own))
	c := l.state.View().Claim(epoch)
	if c.GetProgress() != hadv1.Progress_OUTCOME_SERVING || len(c.GetAddresses()) != 1 || c.GetAddresses()[0].GetVip() != "mail" {
		t.Errorf("the claim after SERVING is %v", c)
	}
	if !proto.Equal(c.GetTerms(), terms(time.Second)) {
		t.Errorf("the terms changed within the epoch: %v", c.GetTerms())
	}
}

func TestMove(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	owned := func(t *testing.T) (*log, uint64) {
		l := bornLog(t)
		epoch := l.must(1, acquireCmd(alpha, 1))
		l.must(1, moveCmd("op-1", epoch, "beta"))
		return l, epoch
	}
	ended := func(l *log) string {
		events, _ := l.state.History(0)
		for _, e := range events {
			if m := e.GetMoveEnded(); m != nil {
				return m.GetWhy()
			}
		}
		return ""
	}

	t.Run("the target's Acquire completes it", func(t *testing.T) {
		l, epoch := owned(t)
		l.must(1, deliverCmd(released("alpha", 1, epoch)))
		cmd := acquireCmd(beta, 2)
		cmd.GetAcquire().MoveOperation = "op-1"
		l.must(2, cmd)
		if l.state.View().Move != nil || ended(l) != "" {
			t.Errorf("move %v, ended %q; want it completed in silence", l.state.View().Move, ended(l))
		}
	})
	t.Run("another Acquire ends it", func(t *testing.T) {
		l, epoch := owned(t)
		l.must(1, deliverCmd(released("alpha", 1, epoch)))
		l.must(2, acquireCmd(alpha, 2))
		if l.state.View().Move != nil || ended(l) != "alpha acquired instead" {
			t.Errorf("move %v, ended %q", l.state.View().Move, ended(l))
		}
	})
	t.Run("a retry is the same order", func(t *testing.T) {
		l, epoch := owned(t)
		before := encodeAt(t, l.state, 0)
		l.must(1, moveCmd("op-1", epoch, "beta"))
		if string(before) != string(encodeAt(t, l.state, 0)) {
			t.Error("the retry changed the state")
		}
	})
	t.Run("one at a time", func(t *testing.T) {
		l, epoch := owned(t)
		if why := l.refused(1, moveCmd("op-2", epoch, "beta")); !strings.Contains(why, "operation op-1") {
			t.Errorf("refused with %q, want the operation under way in it", why)
		}
		l.refused(1, moveEndCmd("op-2"))
		l.must(1, moveEndCmd("op-1"))
		if l.state.View().Move != nil || ended(l) != "it took too long" {
			t.Errorf("move %v, ended %q", l.state.View().Move, ended(l))
		}
	})
}

func TestReportsOfANewerVersionKeepTheirPlace(t *testing.T) {
	l := bornLog(t)
	l.must(1, deliverCmd(report("beta", 1))) // no body this version knows
	l.must(1, deliverCmd(hookResult("beta", 2, 0)))
	events, _ := l.state.History(2)
	if len(events) != 1 || events[0].GetHook().GetScript() != "beta-2" {
		t.Errorf("history after an unknown report: %v", events)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	l := bornLog(t)
	const reports = HistoryLimit + 25
	for seq := uint64(1); seq <= reports; seq++ {
		l.must(1, deliverCmd(hookResult("alpha", seq, 0)))
	}
	events, dropped := l.state.History(0)
	if len(events) != HistoryLimit || dropped != reports+2-HistoryLimit { // birth and policy went first
		t.Fatalf("%d events kept and %d dropped, want %d and %d", len(events), dropped, HistoryLimit, reports+2-HistoryLimit)
	}
	if last := events[len(events)-1].GetHook().GetScript(); last != fmt.Sprintf("alpha-%d", reports) {
		t.Errorf("the newest event is of %s", last)
	}
	for _, after := range []uint64{0, events[0].GetIndex(), l.index - 1, l.index, ^uint64(0)} {
		got, _ := l.state.History(after)
		want := slices.DeleteFunc(slices.Clone(events), func(e *hadv1.Event) bool { return e.GetIndex() <= after })
		if len(got) != len(want) {
			t.Errorf("History(%d) has %d events, want %d", after, len(got), len(want))
		}
	}
}
