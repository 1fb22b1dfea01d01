package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	hadv1 "had/proto/had/v1"
)

func TestErrorsBecomeTheCodesThatExitCodesFollow(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("apply: %w", &cluster.RefusedError{Reason: "version 2 is in force"}), codes.FailedPrecondition},
		{fmt.Errorf("%w: beta is a witness", failover.ErrRefused), codes.FailedPrecondition},
		{errNoLeader, codes.Unavailable},
		{fmt.Errorf("%w (stepping down)", cluster.ErrNotLeader), codes.Unavailable},
		{fmt.Errorf("%w: no answer", cluster.ErrOutcomeUnknown), codes.DeadlineExceeded},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{status.Error(codes.PermissionDenied, "from another node"), codes.PermissionDenied},
		{errors.New("a bug"), codes.Internal},
	} {
		if got := status.Code(statusOf(c.err)); got != c.want {
			t.Errorf("statusOf(%v) has code %v, want %v", c.err, got, c.want)
		}
	}
}

// What status says of ownership must never be better than what is known.
func TestOwnership(t *testing.T) {
	const now = clock.Instant(time.Hour)
	s := New(Config{Self: "alpha", Clock: func() clock.Instant { return now }, Timing: cluster.TimingFor(500 * time.Millisecond)})
	claim := func(node string) cluster.View {
		return cluster.View{Policy: &hadv1.Policy{Version: 1}, Open: []*hadv1.Claim{{Epoch: 9, Instance: &hadv1.Instance{Node: node}}}}
	}
	fresh, stale := &hadv1.Freshness{Confirmed: true}, notConfirmed("no quorum")
	holding := func(p failover.Phase) failover.Status {
		return failover.Status{Holding: failover.Holding{Epoch: 9, Phase: p}, LeaseUntil: now.Add(700 * time.Millisecond), Why: "a reason"}
	}
	for _, c := range []struct {
		name  string
		view  cluster.View
		local failover.Status
		fresh *hadv1.Freshness
		want  hadv1.Ownership_State
	}{
		{"serving", claim("alpha"), holding(failover.PhaseServing), fresh, hadv1.Ownership_STATE_OWNED},
		{"serving, as far as a node without a quorum knows", claim("alpha"), holding(failover.PhaseServing), stale, hadv1.Ownership_STATE_UNKNOWN},
		{"hooks still run", claim("alpha"), holding(failover.PhaseAcquiring), fresh, hadv1.Ownership_STATE_ACQUIRING},
		{"released, hooks left", cluster.View{Policy: &hadv1.Policy{}}, holding(failover.PhaseLeaving), fresh, hadv1.Ownership_STATE_RELEASING},
		{"another's epoch is open", claim("beta"), failover.Status{Again: now.Add(2 * time.Second)}, fresh, hadv1.Ownership_STATE_WAITING},
		{"its own epoch of an earlier run is open", claim("alpha"), failover.Status{}, fresh, hadv1.Ownership_STATE_WAITING},
		{"nobody", cluster.View{Policy: &hadv1.Policy{}}, failover.Status{}, fresh, hadv1.Ownership_STATE_UNOWNED},
		{"no policy", cluster.View{}, failover.Status{}, fresh, hadv1.Ownership_STATE_NO_POLICY},
	} {
		o := s.ownership(c.view, c.local, c.fresh)
		if o.GetState() != c.want {
			t.Errorf("%s: %v, want %v", c.name, o.GetState(), c.want)
		}
		if owned := o.GetState() == hadv1.Ownership_STATE_OWNED; owned != (o.GetLeaseRemainingMs() == 700) {
			t.Errorf("%s: %g ms of lease shown", c.name, o.GetLeaseRemainingMs())
		}
		if c.want == hadv1.Ownership_STATE_WAITING && c.local.Again != 0 && o.GetWaitRemainingMs() != 2000 {
			t.Errorf("%s: %g ms to wait shown, want 2000", c.name, o.GetWaitRemainingMs())
		}
	}
}

