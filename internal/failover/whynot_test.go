package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// aHearing is alpha's, which owns and is well, about beta, which could.
func aHearing(t *testing.T) *hearing {
	t.Helper()
	p, diags := policy.ParsePolicy("policy.hcl", []byte(`prefer = ["alpha", "beta"]
vip "web" { address = "192.0.2.10" }`))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	alpha := &hadv1.Instance{Node: "alpha", NodeId: "a"}
	well := &hadv1.HealthResponse{Eligible: true, AppliedIndex: 100, PolicyVersion: 3, Version: "1", HooksDigest: "same"}
	now := clock.Instant(time.Hour)
	return &hearing{
		node: "beta", member: &hadv1.Member{Name: "beta", Address: "10.0.0.12:7400"}, own: well,
		in: Inputs{
			Now: now, Instance: alpha, Policy: p, Leadership: cluster.Leadership{Leading: true, Ready: true},
			View: cluster.View{
				Applied: 101, Policy: &hadv1.Policy{Version: 3, Index: 90}, LastEpoch: 7,
				Open: []*hadv1.Claim{{Epoch: 7, Instance: alpha, Terms: &hadv1.Terms{TtlNs: int64(time.Second)}}},
			},
			Holding: Holding{Epoch: 7, Phase: PhaseServing},
			Peers:   map[string]Peer{"beta": {Fresh: true, Eligible: true}, "gamma": {Fresh: true, Eligible: true}},
		},
		status: Status{Answers: Answers{
			Peers: map[string]PeerHealth{"beta": {At: now.Add(-time.Second), Health: well}},
			Fresh: map[string]bool{"beta": true},
		}},
	}
}

func TestWhyNotANodeThatCould(t *testing.T) {
	r := aHearing(t).hold()
	if !r.GetCould() || r.GetOwns() || r.GetOwner() != "alpha" || r.GetNext() != "hactl move --to beta" {
		t.Errorf("it is said that %v", r)
	}
	if !strings.Contains(r.GetStays(), "alpha owns and is well") || !strings.Contains(r.GetStays(), "beta would be first: the policy prefers alpha, then beta") {
		t.Errorf("why ownership stays: %s", r.GetStays())
	}
	for _, f := range r.GetFindings() {
		if f.GetLevel() != hadv1.Finding_LEVEL_OK {
			t.Errorf("of a node that is well: %v", f)
		}
	}

	later := aHearing(t)
	later.in.View.Nodes = map[string]*hadv1.NodeRecord{"beta": {Name: "beta", Failures: 2, FailedReason: "PreAcq"}}
	if r := later.hold(); !r.GetCould() || !strings.Contains(r.GetStays(), "gamma would come before it: beta has given back more turns than gamma") {
		t.Errorf("of a node that has failed: %v", r)
	}

	owner := aHearing(t)
	owner.node, owner.member = "alpha", &hadv1.Member{Name: "alpha"}
	if r := owner.hold(); !r.GetOwns() || !r.GetCould() || r.GetStays() != "" {
		t.Errorf("of the owner: %v", r)
	}
}

