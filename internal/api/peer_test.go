package api

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// Whoever is believed about volumes lets two nodes mount by a lie.
func TestAGuardSpeaksOfItsOwnNodeAlone(t *testing.T) {
	s := New(Config{})
	word := func(kind hadv1.Secured_Kind) *hadv1.TakeSecuredRequest {
		return &hadv1.TakeSecuredRequest{Secured: &hadv1.Secured{Epoch: 7, Instance: &hadv1.Instance{Node: "alpha"}, Kind: kind}}
	}
	from := func(node string) context.Context {
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: peer.Addr{Node: node}})
	}
	for name, c := range map[string]struct {
		ctx context.Context
		req *hadv1.TakeSecuredRequest
	}{
		"another node":           {from("beta"), word(hadv1.Secured_KIND_GUARD)},
		"nobody":                 {t.Context(), word(hadv1.Secured_KIND_GUARD)},
		"nobody about nobody":    {t.Context(), &hadv1.TakeSecuredRequest{}},
		"what no guard can know": {from("alpha"), word(hadv1.Secured_KIND_FENCED)},
	} {
		if _, err := s.TakeSecured(c.ctx, c.req); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	for kind, want := range map[hadv1.Secured_Kind]bool{
		hadv1.Secured_KIND_GUARD: true, hadv1.Secured_KIND_FENCED: false, hadv1.Secured_KIND_LEASE: false, 77: false,
	} {
		cmd := &hadv1.Command{Record: &hadv1.Command_Secured{Secured: &hadv1.Secured{Kind: kind}}}
		if got := passedOn(cmd); got != want {
			t.Errorf("%v is taken from another node: %v, want %v", kind, got, want)
		}
	}
	for outcome, want := range map[hadv1.NotifyMark_Outcome]bool{
		hadv1.NotifyMark_OUTCOME_SENT: true, hadv1.NotifyMark_OUTCOME_GAVE_UP: true, hadv1.NotifyMark_OUTCOME_CLOSED: false,
	} {
		cmd := &hadv1.Command{Record: &hadv1.Command_NotifyMark{NotifyMark: &hadv1.NotifyMark{Outcome: outcome}}}
		if got := passedOn(cmd); got != want {
			t.Errorf("%v is taken from another node: %v, want %v", outcome, got, want)
		}
	}
}
