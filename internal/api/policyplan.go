package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/level"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// keptVersion returns an earlier policy that can be brought back.
func keptVersion(view cluster.View, version uint64) (*hadv1.Policy, error) {
	p := view.PolicyVersion(version)
	switch {
	case p == nil:
		return nil, status.Errorf(codes.FailedPrecondition, "policy version %d isn't kept: hactl policy history lists those that are", version)
	case p.GetText() == "":
		return nil, status.Errorf(codes.FailedPrecondition, "the text of policy version %d is kept no longer: hactl policy history lists those that are", version)
	}
	return p, nil
}

// fillIn completes a request that names a version instead of a text. The log is
// the same everywhere, so this node's will do, but for one that it lacks yet.
func (s *Server) fillIn(ctx context.Context, text, filename *string, version uint64) error {
	if version == 0 || forwarded(ctx) {
		return nil
	}
	r, err := s.PolicyShow(ctx, &hadv1.PolicyShowRequest{Version: version})
	if err != nil {
		return err
	}
	*text, *filename = r.GetPolicy().GetText(), fmt.Sprintf("policy version %d", version)
	return nil
}

// PolicyPlan implements HA. The leader answers: what an owner can change while it
// serves only it knows.
func (s *Server) PolicyPlan(ctx context.Context, req *hadv1.PolicyPlanRequest) (*hadv1.PolicyPlanResponse, error) {
	if err := s.fillIn(ctx, &req.Text, &req.Filename, req.GetRollbackTo()); err != nil {
		return nil, err
	}
	return onLeader(ctx, s,
		func() (*hadv1.PolicyPlanResponse, error) { return s.plan(ctx, req), nil },
		passOn(req, hadv1.HAClient.PolicyPlan))
}

func (s *Server) plan(ctx context.Context, req *hadv1.PolicyPlanRequest) *hadv1.PolicyPlanResponse {
	view, _ := s.cfg.Node.View()
	resp := &hadv1.PolicyPlanResponse{Base: view.Policy.GetVersion(), Trial: view.Trial}
	diags := s.check(ctx, req.GetFilename(), req.GetText())
	resp.Diagnostics = diagnostics(diags)
	if diags.HasErrors() {
		return resp
	}
	p, _ := policy.ParsePolicy(req.GetFilename(), []byte(req.GetText())) // check has read it
	resp.Unchanged = view.Policy != nil && view.Policy.GetText() == req.GetText()
	for _, c := range policy.Diff(view.Policy.GetText(), req.GetText()) {
		resp.Changes = append(resp.Changes, &hadv1.PolicyChange{
			Kind: changeKind(c.Kind), Block: c.Block, Attribute: c.Attribute, Before: c.Before, After: c.After,
		})
	}
	resp.Owner, resp.Restarts, resp.Effects = s.cfg.Controller.Foresee(p)
	return resp
}

func changeKind(k policy.ChangeKind) hadv1.PolicyChange_Kind {
	switch k {
	case policy.Added:
		return hadv1.PolicyChange_KIND_ADDED
	case policy.Removed:
		return hadv1.PolicyChange_KIND_REMOVED
	case policy.Changed:
		return hadv1.PolicyChange_KIND_CHANGED
	case policy.Moved:
		return hadv1.PolicyChange_KIND_MOVED
	}
	return hadv1.PolicyChange_KIND_UNSPECIFIED
}

// PolicyConfirm implements HA.
func (s *Server) PolicyConfirm(ctx context.Context, req *hadv1.PolicyConfirmRequest) (*hadv1.PolicyConfirmResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.PolicyConfirmResponse, error) { return s.confirmPolicy(ctx, req) },
		passOn(req, hadv1.HAClient.PolicyConfirm))
}

func (s *Server) confirmPolicy(ctx context.Context, req *hadv1.PolicyConfirmRequest) (*hadv1.PolicyConfirmResponse, error) {
	version, ready := req.GetVersion(), s.cfg.Node.Leadership().Ready
	view, _ := s.cfg.Node.View()
	if version == 0 {
		version = view.Policy.GetVersion()
	}
	if ready && view.Level() == level.First { // the record would raise it for nothing
		return nil, status.Errorf(codes.FailedPrecondition, "policy version %d waits for no confirmation; version %d is in force", version, view.Policy.GetVersion())
	}
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_PolicyConfirm{PolicyConfirm: &hadv1.PolicyConfirm{
		Version: version, By: req.GetBy(), Reason: req.GetReason(),
	}}})
	return &hadv1.PolicyConfirmResponse{Version: version, Index: v.Index}, err
}

// PolicyVersions implements HA.
func (s *Server) PolicyVersions(ctx context.Context, req *hadv1.PolicyVersionsRequest) (*hadv1.PolicyVersionsResponse, error) {
	if c, ctx, err := s.leader(ctx); err == nil && c != nil {
		return c.PolicyVersions(ctx, req)
	}
	view, _ := s.cfg.Node.View()
	resp := &hadv1.PolicyVersionsResponse{Trial: view.Trial}
	all := slices.Clone(view.EarlierPolicies)
	if view.Policy != nil {
		all = append(all, view.Policy)
	}
	for _, p := range slices.Backward(all) {
		if p.GetText() != "" {
			resp.Texts = append(resp.Texts, p.GetVersion())
		}
		p = proto.CloneOf(p)
		p.Text = ""
		resp.Policies = append(resp.Policies, p)
	}
	return resp, nil
}

// takesPolicy is how long the nodes have to take a policy, and the leader to hear
// of it, before a node that runs another one is worth a warning.
const takesPolicy = 5 * time.Second

// policyWarnings are what a person should know of the policy in force: that it
// will be undone, and which nodes can't use it.
func policyWarnings(r *hadv1.StatusResponse) (out []string) {
	p := r.GetPolicy()
	if t := p.GetTrial(); t != nil {
		left := max(0, t.GetUntil().AsTime().Sub(r.GetAt().AsTime())).Round(time.Second)
		out = append(out, fmt.Sprintf("policy version %d is undone in %s unless it is confirmed: hactl policy confirm", t.GetVersion(), left))
	}
	if p == nil || r.GetAt().AsTime().Sub(p.GetAt().AsTime()) < takesPolicy {
		return out
	}
	for _, n := range r.GetNodes() {
		v := n.GetPolicyVersion()
		if !n.GetReachable() || v == p.GetVersion() {
			continue
		}
		why := "it has not applied it yet"
		if v == 0 && len(n.GetReasons()) > 0 {
			why = n.GetReasons()[0]
		}
		out = append(out, fmt.Sprintf("%s doesn't run policy version %d: %s", n.GetName(), p.GetVersion(), why))
	}
	return out
}

// nextTrial is the command for a policy that waits for its confirmation.
func nextTrial(r *hadv1.StatusResponse) string {
	if r.GetPolicy().GetTrial() == nil {
		return ""
	}
	return "hactl policy confirm"
}