func TestNewbornSaysWhoIsMissing(t *testing.T) {
	n := &newborn{cluster: "office", self: "alpha", waiting: func() []string { return []string{"waiting to meet gamma"} }, next: func() string { return "start had on gamma" }}
	st, err := n.Status(t.Context(), nil)
	if err != nil || st.GetOwnership().GetState() != hadv1.Ownership_STATE_UNKNOWN || st.GetWarnings()[0] != "waiting to meet gamma" {
		t.Errorf("Status() = %v, %v", st, err)
	}
	if err := n.unborn(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "waiting to meet gamma") {
		t.Errorf("other calls answer %v", err)
	}
}

// A deposed leader's renewal must not be committed by its successor.
func TestOnlyReportsAreTakenFromOtherNodes(t *testing.T) {
	s := New(Config{})
	for _, cmd := range []*hadv1.Command{
		{Record: &hadv1.Command_LeaseRenew{LeaseRenew: &hadv1.LeaseRenew{}}},
		{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{}}},
		{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{}}},
		{Record: &hadv1.Command_Secured{Secured: &hadv1.Secured{Kind: hadv1.Secured_KIND_CONFIRMED}}},
		{},
	} {
		if _, err := s.Propose(t.Context(), &hadv1.ProposeRequest{Command: cmd}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("Propose(%v) = %v, want a refusal", cmd, err)
		}
	}
}

// An old owner's last word about its addresses is no news once the next one serves.
func TestWhatWasHeldBeforeIsNoNews(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		seen  time.Duration // how long ago the node was heard
		state hadv1.Ownership_State
		want  bool
	}{
		{800 * time.Millisecond, hadv1.Ownership_STATE_OWNED, true},
		{200 * time.Millisecond, hadv1.Ownership_STATE_OWNED, false},
		{800 * time.Millisecond, hadv1.Ownership_STATE_WAITING, false},
	} {
		resp := &hadv1.StatusResponse{At: timestamppb.New(now), Ownership: &hadv1.Ownership{State: c.state, Owner: "beta", Since: timestamppb.New(now.Add(-500 * time.Millisecond))}}
		if got := ofAnEarlierTurn(&hadv1.NodeStatus{Name: "alpha", LastSeenMs: ms(c.seen)}, resp); got != c.want {
			t.Errorf("heard %v ago, %v: %t", c.seen, c.state, got)
		}
	}
}

// A node that refuses other certificates than the rest lets somebody in, whether it
// can own or not; scripts that differ matter where they may run.
func TestNodesThatDiffer(t *testing.T) {
	s := New(Config{Self: "alpha", Members: func() []*hadv1.Member {
		return []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma", Witness: true}, {Name: "delta"}}
	}})
	health := func(hooks, revoked string) *hadv1.HealthResponse {
		return &hadv1.HealthResponse{HooksDigest: hooks, RevokedDigest: revoked}
	}
	warned := func(beta, gamma *hadv1.HealthResponse) string {
		return strings.Join(s.nodesDiffer(health("h", "r"), failover.Status{Answers: failover.Answers{
			Peers: map[string]failover.PeerHealth{"beta": {Health: beta}, "gamma": {Health: gamma}, "delta": {Health: health("old", "old")}},
			Fresh: map[string]bool{"beta": true, "gamma": true},
		}}), "\n")
	}
	for _, tc := range []struct {
		beta, gamma *hadv1.HealthResponse
		want        string // begins so, a line each; empty: no warning
	}{
		{health("h", "r"), health("other", "r"), ""},
		{health("h", ""), health("h", ""), ""}, // of an older version
		{health("h", "r"), health("h", "s"), "whose certificates are revoked is not the same on alpha and beta, on gamma:"},
		{health("i", "s"), health("", "s"), "the hook folders are not the same on alpha, on beta:\nwhose certificates are revoked is not the same on alpha, on beta and gamma:"},
	} {
		got := warned(tc.beta, tc.gamma)
		for i, want := range strings.Split(tc.want, "\n") {
			if lines := strings.Split(got, "\n"); len(lines) != len(strings.Split(tc.want, "\n")) || !strings.HasPrefix(lines[i], want) || want == "" && got != "" {
				t.Errorf("beta %v, gamma %v: %s", tc.beta, tc.gamma, got)
			}
		}
	}
}
