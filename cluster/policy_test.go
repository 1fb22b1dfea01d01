package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

func trialCmd(expected uint64, text string, within time.Duration) *hadv1.Command {
	cmd := policyCmd(expected, text)
	cmd.GetPolicyApply().ConfirmWithinNs = int64(within)
	cmd.GetPolicyApply().ConfirmUntil = timestamppb.New(time.Unix(1000, 0).Add(within))
	return cmd
}

func confirmCmd(version uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_PolicyConfirm{PolicyConfirm: &hadv1.PolicyConfirm{Version: version, By: "ann"}}}
}

func undoCmd(version uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_PolicyUndo{PolicyUndo: &hadv1.PolicyUndo{Version: version, Reason: "nobody has confirmed it"}}}
}

func rollbackCmd(expected, of uint64, text string) *hadv1.Command {
	cmd := policyCmd(expected, text)
	cmd.GetPolicyApply().Kind, cmd.GetPolicyApply().OfVersion = hadv1.PolicyApply_KIND_ROLLBACK, of
	return cmd
}

// wantPolicy compares what is in force.
func (l *log) wantPolicy(version uint64, text string, trial bool) {
	l.t.Helper()
	v := restored(l.t, l.state).View() // a snapshot knows as much
	if v.Policy.GetVersion() != version || v.Policy.GetText() != text || (v.Trial != nil) != trial || trial && v.Trial.GetVersion() != version {
		l.t.Errorf("version %d (%s), trial %v; want version %d (%s), trial %v", v.Policy.GetVersion(), v.Policy.GetText(), v.Trial, version, text, trial)
	}
}

// A trial ends once: by a person, by time or by a rollback. Until then nothing else
// is applied.
func TestAPolicyOnTrial(t *testing.T) {
	l := newLog(t)
	l.must(1, birthCmd(testBirth()))
	l.must(1, riseCmd(1, 2, reads(2, 2, 2)...))
	if why := l.refused(1, trialCmd(0, "one", time.Minute)); !strings.Contains(why, "no policy yet that could come back") {
		t.Error(why)
	}
	l.must(1, policyCmd(0, "one"))
	for _, d := range []time.Duration{-time.Second, LongestTrial + 1} {
		l.refused(1, trialCmd(1, "two", d))
	}
	forged := policyCmd(1, "two")
	forged.GetPolicyApply().Kind = hadv1.PolicyApply_KIND_UNDO
	l.refused(1, forged)
	l.refused(1, undoCmd(1))
	l.refused(1, confirmCmd(1))

	l.must(1, trialCmd(1, "two", time.Minute))
	l.wantPolicy(2, "two", true)
	if why := l.refused(1, policyCmd(2, "three")); !strings.Contains(why, "hactl policy confirm keeps it, hactl policy rollback undoes it") {
		t.Error(why)
	}
	l.refused(1, trialCmd(2, "three", time.Minute))
	l.refused(1, confirmCmd(1))
	l.refused(1, undoCmd(1))
	l.must(1, confirmCmd(2))
	l.must(1, confirmCmd(2)) // a retry
	l.wantPolicy(2, "two", false)
	l.refused(1, undoCmd(2))

	l.must(1, trialCmd(2, "three", time.Minute))
	l.must(2, undoCmd(3))
	l.wantPolicy(4, "two", false)
	l.refused(3, undoCmd(3)) // another leader has proposed it, too
	l.refused(3, confirmCmd(3))
	if p := l.state.View().Policy; p.GetKind() != hadv1.PolicyApply_KIND_UNDO || p.GetOfVersion() != 2 {
		t.Errorf("it says %v", p)
	}

	l.must(3, trialCmd(4, "five", time.Minute))
	again := rollbackCmd(5, 1, "one")
	again.GetPolicyApply().ConfirmWithinNs, again.GetPolicyApply().ConfirmUntil = int64(time.Minute), timestamppb.New(time.Unix(1000, 0))
	if why := l.refused(3, again); !strings.Contains(why, "nothing goes back to it") {
		t.Error(why)
	}
	l.must(3, rollbackCmd(5, 1, "one"))
	l.wantPolicy(6, "one", false)
	l.refused(3, undoCmd(5))

	events, _ := l.state.History(0)
	for _, e := range events {
		if e.GetPolicyApplied().GetText() != "" {
			t.Errorf("the history has a text, which the bounds of policies don't know of: %v", e)
		}
	}
}

// Whoever applies to a version that isn't in force any more is refused, whatever
// became of it.
func TestTwoAppliesFromOneVersion(t *testing.T) {
	for name, first := range map[string]*hadv1.Command{
		"an apply": policyCmd(1, "mine"), "a trial": trialCmd(1, "mine", time.Minute), "a rollback": rollbackCmd(1, 1, "mine"),
	} {
		l := bornLog(t)
		l.must(1, first)
		if why := l.refused(1, policyCmd(1, "theirs")); !strings.Contains(why, "at version 2, not 1") {
			t.Errorf("after %s: %s", name, why)
		}
		l.wantPolicy(2, "mine", name == "a trial")
	}
}

func TestEarlierPoliciesAreBounded(t *testing.T) {
	l := newLog(t)
	l.must(1, birthCmd(testBirth()))
	for i := range uint64(EarlierPolicies + 10) {
		l.must(1, policyCmd(i, fmt.Sprintf("policy %d", i+1)))
	}
	v := l.state.View()
	if n := len(v.EarlierPolicies); n != EarlierPolicies || v.EarlierPolicies[0].GetVersion() != 10 || v.PolicyVersion(9) != nil {
		t.Errorf("%d are kept, from version %d on", n, v.EarlierPolicies[0].GetVersion())
	}
	if p := v.PolicyVersion(59); p.GetText() != "policy 59" || v.PolicyVersion(60).GetText() != "policy 60" || v.PolicyVersion(0) != nil {
		t.Errorf("version 59 is %v", p)
	}
	// Large ones lose their texts, the oldest first, and never the last.
	big := strings.Repeat("x", earlierTexts*2/3)
	for i := range uint64(3) {
		l.must(1, policyCmd(60+i, fmt.Sprint(i)+big))
	}
	v = l.state.View()
	if v.PolicyVersion(62).GetText() == "" || v.PolicyVersion(61).GetText() != "" || v.PolicyVersion(59).GetText() != "" || v.PolicyVersion(61).GetSize() == 0 {
		t.Error("the texts that are kept are not the latest that have room")
	}
	l.must(1, trialCmd(63, "small", time.Minute))
	l.must(1, undoCmd(64))
	l.wantPolicy(65, "2"+big, false)
}
