package cluster

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

func claimCmd(term uint64, channel string, after, through uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_NotifyClaim{NotifyClaim: &hadv1.NotifyClaim{
		Term: term, Channel: channel, After: after, Through: through, Instance: instance("alpha", 1),
	}}}
}

// nothingCmd moves a channel past what is none of its business.
func nothingCmd(term uint64, channel string, after, through uint64) *hadv1.Command {
	cmd := claimCmd(term, channel, after, through)
	cmd.GetNotifyClaim().Nothing = true
	return cmd
}

func markCmd(channel string, claim uint64, outcome hadv1.NotifyMark_Outcome) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_NotifyMark{NotifyMark: &hadv1.NotifyMark{
		Channel: channel, Claim: claim, Outcome: outcome, Events: 1, By: "alpha", Term: 1,
	}}}
}

const (
	sent   = hadv1.NotifyMark_OUTCOME_SENT
	gaveUp = hadv1.NotifyMark_OUTCOME_GAVE_UP
	closed = hadv1.NotifyMark_OUTCOME_CLOSED
)

func TestAMessageIsClaimedAndSettledOnce(t *testing.T) {
	l := bornLog(t)
	claim := l.must(1, claimCmd(1, "email.ops", 1, 2))
	c := l.state.View().Channel("email.ops")
	if c.GetSent() != 1 || c.GetClaimIndex() != claim || c.GetClaim().GetThrough() != 2 || c.GetClaimedAt() == nil {
		t.Errorf("a claimed channel is %v", c)
	}
	l.refused(2, claimCmd(2, "email.ops", 1, 3)) // the next leader sends the same message
	shown := proto.CloneOf(c)
	l.must(2, markCmd("email.ops", claim, sent))
	if !proto.Equal(shown, c) {
		t.Error("what a View has shown was changed")
	}
	l.refused(2, markCmd("email.ops", claim, sent)) // the old leader's mark, late
	c = l.state.View().Channel("email.ops")
	if c.GetSent() != 2 || c.GetClaim() != nil || len(c.GetRecent()) != 1 {
		t.Errorf("a settled channel is %v", c)
	}
	again := l.must(2, claimCmd(2, "email.ops", 2, 5))
	l.refused(2, markCmd("email.ops", claim, gaveUp)) // about the earlier message
	l.must(2, markCmd("email.ops", again, gaveUp))
	for range 2 * NotifyRecent {
		c = l.state.View().Channel("email.ops")
		next := l.must(3, claimCmd(3, "email.ops", c.GetSent(), l.index))
		l.must(3, markCmd("email.ops", next, sent))
	}
	if c = l.state.View().Channel("email.ops"); len(c.GetRecent()) != NotifyRecent {
		t.Errorf("%d times are kept", len(c.GetRecent()))
	}
	events, _ := l.state.History(0)
	marks := 0
	for _, e := range events {
		if e.GetNotified() != nil && e.GetNode() == "alpha" {
			marks++
		}
	}
	if marks != 2+2*NotifyRecent {
		t.Errorf("the history has %d marks", marks)
	}
}

func TestChannelsComeAndGo(t *testing.T) {
	l := bornLog(t)
	l.must(1, nothingCmd(1, "exec.log", 1, 1)) // it begins here
	l.must(1, nothingCmd(1, "exec.log", 1, 2)) // and passes over what doesn't concern it
	l.must(1, claimCmd(1, "email.ops", 1, 2))
	if v := l.state.View(); len(v.Notify) != 2 || v.Channel("exec.log").GetSent() != 2 || v.Channel("webhook.chat") != nil {
		t.Errorf("the channels are %v", v.Notify)
	}
	l.refused(2, markCmd("exec.log", 0, closed)) // of an earlier term
	l.must(1, markCmd("email.ops", 0, closed))
	l.refused(1, markCmd("email.ops", 0, closed))
	if v := l.state.View(); len(v.Notify) != 1 || v.Channel("email.ops") != nil {
		t.Errorf("the channels are %v", v.Notify)
	}
	for i := range MaxChannels - 1 {
		l.must(1, nothingCmd(1, fmt.Sprintf("exec.n%d", i), 1, 1))
	}
	l.refused(1, nothingCmd(1, "exec.more", 1, 1))
}

