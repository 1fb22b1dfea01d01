package cluster

import (
	"fmt"
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
)

func memberOf(name string) *hadv1.Member {
	return &hadv1.Member{Name: name, Address: name + ".example:7400", NodeId: "id-" + name}
}

func addCmd(m *hadv1.Member) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_MemberAdd{MemberAdd: &hadv1.MemberAdd{Member: m, By: "root"}}}
}

func removeCmd(name string, two bool) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_MemberRemove{MemberRemove: &hadv1.MemberRemove{Name: name, NodeId: "id-" + name, TwoVoters: two}}}
}

func settleCmd(term uint64, name string, since uint64, gone bool) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_MemberSettle{MemberSettle: &hadv1.MemberSettle{Term: term, NodeId: "id-" + name, Name: name, Since: since, Gone: gone}}}
}

// added has a node added and settled.
func (l *log) added(m *hadv1.Member) {
	l.t.Helper()
	at := l.must(1, addCmd(m))
	l.must(1, settleCmd(1, m.GetName(), at, false))
}

func names(r *hadv1.Roster) (out []string) {
	for _, m := range r.GetMembers() {
		out = append(out, m.GetName())
	}
	return out
}

func TestMemberIsAdded(t *testing.T) {
	l := bornLog(t)
	at := l.must(1, addCmd(memberOf("delta")))
	delta := memberWith(l.state.View().Roster, "id-delta")
	if delta.GetStanding() != hadv1.Member_STANDING_JOINING || delta.GetSince() != at || l.state.View().Roster.GetIndex() != at {
		t.Fatalf("it is %v", delta)
	}
	if why := l.refused(1, acquireCmd(instance("delta", 1), 1)); !strings.Contains(why, "joining") {
		t.Errorf("it owns before it votes: %s", why)
	}
	l.must(1, addCmd(memberOf("delta"))) // a retry
	if l.refused(1, settleCmd(2, "delta", at, false)) == "" || l.refused(1, settleCmd(1, "delta", at-1, false)) == "" || l.refused(1, settleCmd(1, "delta", at, true)) == "" {
		t.Error("the word of another term, about another change")
	}
	l.must(1, settleCmd(1, "delta", at, false))
	if !Settled(memberWith(l.state.View().Roster, "id-delta")) {
		t.Error("it has no vote")
	}
	l.must(1, acquireCmd(instance("delta", 1), 1))
	again, err := DecodeState(encode(t, l.state))
	if err != nil || fmt.Sprint(names(again.View().Roster)) != "[alpha beta gamma delta]" {
		t.Errorf("a snapshot has %v, %v", names(again.View().Roster), err)
	}
}

func TestWhoCantBeAdded(t *testing.T) {
	l := bornLog(t)
	with := func(name string, f func(m *hadv1.Member)) *hadv1.Member {
		m := memberOf(name)
		f(m)
		return m
	}
	for want, m := range map[string]*hadv1.Member{
		"needs a name":               with("delta", func(m *hadv1.Member) { m.NodeId = "" }),
		"BETA":                       with("BETA", func(m *hadv1.Member) { m.NodeId = "id-other" }),
		"hactl node remove beta":     with("beta", func(m *hadv1.Member) { m.NodeId = "id-other" }),
		"is that of beta":            with("delta", func(m *hadv1.Member) { m.NodeId = "id-beta" }),
		"has the address":            with("delta", func(m *hadv1.Member) { m.Address = "10.0.0.12:7400" }),
		"never comes back":           with("delta", func(m *hadv1.Member) { m.NodeId = "id-gone" }),
		"more than 7 are not":        with("h", func(*hadv1.Member) {}),
		"birth of the cluster isn't": nil,
	} {
		switch want {
		case "BETA":
			want = "is a member already"
		case "never comes back":
			l.added(memberOf("gone"))
			at := l.must(1, removeCmd("gone", false))
			l.must(1, settleCmd(1, "gone", at, true))
		case "more than 7 are not":
			full := bornLog(t)
			for _, n := range []string{"d", "de", "def", "defg"} {
				full.added(memberOf(n))
			}
			if why := full.refused(1, addCmd(memberOf("h-is-too-many"))); !strings.Contains(why, want) {
				t.Errorf("%s; want %s", why, want)
			}
			continue
		case "birth of the cluster isn't":
			if why := newLog(t).refused(1, addCmd(memberOf("delta"))); !strings.Contains(why, want) {
				t.Errorf("%s; want %s", why, want)
			}
			continue
		}
		if why := l.refused(1, addCmd(m)); !strings.Contains(why, want) {
			t.Errorf("%v: %s; want %s", m, why, want)
		}
	}
}

