package failover

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/check"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// What people, checks and limits have said is told, each with what ends it.
func TestWhyNotByWhatSteers(t *testing.T) {
	frozen := &hadv1.Frozen{Freeze: &hadv1.Freeze{By: "root on alpha", Until: timestamppb.New(time.Unix(0, 0)), Reason: "a switch"}}
	nobody := func(h *hearing) { h.in.View.Open, h.in.Holding = nil, Holding{} }
	says := func(h *hearing, about, advice, reason string, checks ...*hadv1.CheckStatus) {
		var why reasons
		why.add(about, advice, "%s", reason)
		sick := &hadv1.HealthResponse{AppliedIndex: 100, PolicyVersion: 3, Version: "1", HooksDigest: "same", Blockers: why, Reasons: why.texts(), Checks: checks}
		h.status.Peers["beta"] = PeerHealth{At: h.in.Now.Add(-time.Second), Health: sick}
	}
	failed := func(passed bool) []*hadv1.FailingCheck {
		return []*hadv1.FailingCheck{{Node: "beta", PassedSince: passed, Change: &hadv1.CheckChange{Check: "site", Failing: true, Epoch: 3, Detail: "HTTP 503"}}}
	}
	const fail, warn, ok = hadv1.Finding_LEVEL_FAIL, hadv1.Finding_LEVEL_WARN, hadv1.Finding_LEVEL_OK
	for name, c := range map[string]struct {
		change                func(h *hearing)
		level                 hadv1.Finding_Level
		check, detail, advice string
	}{
		"frozen, and alpha owns": {func(h *hearing) {
			h.in.View.Frozen, h.in.View.LastOwner = frozen, "alpha"
		}, warn, "freeze", "frozen by root on alpha until 1970-01-01 00:00:00 UTC: a switch. It may take over by hactl move alone", "hactl unfreeze"},
		"frozen, and nobody owns": {func(h *hearing) {
			nobody(h)
			h.in.View.Frozen, h.in.View.LastOwner = frozen, "alpha"
		}, fail, "freeze", "frozen by root on alpha until 1970-01-01 00:00:00 UTC: a switch. Only alpha, the last owner, may own", "hactl unfreeze"},
		"frozen, and it was the last owner": {func(h *hearing) {
			nobody(h)
			h.in.View.Frozen, h.in.View.LastOwner = frozen, "beta"
		}, warn, "freeze", "frozen by root on alpha until 1970-01-01 00:00:00 UTC: a switch. It was the last owner, so it may own all the same", "hactl unfreeze"},
		"held": {func(h *hearing) {
			h.in.View.Held = &hadv1.Held{Hold: &hadv1.Hold{Reason: "the limit is reached"}}
		}, warn, "limits", "held: the limit is reached", "mend what fails, then: hactl resume"},
		"at the limits": {func(h *hearing) { h.in.Flapping = "the limit of 3 failovers within 10m is reached" }, warn, "limits", "the limit of 3 failovers within 10m is reached: for now checks and scripts change the owner no more", "hactl history shows the failovers"},
		"drained": {func(h *hearing) {
			h.in.View.Drained = map[string]*hadv1.Drain{"beta": {Node: "beta", By: "root on alpha", Reason: "new disk"}}
			says(h, aboutDrain, "hactl undrain beta", "drained by root on alpha: new disk")
		}, fail, "drain", "drained by root on alpha: new disk", "hactl undrain beta"},
		"a check that failed there":     {func(h *hearing) { h.in.View.FailingChecks = failed(false) }, warn, "check", "check site failed on it when it last ran there (HTTP 503), so nodes on which fewer fail come first", "mend what it looks at on beta; hactl move --to beta tries it"},
		"a check that passes elsewhere": {func(h *hearing) { h.in.View.FailingChecks = failed(true) }, ok, "check", "check site failed on it when it last ran there (HTTP 503), and has passed on a later owner since", ""},
		"a check that fails": {func(h *hearing) {
			h.in.View.FailingChecks = failed(false)
			says(h, aboutCheck, "mend it", "check site failed 3 times: HTTP 503", &hadv1.CheckStatus{Name: "site", State: hadv1.CheckStatus_STATE_FAILING})
		}, fail, "check", "check site failed 3 times: HTTP 503", "mend it"},
		// The words of a sentence say nothing about what it is about.
		"what it is about": {func(h *hearing) { says(h, aboutScripts, "", "check the token key of sync docs") }, fail, "scripts", "check the token key of sync docs", ""},
		"it declined":      {func(h *hearing) { h.in.Declined = map[string]string{"beta": "Test exited with 1"} }, warn, "asked", "it was asked to take over, and could not: Test exited with 1", "it is asked again after a while"},
	} {
		t.Run(name, func(t *testing.T) {
			h := aHearing(t)
			c.change(h)
			r := h.hold()
			told := 0
			for _, f := range r.GetFindings() {
				if f.GetLevel() == c.level && f.GetCheck() == c.check && f.GetDetail() == c.detail && f.GetAdvice() == c.advice {
					told++
				} else if f.GetLevel() != ok {
					t.Errorf("it is also told that %v", f)
				}
			}
			if told != 1 || r.GetCould() != (c.level != fail) {
				t.Errorf("told %d times, could %t: %v", told, r.GetCould(), r.GetFindings())
			}
		})
	}
}

// An owner that would rather not own says what becomes of that.
func TestWhyAnOwnerStaysThatWouldLeave(t *testing.T) {
	failing := []check.Result{{Check: policy.Check{Name: "site", Failures: 3}, State: check.Failing, Detail: "HTTP 503"}}
	const fails = "alpha owns although check site failed 3 times: HTTP 503; "
	for name, c := range map[string]struct {
		change func(h *hearing)
		want   string
	}{
		"a check": {func(h *hearing) { h.in.Failing = failing }, fails + "it hands over to beta now"},
		"a check, and it declined": {func(h *hearing) {
			h.in.Failing, h.in.Declined = failing, map[string]string{"beta": "no", "gamma": "no"}
		}, fails + "it hands over as soon as a node that is better can take over"},
		"a check at the limits": {func(h *hearing) { h.in.Failing, h.in.Flapping = failing, "the limit is reached" }, fails + "it keeps it, because the limit is reached"},
		"a check in a hold": {func(h *hearing) {
			h.in.Failing, h.in.View.Held = failing, &hadv1.Held{Hold: &hadv1.Hold{Reason: "the limit is reached"}}
		}, fails + "it keeps it until hactl resume, because the limit is reached"},
		"a drain": {func(h *hearing) {
			h.in.View.Drained = map[string]*hadv1.Drain{"alpha": {By: "ann"}}
		}, "alpha owns although it is drained by ann; it hands over to beta now"},
		"a failback": {func(h *hearing) { h.status.Failback = "failback to beta in 5m" }, "alpha owns and is well, and by the policy it gives it back: failback to beta in 5m. If alpha failed now, beta would be first: the policy prefers alpha, then beta"},
		"a freeze": {func(h *hearing) {
			h.in.View.Frozen = &hadv1.Frozen{Freeze: &hadv1.Freeze{By: "ann", Until: timestamppb.New(time.Unix(0, 0))}}
		}, "Ownership is frozen by ann until 1970-01-01 00:00:00 UTC: if alpha failed now, nobody would take over before that"},
	} {
		t.Run(name, func(t *testing.T) {
			h := aHearing(t)
			c.change(h)
			if r := h.hold(); !strings.HasSuffix(r.GetStays(), c.want) {
				t.Errorf("it stays because: %s", r.GetStays())
			}
		})
	}
}
