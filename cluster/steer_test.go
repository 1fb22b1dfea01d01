package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

func freezeCmd(op string, d time.Duration) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Freeze{Freeze: &hadv1.Freeze{
		Operation: op, ForNs: int64(d), Until: timestamppb.New(time.Unix(1000, 0).Add(d)), By: "ann", Reason: "switch",
	}}}
}

func unfreezeCmd(index uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Unfreeze{Unfreeze: &hadv1.Unfreeze{Index: index, Expired: index != 0}}}
}

func drainCmd(node string) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{Node: node, By: "ann"}}}
}

func undrainCmd(node string) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Undrain{Undrain: &hadv1.Undrain{Node: node, By: "ann"}}}
}

func holdCmd(term, epoch uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Hold{Hold: &hadv1.Hold{Term: term, Epoch: epoch, Reason: "3 in 10m"}}}
}

func resumeCmd() *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{By: "ann"}}}
}

func checkChange(node string, seq, epoch uint64, failing bool) *hadv1.Report {
	r := report(node, seq)
	r.Body = &hadv1.Report_CheckChange{CheckChange: &hadv1.CheckChange{Check: "site", Failing: failing, Epoch: epoch, Times: 3, Detail: "HTTP 503"}}
	return r
}

func checkMoveCmd(op string, from uint64, target string) *hadv1.Command {
	cmd := moveCmd(op, from, target)
	cmd.GetMoveOrder().Checks = []string{"site"}
	return cmd
}

func TestFreezeIsEndedOnce(t *testing.T) {
	l := bornLog(t)
	l.refused(1, unfreezeCmd(0))
	l.refused(1, freezeCmd("a", 0))
	l.refused(1, freezeCmd("a", LongestFreeze+1))
	first := l.must(1, freezeCmd("a", time.Hour))
	l.must(1, freezeCmd("a", 2*time.Hour)) // a retry
	if f := l.state.View().Frozen; f.GetIndex() != first || f.GetFreeze().GetForNs() != int64(time.Hour) {
		t.Fatalf("after a retry %v is in force", f)
	}
	second := l.must(1, freezeCmd("b", time.Hour))
	if why := l.refused(1, unfreezeCmd(first)); !strings.Contains(why, "another one is in force") {
		t.Errorf("the first one's expiry: %s", why)
	}
	l.must(1, unfreezeCmd(second))
	if l.state.View().Frozen != nil {
		t.Error("it is still frozen")
	}
}

func TestFreezeTouchesNoLease(t *testing.T) {
	l := bornLog(t)
	alpha := instance("alpha", 1)
	epoch := l.must(1, acquireCmd(alpha, 1))
	before := l.state.View().Open
	l.must(1, freezeCmd("a", time.Hour))
	l.must(1, drainCmd("alpha"))
	if after := l.state.View().Open; len(after) != 1 || after[0] != before[0] {
		t.Fatalf("the claim is %v, was %v", after, before)
	}
	l.must(1, renewCmd(alpha, 1, epoch))
	l.refused(2, acquireCmd(instance("beta", 1), 2)) // it is as open as before
	l.must(2, acquireCmd(instance("beta", 1), 2, waited(epoch, l.index-1)))
}

func TestDrain(t *testing.T) {
	l := bornLog(t)
	l.refused(1, drainCmd("gamma")) // a witness
	l.refused(1, drainCmd("delta"))
	l.refused(1, undrainCmd("beta"))
	l.must(1, deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_VETOED)))
	l.must(1, drainCmd("beta"))
	events := len(l.state.history)
	l.must(1, drainCmd("beta"))
	if len(l.state.history) != events {
		t.Error("a second drain is in the history")
	}
	l.must(1, undrainCmd("beta"))
	if v := l.state.View(); len(v.Drained) != 0 || len(v.Nodes) != 0 {
		t.Errorf("drained %v, failed turns %v", v.Drained, v.Nodes)
	}
}