func TestOwnerIsNotRemoved(t *testing.T) {
	l := bornLog(t)
	l.added(memberOf("delta"))
	epoch := l.must(1, acquireCmd(instance("beta", 1), 1))
	if why := l.refused(1, removeCmd("beta", false)); !strings.Contains(why, "hactl move first") {
		t.Errorf("removed: %s", why)
	}
	// It is dead, and succeeded beside an epoch whose evidence isn't in.
	l.must(1, moveCmd("m", epoch, "alpha"))
	if why := l.refused(1, removeCmd("alpha", false)); !strings.Contains(why, "a move to alpha") {
		t.Errorf("removed: %s", why)
	}
	next := acquireCmd(instance("alpha", 1), 2, &hadv1.Evidence{Epoch: epoch, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	next.GetAcquire().MoveOperation = "m"
	l.must(2, next)
	if why := l.refused(2, removeCmd("beta", false)); !strings.Contains(why, "still open") {
		t.Errorf("removed with an open epoch: %s", why)
	}
	l.must(2, deliverCmd(released("beta", 1, epoch)))
	at := l.must(2, removeCmd("beta", false))
	if why := l.refused(2, acquireCmd(instance("beta", 2), 2)); !strings.Contains(why, "leaving") {
		t.Errorf("it may own while it leaves: %s", why)
	}
	l.must(2, settleCmd(2, "beta", at, true))
	for what, cmd := range map[string]*hadv1.Command{
		"acquires": acquireCmd(instance("beta", 2), 2),
		"reports":  deliverCmd(hookResult("beta", 2, epoch)),
		"moves":    moveCmd("n", l.state.lastEpoch, "beta"),
	} {
		if why := l.refused(2, cmd); !strings.Contains(why, "not a member") && !strings.Contains(why, "not a node") {
			t.Errorf("it %s after its removal: %s", what, why)
		}
	}
	// The same name is another node.
	other := memberOf("beta")
	other.NodeId = "id-beta2"
	l.must(2, addCmd(other))
	if why := l.refused(2, deliverCmd(hookResult("beta", 2, epoch))); !strings.Contains(why, "not a member") {
		t.Errorf("the old folder speaks for the new node: %s", why)
	}
}

func TestWhatANameLeavesBehind(t *testing.T) {
	l := bornLog(t)
	l.added(memberOf("delta"))
	l.must(1, &hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{Node: "delta"}}})
	l.must(1, deliverCmd(progress("delta", 1, 0, hadv1.Progress_OUTCOME_FAILED)))
	at := l.must(1, removeCmd("delta", false))
	l.must(1, settleCmd(1, "delta", at, true))
	v := l.state.View()
	if v.Drained["delta"] != nil || v.Nodes["delta"] != nil || len(v.Roster.GetDeparted()) != 1 {
		t.Errorf("of delta is left: %v, %v, %v", v.Drained, v.Nodes, v.Roster.GetDeparted())
	}
}

func TestTooFewAreLeft(t *testing.T) {
	l := bornLog(t)
	if why := l.refused(1, removeCmd("gamma", false)); !strings.Contains(why, "two voters") {
		t.Errorf("two are left: %s", why)
	}
	at := l.must(1, removeCmd("gamma", true))
	if why := l.refused(1, removeCmd("beta", true)); !strings.Contains(why, "one change at a time") {
		t.Errorf("two at a time: %s", why)
	}
	l.must(1, settleCmd(1, "gamma", at, true))
	at = l.must(1, removeCmd("beta", false)) // one is enough for itself
	l.must(1, settleCmd(1, "beta", at, true))
	if why := l.refused(1, removeCmd("alpha", true)); !strings.Contains(why, "no node is left") {
		t.Errorf("nobody is left: %s", why)
	}
}

// A node that is being added can be taken back, whatever the others are.
func TestAddIsTakenBack(t *testing.T) {
	l := bornLog(t)
	joined := l.must(1, addCmd(memberOf("delta")))
	at := l.must(1, removeCmd("delta", false))
	if why := l.refused(1, settleCmd(1, "delta", joined, false)); why == "" {
		t.Error("it got a vote all the same")
	}
	if why := l.refused(1, addCmd(memberOf("delta"))); !strings.Contains(why, "being removed") {
		t.Errorf("added while it leaves: %s", why)
	}
	l.must(1, settleCmd(1, "delta", at, true))
	if got := names(l.state.View().Roster); fmt.Sprint(got) != "[alpha beta gamma]" {
		t.Errorf("the members are %v", got)
	}
}
