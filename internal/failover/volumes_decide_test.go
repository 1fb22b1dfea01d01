package failover

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"had/cluster"
	"had/internal/evidence"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// mountedBy is the claim of another node with a volume.
func mountedBy(node string, epoch uint64) *hadv1.Claim {
	c := claimOf(named(node), epoch)
	c.Volumes = []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}}
	c.Terms.FenceMethods = []string{cluster.MethodAgent, cluster.MethodConfirm}
	return c
}

func TestDecideWithVolumes(t *testing.T) {
	silent := func(change func(in *Inputs, c *hadv1.Claim)) Inputs {
		in := idleLeader()
		in.Policy.Prefer, in.Peers["beta"] = nil, Peer{Eligible: true}
		c := mountedBy("beta", 7)
		in.View.Open = []*hadv1.Claim{c}
		change(&in, c)
		return in
	}
	for _, c := range []struct {
		name string
		in   Inputs
		want string
	}{
		{"nothing is known", silent(func(*Inputs, *hadv1.Claim) {}), "rest: beta may still write web (LABEL=web): no fence has confirmed that it is off; if you have seen that it is off: hactl fence confirm beta"},
		{"its lease lasts", silent(func(in *Inputs, _ *hadv1.Claim) { in.LastLease = start }), "rest: waiting until the lease of beta (epoch 7) and the lifetime of its addresses are over; it has not said that it released them; beta may still write web"},
		{"nothing is prepared for a wait without an end", silent(func(in *Inputs, c *hadv1.Claim) {
			in.LastLease = start.Add(-cluster.TakeoverWait(c.GetTerms()) + time.Millisecond)
		}), "rest: waiting until the lease"},
		{"a try has failed", silent(func(in *Inputs, _ *hadv1.Claim) {
			in.Fencing = map[uint64]evidence.Tried{7: {Text: "agent: no route to host"}}
		}), "rest: beta may still write web (LABEL=web): no fence has confirmed that it is off; if you have seen that it is off: hactl fence confirm beta (agent: no route to host)"},
		{"it is secured", silent(func(_ *Inputs, c *hadv1.Claim) { c.Secured = &hadv1.Secured{} }), "acquire"},
		{"it is secured before its lease is over", silent(func(in *Inputs, c *hadv1.Claim) { c.Secured, in.LastLease = &hadv1.Secured{}, start }), "rest: waiting until the lease"},
		{"it moves here, and has not released", silent(func(in *Inputs, _ *hadv1.Claim) {
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "alpha", FromEpoch: 7}}
		}), "rest: beta may still write web"},
		{"another node is better: it may wait as well", silent(func(in *Inputs, _ *hadv1.Claim) {
			in.View.Nodes = map[string]*hadv1.NodeRecord{"alpha": {Failures: 1}}
		}), "transfer to gamma"},
		{"a policy with a volume alone", func() Inputs {
			in := idleLeader()
			in.Policy = &policy.Policy{Volumes: []policy.Volume{{Name: "web"}}}
			return in
		}(), "acquire"},
		{"a move of volumes", func() Inputs {
			in := owner()
			in.View.Open = []*hadv1.Claim{mountedBy("alpha", 9)}
			in.View.Move = &hadv1.Move{Order: &hadv1.MoveOrder{Target: "beta", FromEpoch: 9}}
			return in
		}(), "release, transfer to beta, finish"},
		{"a leader that can't unmount", func() Inputs {
			in := owner()
			in.View.Open = []*hadv1.Claim{mountedBy("alpha", 9)}
			in.LeaseEpoch, in.Unproven = 0, true
			return in
		}(), "transfer to gamma, force, finish"},
		{"it may have succeeded: it was not tried", func() Inputs {
			in := owner()
			in.View.Open = []*hadv1.Claim{mountedBy("alpha", 9)}
			in.LeaseEpoch = 0
			return in
		}(), "force, finish"},
		{"it has just handed leadership on, and got it back", func() Inputs {
			in := owner()
			in.View.Open = []*hadv1.Claim{mountedBy("alpha", 9)}
			in.LeaseEpoch, in.Unproven, in.TransferAfter = 0, true, start.Add(time.Second)
			return in
		}(), "force, finish"},
		{"other volumes", func() Inputs {
			in := owner()
			in.View.Policy, in.Remount = &hadv1.Policy{Version: 2}, "their disks are reserved together"
			return in
		}(), "release, finish"},
	} {
		if got := text(Decide(c.in)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}

// A leader whose volumes can't be proven unmounted lets another lead, for only
// then can anybody say that it is off; and it can't own until they are.
func TestALeaderThatCantUnmountLetsAnotherLead(t *testing.T) {
	runVolumes(t, func(r *rig, s *shelf) {
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		r.took()
		s.set(func(s *shelf) {
			s.busy = errors.New("bash (812) has its working directory there")
			s.failSecure = errors.New("rsync (813) can't be killed")
		})
		if _, err := r.controller.Move(t.Context(), &hadv1.MoveRequest{Operation: "op", Target: "beta"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * busyLimit)
		if got := r.took(); !strings.Contains(got, "transfer to beta") {
			t.Errorf("leadership stays here: %v", got)
		}
		if h := r.controller.Health(); h.GetEligible() || !strings.Contains(fmt.Sprint(h.GetReasons()), "rsync (813) can't be killed") {
			t.Errorf("it says that it could own: %v, %v", h.GetEligible(), h.GetReasons())
		}
		s.set(func(s *shelf) { s.busy, s.failSecure = nil, nil })
		time.Sleep(2 * time.Second)
		if rel := r.releases(); len(rel) != 1 {
			t.Errorf("releases %v", rel)
		}
		if h := r.controller.Health(); !h.GetEligible() {
			t.Errorf("it says that it can't own: %v", h.GetReasons())
		}
	})
}
