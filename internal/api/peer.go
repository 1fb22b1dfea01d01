package api

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/peer"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Propose implements Peer: a follower's command, committed by this leader.
func (s *Server) Propose(ctx context.Context, req *hadv1.ProposeRequest) (*hadv1.ProposeResponse, error) {
	if !passedOn(req.GetCommand()) {
		return nil, status.Error(codes.PermissionDenied, "only reports are taken from other nodes")
	}
	v, err := s.cfg.Node.Propose(ctx, req.GetCommand())
	if refused, ok := errors.AsType[*cluster.RefusedError](err); ok {
		return &hadv1.ProposeResponse{Index: refused.Index, Refused: refused.Reason}, nil
	}
	if err != nil {
		return nil, statusOf(err)
	}
	return &hadv1.ProposeResponse{Index: v.Index}, nil
}

// passedOn reports whether a command may come from another node. Lease records
// above all may not: a deposed leader's renewal must not be committed by its
// successor. Nor may evidence about volumes but a guard's, for what else there
// is a leader gathers, for itself.
func passedOn(cmd *hadv1.Command) bool {
	switch r := cmd.GetRecord().(type) {
	case *hadv1.Command_Deliver, *hadv1.Command_Farewell:
		return true
	case *hadv1.Command_Secured:
		return r.Secured.GetKind() == hadv1.Secured_KIND_GUARD
	case *hadv1.Command_TokenSet:
		return r.TokenSet.GetEpoch() == 0 && r.TokenSet.GetInstance() == nil // an operator's; an owner leads, and proposes its service's
	case *hadv1.Command_TokenForget:
		return true
	case *hadv1.Command_NotifyMark:
		// Of what a node was sending when it ceased to lead.
		return r.NotifyMark.GetOutcome() != hadv1.NotifyMark_OUTCOME_CLOSED
	}
	return false
}

// Health implements Peer.
func (s *Server) Health(context.Context, *hadv1.HealthRequest) (*hadv1.HealthResponse, error) {
	h := s.cfg.Controller.Health()
	h.Problems = append(h.Problems, s.cfg.Problems()...)
	h.Certificates, h.RevokedDigest = s.cfg.Certificates(), s.cfg.Revoked()
	return h, nil
}

// Prepare implements Peer.
func (s *Server) Prepare(ctx context.Context, req *hadv1.PrepareRequest) (*hadv1.PrepareResponse, error) {
	return s.cfg.Controller.Prepare(ctx, req), nil
}

// HandOver implements Peer.
func (s *Server) HandOver(ctx context.Context, req *hadv1.HandOverRequest) (*hadv1.HandOverResponse, error) {
	return s.cfg.Controller.HandOver(ctx, req), nil
}

// TakeFarewell implements Peer. A guard speaks for its own node alone.
func (s *Server) TakeFarewell(ctx context.Context, req *hadv1.TakeFarewellRequest) (*hadv1.TakeFarewellResponse, error) {
	reporter := req.GetFarewell().GetReleased().GetReporter()
	if from := callerOf(ctx); from != reporter.GetNode() {
		return nil, status.Errorf(codes.PermissionDenied, "%q can't speak for %q", from, reporter.GetNode())
	}
	s.cfg.Controller.TakeFarewell(req.GetFarewell())
	return &hadv1.TakeFarewellResponse{}, nil
}

// TakeSecured implements Peer. A guard speaks for its own node alone, and of
// what it did itself.
func (s *Server) TakeSecured(ctx context.Context, req *hadv1.TakeSecuredRequest) (*hadv1.TakeSecuredResponse, error) {
	r := req.GetSecured()
	if from := callerOf(ctx); from == "" || from != r.GetInstance().GetNode() {
		return nil, status.Errorf(codes.PermissionDenied, "%q can't speak for %q", from, r.GetInstance().GetNode())
	}
	if r.GetKind() != hadv1.Secured_KIND_GUARD {
		return nil, status.Errorf(codes.PermissionDenied, "a guard can't say %s", r.GetKind())
	}
	s.cfg.Controller.TakeSecured(r)
	return &hadv1.TakeSecuredResponse{}, nil
}

// callerOf returns the name of the node that calls, as the cluster port has
// authenticated it; empty when the call came another way.
func callerOf(ctx context.Context) string {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return ""
	}
	a, ok := p.Addr.(peer.Addr)
	if !ok {
		return ""
	}
	return a.Node
}

// Interfaces implements Peer.
func (s *Server) Interfaces(ctx context.Context, req *hadv1.InterfacesRequest) (*hadv1.InterfacesResponse, error) {
	p, diags := policy.ParsePolicy("policy.hcl", []byte(req.GetPolicy()))
	if err := diags.Err(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return s.interfaces(ctx, p), nil
}

// Contact implements Peer.
func (s *Server) Contact(ctx context.Context, req *hadv1.ContactRequest) (*hadv1.ContactResponse, error) {
	return s.cfg.Node.Contact(ctx, req), nil
}