func TestWhatIsWrongWithAClaim(t *testing.T) {
	cases := []struct {
		name string
		cmd  *hadv1.Command
		why  string
	}{
		{"of another term", claimCmd(1, "email.ops", 1, 2), "proposed in term 1 and logged in term 2"},
		{"from where the channel isn't", claimCmd(2, "exec.log", 1, 3), "stands at entry 2, not 1"},
		{"of nothing", claimCmd(2, "exec.log", 2, 2), "nothing lies between"},
		{"backwards", nothingCmd(2, "exec.log", 2, 1), "nothing lies between"},
		{"of what is to come", claimCmd(2, "exec.log", 2, 100), "not in the log yet"},
		{"without a name", claimCmd(2, "", 1, 2), "can't be a channel's name"},
		{"with a name that changes a terminal", claimCmd(2, "exec.\x1b", 1, 2), "can't be a channel's name"},
		{"with a name of a page", claimCmd(2, strings.Repeat("x", 200), 1, 2), "can't be a channel's name"},
		{"a mark of no channel", markCmd("email.ops", 1, sent), `there is no channel "email.ops"`},
		{"a mark of no claim", markCmd("exec.log", 0, sent), "with the claim 0"},
		{"a mark of a newer version", markCmd("exec.log", 0, 17), "doesn't know the outcome"},
	}
	stranger := claimCmd(2, "exec.log", 2, 3)
	stranger.GetNotifyClaim().Instance.NodeId = "id-of-new-hardware"
	cases = append(cases, struct {
		name string
		cmd  *hadv1.Command
		why  string
	}{"of a wiped node", stranger, "not a member"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := bornLog(t)
			l.must(1, nothingCmd(1, "exec.log", 1, 2))
			if why := l.refused(2, c.cmd); !strings.Contains(why, c.why) {
				t.Errorf("refused with %q, want %q in it", why, c.why)
			}
		})
	}
}

// What leaves the history before a channel has told it is counted, apart for
// the message under way and for the next one.
func TestWhatTheBoundCutsOffIsCounted(t *testing.T) {
	l := bornLog(t) // events at 1 and 2
	l.must(1, nothingCmd(1, "exec.done", 1, 2))
	l.must(1, claimCmd(1, "email.ops", 1, 2))
	l.must(1, nothingCmd(1, "exec.slow", 1, 1))
	for l.index < HistoryLimit+5 {
		l.must(1, deliverCmd(hookResult("alpha", l.index-4, 3)))
	}
	// 2002 events, of which 1 and 2 have gone: the birth, which all have passed,
	// and the policy.
	_, dropped := l.state.History(0)
	v := l.state.View()
	if done, claimed, slow := v.Channel("exec.done"), v.Channel("email.ops"), v.Channel("exec.slow"); dropped != 2 ||
		done.GetCut() != 0 || claimed.GetCut() != 0 || claimed.GetCutClaimed() != 1 || slow.GetCut() != 1 || slow.GetCutClaimed() != 0 {
		t.Fatalf("%d are gone, and the channels say %v", dropped, v.Notify)
	}
	l.must(1, deliverCmd(hookResult("alpha", l.index-4, 3)))
	c := l.state.View().Channel("email.ops")
	if c.GetCutClaimed() != 1 || c.GetCut() != 1 {
		t.Errorf("an event after the message under way has gone, and the channel says %v", c)
	}
	l.must(1, markCmd("email.ops", c.GetClaimIndex(), sent)) // an event itself
	if c = l.state.View().Channel("email.ops"); c.GetCutClaimed() != 0 || c.GetCut() != 2 {
		t.Errorf("after the message the channel says %v", c)
	}
	l.must(1, claimCmd(1, "email.ops", 2, l.index))
	if c = l.state.View().Channel("email.ops"); c.GetCutClaimed() != 2 || c.GetCut() != 0 {
		t.Errorf("the next message takes over what is missing: %v", c)
	}
}

func TestANoticeIsToldAndChangesNothing(t *testing.T) {
	l := bornLog(t)
	before := l.state.View()
	r := report("beta", 1)
	r.Body = &hadv1.Report_Notice{Notice: &hadv1.Notice{Kind: hadv1.Notice_KIND_SILENT, Node: "alpha", Detail: "it doesn't answer"}}
	at := l.must(1, deliverCmd(r))
	events, _ := l.state.History(at - 1)
	if len(events) != 1 || events[0].GetNode() != "beta" || events[0].GetNotice().GetNode() != "alpha" {
		t.Errorf("the notice is told as %v", events)
	}
	if after := l.state.View(); len(after.Open) != len(before.Open) || len(after.Nodes) != 0 {
		t.Errorf("a notice changed the state: %+v", after)
	}
}
