package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// check parses a policy, holds it against the members, and asks every node
// that may own and can be reached whether it has the interfaces. Nodes that
// don't answer are a warning: they are checked again before they own.
func (s *Server) check(ctx context.Context, filename, text string) policy.Diagnostics {
	if filename == "" {
		filename = "policy.hcl"
	}
	p, diags := policy.ParsePolicy(filename, []byte(text))
	if diags.HasErrors() {
		return diags
	}
	var members []policy.Member
	for _, m := range s.cfg.Members() {
		members = append(members, policy.Member{Name: m.GetName(), Address: m.GetAddress(), Witness: m.GetWitness()})
	}
	diags = append(diags, p.CheckMembers(members)...)
	if diags.HasErrors() {
		return diags
	}
	return append(diags, s.checkInterfaces(ctx, p, text)...)
}

// checkLimit is how long the other nodes have to answer.
const checkLimit = time.Second

func (s *Server) checkInterfaces(ctx context.Context, p *policy.Policy, text string) policy.Diagnostics {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	all := s.cfg.Members()
	answers := make([]policy.Diagnostics, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		if m.GetWitness() {
			continue
		}
		wg.Go(func() {
			answers[i] = findings(p, m.GetName(), func() (*hadv1.InterfacesResponse, error) {
				return s.interfacesOn(ctx, m.GetName(), p, text)
			})
		})
	}
	wg.Wait()
	return slices.Concat(answers...)
}

// findings are what a node has to say of a policy; one that doesn't answer says nothing.
func findings(p *policy.Policy, node string, ask func() (*hadv1.InterfacesResponse, error)) policy.Diagnostics {
	found, err := ask()
	switch {
	case status.Code(err) == codes.InvalidArgument: // this had has read it, so that one is older
		return p.CheckRead(node, status.Convert(err).Message())
	case err != nil:
		return nil
	}
	return append(p.CheckInterfaces(node, func(vip string) string { return found.GetProblems()[vip] }), p.CheckTaken(node, found.GetTaken())...)
}

func (s *Server) interfacesOn(ctx context.Context, node string, p *policy.Policy, text string) (*hadv1.InterfacesResponse, error) {
	if node == s.cfg.Self {
		return s.interfaces(ctx, p), nil
	}
	return s.cfg.Peers.Interfaces(ctx, node, text)
}

// interfaces is what of a policy this host could not carry, or another cluster on it
// has.
func (s *Server) interfaces(ctx context.Context, p *policy.Policy) *hadv1.InterfacesResponse {
	return &hadv1.InterfacesResponse{Problems: s.cfg.Controller.Interfaces(p), Taken: s.cfg.Taken(ctx, p)}
}

func diagnostics(in policy.Diagnostics) []*hadv1.Diagnostic {
	var out []*hadv1.Diagnostic
	for _, d := range in {
		severity := hadv1.Diagnostic_SEVERITY_ERROR
		if d.Severity == policy.Warning {
			severity = hadv1.Diagnostic_SEVERITY_WARNING
		}
		out = append(out, &hadv1.Diagnostic{
			Severity: severity, File: d.File, Line: uint32(d.Line), Column: uint32(d.Column), //nolint:gosec // positions in a file of 1 MiB
			Summary: d.Summary, Detail: d.Detail, Rendered: d.Rendered,
		})
	}
	return out
}

// PolicyValidate implements HA.
func (s *Server) PolicyValidate(ctx context.Context, req *hadv1.PolicyValidateRequest) (*hadv1.PolicyValidateResponse, error) {
	diags := s.check(ctx, req.GetFilename(), req.GetText())
	return &hadv1.PolicyValidateResponse{Valid: !diags.HasErrors(), Diagnostics: diagnostics(diags)}, nil
}

// PolicyApply implements HA. A policy with errors is answered with its
// diagnostics and changes nothing.
func (s *Server) PolicyApply(ctx context.Context, req *hadv1.PolicyApplyRequest) (*hadv1.PolicyApplyResponse, error) {
	if err := s.fillIn(ctx, &req.Text, &req.Filename, req.GetRollbackTo()); err != nil {
		return nil, err
	}
	diags := s.check(ctx, req.GetFilename(), req.GetText())
	if diags.HasErrors() {
		return &hadv1.PolicyApplyResponse{Diagnostics: diagnostics(diags)}, nil
	}
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.PolicyApplyResponse, error) { return s.apply(ctx, req, diags) },
		passOn(req, hadv1.HAClient.PolicyApply))
}

// apply commits a valid policy on the leader.
func (s *Server) apply(ctx context.Context, req *hadv1.PolicyApplyRequest, diags policy.Diagnostics) (*hadv1.PolicyApplyResponse, error) {
	view, _ := s.cfg.Node.View()
	expected := view.Policy.GetVersion()
	if req.GetCheckVersion() {
		expected = req.GetExpectedVersion()
	}
	// With the version it was made from, the next one is a retry's own work.
	same := view.Policy != nil && view.Policy.GetText() == req.GetText()
	if same && (expected == view.Policy.GetVersion() || req.GetCheckVersion() && expected+1 == view.Policy.GetVersion()) {
		return &hadv1.PolicyApplyResponse{
			Version: view.Policy.GetVersion(), Unchanged: true, Diagnostics: diagnostics(diags), Index: view.Policy.GetIndex(), Trial: view.Trial,
		}, nil
	}
	p := &hadv1.PolicyApply{ExpectedVersion: expected, Text: req.GetText(), By: req.GetBy(), Reason: req.GetReason(), OfVersion: req.GetRollbackTo()}
	if req.GetRollbackTo() != 0 {
		p.Kind = hadv1.PolicyApply_KIND_ROLLBACK
	}
	resp := &hadv1.PolicyApplyResponse{Version: expected + 1, Diagnostics: diagnostics(diags)}
	if d := req.GetConfirmWithinNs(); d != 0 {
		p.ConfirmWithinNs, p.ConfirmUntil = d, timestamppb.New(time.Now().Add(time.Duration(d)))
		resp.Trial = &hadv1.PolicyTrial{Version: expected + 1, WithinNs: d, Until: p.GetConfirmUntil()}
	}
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: p}})
	if err != nil {
		return nil, err
	}
	resp.Index = v.Index
	return resp, nil
}

// PolicyShow implements HA.
func (s *Server) PolicyShow(ctx context.Context, req *hadv1.PolicyShowRequest) (*hadv1.PolicyShowResponse, error) {
	if c, ctx, err := s.leader(ctx); err == nil && c != nil {
		return c.PolicyShow(ctx, req)
	}
	view, _ := s.cfg.Node.View()
	if v := req.GetVersion(); v != 0 && v != view.Policy.GetVersion() {
		p, err := keptVersion(view, v)
		return &hadv1.PolicyShowResponse{Policy: p}, err
	}
	return &hadv1.PolicyShowResponse{Policy: view.Policy, Trial: view.Trial}, nil
}
