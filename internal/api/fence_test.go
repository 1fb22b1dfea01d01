package api

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/evidence"
	"had/internal/failover"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// silentOwner is alpha's epoch 7 with a volume, as beta sees it.
func silentOwner(methods ...string) *hadv1.Claim {
	return &hadv1.Claim{
		Epoch: 7, Instance: &hadv1.Instance{Node: "alpha", NodeId: "id"}, LastLeaseIndex: 90,
		Terms: &hadv1.Terms{FenceMethods: methods}, Volumes: []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web"}},
	}
}

// An operator's word counts for exactly what was shown: that epoch, of that node,
// with no sign of life since.
func TestConfirmation(t *testing.T) {
	req := &hadv1.ConfirmFenceRequest{Node: "alpha", Epoch: 7, LeaseIndex: 90, By: "root on beta", Reason: "the rack has no power"}
	for _, c := range []struct {
		name   string
		leader string
		change func(c *hadv1.Claim, r *hadv1.ConfirmFenceRequest)
		want   string // of the refusal; empty: it is taken
	}{
		{"as shown", "beta", func(*hadv1.Claim, *hadv1.ConfirmFenceRequest) {}, ""},
		{"it leads", "alpha", func(*hadv1.Claim, *hadv1.ConfirmFenceRequest) {}, "alpha leads the cluster: it is not off"},
		{"another node", "beta", func(_ *hadv1.Claim, r *hadv1.ConfirmFenceRequest) { r.Node = "gamma" }, "nothing of gamma waits"},
		{"a later epoch", "beta", func(c *hadv1.Claim, _ *hadv1.ConfirmFenceRequest) { c.Epoch = 8 }, "nothing of alpha waits for a confirmation in epoch 7"},
		{"no volumes", "beta", func(c *hadv1.Claim, _ *hadv1.ConfirmFenceRequest) { c.Volumes = nil }, "nothing of alpha waits"},
		{"renewed since", "beta", func(c *hadv1.Claim, _ *hadv1.ConfirmFenceRequest) { c.LastLeaseIndex = 91 }, "alpha has renewed its lease since"},
		{"safe already", "beta", func(c *hadv1.Claim, _ *hadv1.ConfirmFenceRequest) {
			c.Secured = &hadv1.Secured{Kind: hadv1.Secured_KIND_GUARD}
		}, "safe already"},
	} {
		claim, r := silentOwner("confirm"), proto.CloneOf(req)
		c.change(claim, r)
		got, err := confirmation(cluster.View{Open: []*hadv1.Claim{claim}}, c.leader, r)
		if c.want != "" {
			if !errors.Is(err, failover.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want a refusal with %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil || got.GetKind() != hadv1.Secured_KIND_CONFIRMED || got.GetLeaseIndex() != 90 || got.GetBy() != "root on beta" || got.GetDetail() != "the rack has no power" {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
		claim.Secured = got
		if again, err := confirmation(cluster.View{Open: []*hadv1.Claim{claim}}, c.leader, r); again != nil || err != nil {
			t.Errorf("a retry: %v, %v", again, err)
		}
	}
}

func TestStatusNamesTheCommandOnlyWhenAPersonIsNeeded(t *testing.T) {
	for _, c := range []struct {
		methods []string
		failed  bool
		want    string
	}{
		{[]string{"confirm"}, false, "hactl fence confirm alpha"},
		{[]string{"agent", "confirm"}, false, ""},
		{[]string{"agent", "confirm"}, true, "hactl fence confirm alpha"},
		{[]string{"command"}, true, "hactl fence confirm alpha"},
		{[]string{"agent", "lease"}, true, ""},
	} {
		local := failover.Status{Fencing: map[uint64]evidence.Tried{7: {Text: "agent: no", Failed: c.failed}}}
		view := cluster.View{Open: []*hadv1.Claim{silentOwner(c.methods...)}}
		r := &hadv1.StatusResponse{Ownership: &hadv1.Ownership{State: hadv1.Ownership_STATE_WAITING}, Unsecured: unsecured(view, local, "beta")}
		if got := next(r); got != c.want || len(r.GetUnsecured()) != 1 || r.GetUnsecured()[0].GetTries() != "agent: no" || r.GetUnsecured()[0].GetLeaseIndex() != 90 {
			t.Errorf("%v, failed %v: next %q, want %q; %v", c.methods, c.failed, got, c.want, r.GetUnsecured())
		}
		if own := unsecured(view, local, "alpha"); len(own) != 0 {
			t.Errorf("the leader's own epoch is shown as unsecured: %v", own)
		}
	}
}

// What a policy adds to the waits is said before anybody has to wait.
func TestTimingHasThePolicysWaits(t *testing.T) {
	t0 := cluster.TimingFor(500 * time.Millisecond)
	bare := timing(t0, []string{cluster.LayerGate}, nil, 0)
	p := &policy.Policy{ReleaseGrace: 10 * time.Second, Fence: policy.Fence{Methods: []policy.Method{policy.MethodLease}, Margin: 5 * time.Second}}
	got := timing(t0, []string{cluster.LayerGate}, p, 0)
	if bare.GetVolumeWaitMs() != 0 || bare.GetReleaseGraceMs() != 0 {
		t.Errorf("without a policy: %v", bare)
	}
	if d := got.GetTakeoverWaitMs() - bare.GetTakeoverWaitMs(); d < 10000 || d > 10011 || got.GetReleaseGraceMs() != 10000 {
		t.Errorf("a grace of 10 s makes the wait %g ms longer", d)
	}
	if w := got.GetVolumeWaitMs(); w < 15750 || w > 15770 {
		t.Errorf("volumes wait %g ms, want lease, grace and margin", w)
	}
	p.Fence.Methods = []policy.Method{policy.MethodWatchdog}
	if w := timing(t0, []string{cluster.LayerGate}, p, 5*time.Second).GetVolumeWaitMs(); w < 25750 || w > 25780 {
		t.Errorf("volumes wait %g ms, want lease, grace, margin and twice the watchdog's timeout", w)
	}
}
