package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// Freeze implements HA. The leader's clock says until when.
func (s *Server) Freeze(ctx context.Context, req *hadv1.FreezeRequest) (*hadv1.FreezeResponse, error) {
	if d := time.Duration(req.GetForNs()); d < time.Second || d > cluster.LongestFreeze {
		return nil, status.Errorf(codes.InvalidArgument, "a freeze lasts from 1s to %s, not %s", cluster.LongestFreeze, d)
	}
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.FreezeResponse, error) { return s.freeze(ctx, req) },
		passOn(req, hadv1.HAClient.Freeze))
}

func (s *Server) freeze(ctx context.Context, req *hadv1.FreezeRequest) (*hadv1.FreezeResponse, error) {
	until := timestamppb.New(time.Now().Add(time.Duration(req.GetForNs())))
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Freeze{Freeze: &hadv1.Freeze{
		Until: until, ForNs: req.GetForNs(), By: req.GetBy(), Reason: req.GetReason(), Operation: req.GetOperation(),
	}}})
	if err != nil {
		return nil, err
	}
	return &hadv1.FreezeResponse{Index: v.Index, Until: until}, nil
}

// Unfreeze implements HA.
func (s *Server) Unfreeze(ctx context.Context, req *hadv1.UnfreezeRequest) (*hadv1.UnfreezeResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.UnfreezeResponse, error) {
			v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Unfreeze{Unfreeze: &hadv1.Unfreeze{By: req.GetBy(), Reason: req.GetReason()}}})
			return &hadv1.UnfreezeResponse{Index: v.Index}, err
		},
		passOn(req, hadv1.HAClient.Unfreeze))
}

// Drain implements HA.
func (s *Server) Drain(ctx context.Context, req *hadv1.DrainRequest) (*hadv1.DrainResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.DrainResponse, error) { return s.cfg.Controller.Drain(ctx, req) },
		passOn(req, hadv1.HAClient.Drain))
}

// Undrain implements HA.
func (s *Server) Undrain(ctx context.Context, req *hadv1.UndrainRequest) (*hadv1.UndrainResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.UndrainResponse, error) {
			v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Undrain{Undrain: &hadv1.Undrain{
				Node: req.GetNode(), By: req.GetBy(), Reason: req.GetReason(),
			}}})
			return &hadv1.UndrainResponse{Index: v.Index}, err
		},
		passOn(req, hadv1.HAClient.Undrain))
}

// Resume implements HA.
func (s *Server) Resume(ctx context.Context, req *hadv1.ResumeRequest) (*hadv1.ResumeResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.ResumeResponse, error) {
			v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{By: req.GetBy(), Reason: req.GetReason()}}})
			return &hadv1.ResumeResponse{Index: v.Index}, err
		},
		passOn(req, hadv1.HAClient.Resume))
}

// steered fills in what people and limits have said.
func steered(resp *hadv1.StatusResponse, view cluster.View) {
	resp.Frozen, resp.Held = view.Frozen, view.Held
	for _, n := range resp.GetNodes() {
		n.Drained = view.Drained[n.GetName()]
	}
	if d := view.Drained[resp.GetOwnership().GetOwner()]; d != nil && resp.GetOwnership().GetState() == hadv1.Ownership_STATE_OWNED {
		resp.Warnings = append(resp.Warnings, fmt.Sprintf("%s is drained and owns: it moves as soon as another node can take over", d.GetNode()))
	}
}

// nextSteer is the command that ends what keeps everybody from owning; empty:
// nothing of the kind does.
func nextSteer(r *hadv1.StatusResponse) string {
	if r.GetFrozen() != nil {
		return "hactl unfreeze"
	}
	for _, n := range r.GetNodes() {
		if n.GetReachable() && n.GetDrained() != nil && len(n.GetReasons()) == 1 {
			return "hactl undrain " + n.GetName() // nothing else is the matter with it
		}
	}
	return ""
}