// Every rule that keeps a node from owning is told, by itself.
func TestWhyNotByEachRule(t *testing.T) {
	health := func(h *hearing, change func(*hadv1.HealthResponse)) {
		sick := &hadv1.HealthResponse{Eligible: true, AppliedIndex: 100, PolicyVersion: 3, Version: "1", HooksDigest: "same"}
		change(sick)
		h.status.Peers["beta"] = PeerHealth{At: h.in.Now.Add(-time.Second), Health: sick}
	}
	for name, c := range map[string]struct {
		change       func(h *hearing)
		check, words string
		advice       string
	}{
		"witness":     {func(h *hearing) { h.member.Witness = true }, "role", "it is a witness", ""},
		"no policy":   {func(h *hearing) { h.in.View.Policy = nil }, "policy", "there is no policy yet", "hactl policy apply FILE"},
		"no leader":   {func(h *hearing) { h.in.Leadership = cluster.Leadership{} }, "quorum", "no leader is known", "start had on the other nodes"},
		"never heard": {func(h *hearing) { delete(h.status.Peers, "beta") }, "answers", "it has not answered alpha since", "can alpha reach 10.0.0.12:7400?"},
		"silent":      {func(h *hearing) { h.status.Fresh["beta"] = false }, "answers", "it has not answered for 1s", "systemctl status had"},
		"its own reason": {func(h *hearing) {
			health(h, func(r *hadv1.HealthResponse) {
				var why reasons
				why.add(aboutLink, "ip link on beta", "interface eth0 of 192.0.2.10 has no link")
				r.Eligible, r.Blockers, r.Reasons = false, why, why.texts()
			})
		}, "link", "interface eth0 of 192.0.2.10 has no link", "ip link on beta"},
		"its own reason, of an older had": {func(h *hearing) {
			health(h, func(r *hadv1.HealthResponse) {
				r.Eligible, r.Reasons = false, []string{"interface eth0 of 192.0.2.10 has no link"}
			})
		}, "itself", "interface eth0 of 192.0.2.10 has no link", ""},
		"behind": {func(h *hearing) { health(h, func(r *hadv1.HealthResponse) { r.AppliedIndex = 7 }) }, "log", "it is 94 log entries behind", "wait"},
		"another policy": {func(h *hearing) {
			health(h, func(r *hadv1.HealthResponse) { r.PolicyVersion = 2 })
		}, "log", "it runs policy version 2, and 3 is in force", "upgrade had on beta"},
		"shunned": {func(h *hearing) { h.shunned = true }, "turns", "leadership could not be handed to it", "wait"},
		"a move elsewhere": {func(h *hearing) {
			h.in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "gamma"}}
		}, "move", "a move to gamma is under way", "history"},
		"an owner to be waited for": {func(h *hearing) {
			h.in.Holding, h.in.View.Open[0].Instance = Holding{}, &hadv1.Instance{Node: "gamma"}
			h.in.LastLease = h.in.Now.Add(-400 * time.Millisecond)
		}, "lease", "gamma (epoch 7) has not said that it released", "wait"},
		"volumes of a silent owner": {func(h *hearing) {
			c := h.in.View.Open[0]
			h.in.Holding, c.Instance = Holding{}, &hadv1.Instance{Node: "gamma"}
			c.Volumes = []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web"}}
			c.Terms.FenceMethods = []string{cluster.MethodConfirm}
		}, "volumes", "gamma may still write web (LABEL=web)", ""},
		"a takeover under way": {func(h *hearing) { h.in.Holding.Phase = PhaseAcquiring }, "turn", "alpha is in the middle", "history"},
	} {
		t.Run(name, func(t *testing.T) {
			h := aHearing(t)
			c.change(h)
			r := h.hold()
			if r.GetCould() || r.GetStays() != "" {
				t.Errorf("it could own all the same: %v", r)
			}
			for _, f := range r.GetFindings() {
				if f.GetLevel() == hadv1.Finding_LEVEL_FAIL && f.GetCheck() == c.check && strings.Contains(f.GetDetail(), c.words) && strings.Contains(f.GetAdvice(), c.advice) {
					return
				}
			}
			t.Errorf("it isn't told under %s that %q, and to do %q: %v", c.check, c.words, c.advice, r.GetFindings())
		})
	}
}

// What keeps a node from owning is read first, whatever was asked first.
func TestWhyNotIsInOrderOfSeverity(t *testing.T) {
	h := aHearing(t)
	h.in.Declined = map[string]string{"beta": "Test exited with 1"}
	h.in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "gamma"}}
	var levels []hadv1.Finding_Level
	for _, f := range h.hold().GetFindings() {
		if n := len(levels); n == 0 || levels[n-1] != f.GetLevel() {
			levels = append(levels, f.GetLevel())
		}
	}
	if want := []hadv1.Finding_Level{hadv1.Finding_LEVEL_FAIL, hadv1.Finding_LEVEL_WARN, hadv1.Finding_LEVEL_OK}; !slices.Equal(levels, want) {
		t.Errorf("the levels come in the order %v", levels)
	}
}