// A failing check is remembered when its node doesn't own any more, until
// something says that it was that node alone.
func TestFailingChecksAreRemembered(t *testing.T) {
	l := bornLog(t)
	says := func(want string) {
		t.Helper()
		got := ""
		for _, f := range l.state.View().FailingChecks {
			got += fmt.Sprintf("%s:%t ", f.GetNode(), f.GetPassedSince())
		}
		if got != want {
			t.Fatalf("entry %d: %q, want %q", l.index, got, want)
		}
	}
	a := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, deliverCmd(checkChange("alpha", 1, a, true)))
	says("alpha:false ")
	l.must(1, checkMoveCmd("op", a, "beta"))
	l.must(1, deliverCmd(released("alpha", 2, a)))
	move := acquireCmd(instance("beta", 1), 2)
	move.GetAcquire().MoveOperation = "op"
	b := l.must(2, move)
	if f := l.state.View().Failovers; len(f) != 1 || f[0].GetNode() != "alpha" {
		t.Fatalf("counted were %v", f)
	}
	l.must(2, deliverCmd(checkChange("alpha", 3, a, false))) // too late to say anything about others
	says("")
	l.must(2, deliverCmd(checkChange("alpha", 4, 0, true)))
	l.must(2, deliverCmd(checkChange("beta", 1, b, true)))
	says("alpha:false beta:false ")
	l.must(2, deliverCmd(checkChange("beta", 2, b, false)))
	says("alpha:true ")
	l.must(2, policyCmd(1, "x"))
	says("")
}

func TestOnlyChecksAndScriptsCount(t *testing.T) {
	l := bornLog(t)
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, deliverCmd(progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_FAILED))) // a mount
	failed := progress("alpha", 2, epoch, hadv1.Progress_OUTCOME_FAILED)
	failed.GetProgress().Steps = []*hadv1.Step{{Name: "test"}, {Name: "pre_acq", Error: "exit code 1"}}
	l.must(1, deliverCmd(failed, released("alpha", 3, epoch)))
	if f := l.state.View().Failovers; len(f) != 1 || f[0].GetCause() != "exit code 1" {
		t.Fatalf("counted were %v", f)
	}
	epoch = l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.must(1, moveCmd("op", epoch, "beta"))
	l.must(2, acquireCmd(instance("beta", 1), 2, waited(epoch, epoch))) // it fell silent on the way
	if f := l.state.View().Failovers; len(f) != 1 {
		t.Errorf("counted were %v", f)
	}
	for range failoversKept + 5 {
		l.state.countFailover(&hadv1.Failover{})
	}
	if n := len(l.state.failovers); n != failoversKept {
		t.Errorf("%d are kept", n)
	}
}

func TestHoldAndResume(t *testing.T) {
	l := bornLog(t)
	l.refused(1, resumeCmd())
	l.refused(1, holdCmd(1, 3))
	epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
	l.refused(1, holdCmd(2, epoch))
	l.must(1, holdCmd(1, epoch))
	l.state.countFailover(&hadv1.Failover{})
	// A dead owner is succeeded, and the hold stays.
	l.must(2, acquireCmd(instance("beta", 1), 2, waited(epoch, epoch)))
	if l.state.View().Held == nil {
		t.Error("the hold went with its epoch")
	}
	l.must(2, resumeCmd())
	if v := l.state.View(); v.Held != nil || len(v.Failovers) != 0 {
		t.Errorf("held %v, counted %v", v.Held, v.Failovers)
	}
}

// A move for checks forgives its target nothing; a person's does.
func TestMoveForChecksForgivesNothing(t *testing.T) {
	for _, order := range []func(op string, from uint64, target string) *hadv1.Command{moveCmd, checkMoveCmd} {
		l := bornLog(t)
		epoch := l.must(1, acquireCmd(instance("alpha", 1), 1))
		l.must(1, deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_VETOED), checkChange("beta", 2, 0, true)))
		cmd := order("op", epoch, "beta")
		l.must(1, cmd)
		v := l.state.View()
		if kept := len(cmd.GetMoveOrder().GetChecks()); len(v.Nodes) != kept || len(v.FailingChecks) != kept {
			t.Errorf("%v: failed turns %v, failing checks %v", cmd, v.Nodes, v.FailingChecks)
		}
	}
}

// steer draws what operators and limits say. The model doesn't know it: it
// changes nothing of what is open.
func (g *generator) steer(m *model) *hadv1.Command {
	switch g.r.IntN(9) {
	case 0:
		return freezeCmd(fmt.Sprint(g.r.IntN(20)), time.Duration(g.r.IntN(3))*time.Hour)
	case 1:
		return unfreezeCmd(uint64(g.r.IntN(2)))
	case 2:
		return drainCmd(g.node())
	case 3, 7, 8: // or nobody would be left to move to
		return undrainCmd(g.node())
	case 4:
		return holdCmd(g.near(g.term), g.near(m.newest()))
	case 5:
		return checkMoveCmd(fmt.Sprintf("checks-%d", m.lastEpoch), g.near(m.newest()), g.node())
	}
	return resumeCmd()
}
