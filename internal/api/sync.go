package api

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/failover"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// syncs lists the syncs of the policy in force.
func syncs(view cluster.View, p *policy.Policy) (out []*hadv1.SyncSummary) {
	if p == nil {
		return nil
	}
	for _, y := range p.Syncs {
		out = append(out, &hadv1.SyncSummary{
			Name: y.Name, Held: view.SyncHeld(y.Name), Epoch: view.LastEpoch, Owner: view.LastOwner, PreviousOwner: view.Syncs.GetPreviousOwner(),
		})
	}
	return out
}

// heldSyncs warns of syncs that wait for a person.
func heldSyncs(r *hadv1.StatusResponse) (out []string) {
	for _, y := range r.GetSyncs() {
		if y.GetHeld() != "" {
			out = append(out, fmt.Sprintf("sync %s is held: %s", y.GetName(), y.GetHeld()))
		}
	}
	return out
}

// nextResume is the command that ends the hold of a sync, once nothing more
// urgent needs a person.
func nextResume(r *hadv1.StatusResponse) string {
	for _, y := range r.GetSyncs() {
		if y.GetHeld() != "" && r.GetOwnership().GetState() == hadv1.Ownership_STATE_OWNED {
			return "hactl sync resume " + y.GetName()
		}
	}
	return ""
}

// knownSync refuses a name that the policy in force doesn't have.
func (s *Server) knownSync(view cluster.View, name string) error {
	if slices.ContainsFunc(syncs(view, s.policy.of(view)), func(y *hadv1.SyncSummary) bool { return y.GetName() == name }) {
		return nil
	}
	return fmt.Errorf("%w: the policy has no sync called %q: look at hactl policy show", failover.ErrRefused, name)
}

// SyncRun implements HA. Each node runs its own; this one asks the others.
func (s *Server) SyncRun(ctx context.Context, req *hadv1.SyncRunRequest) (*hadv1.SyncRunResponse, error) {
	view, _ := s.cfg.Node.View()
	if err := s.knownSync(view, req.GetName()); err != nil {
		return nil, statusOf(err)
	}
	nodes, err := s.copiers(view, req.GetNode())
	if err != nil {
		return nil, statusOf(err)
	}
	runs := make([]*hadv1.SyncRun, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() { runs[i] = s.syncOn(ctx, req.GetName(), node) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, statusOf(ctx.Err())
	}
	return &hadv1.SyncRunResponse{Runs: runs}, nil
}

// copiers are the nodes that a request means.
func (s *Server) copiers(view cluster.View, node string) (names []string, err error) {
	for _, m := range s.cfg.Members() {
		if m.GetName() == node || node == "" && !m.GetWitness() && m.GetName() != view.LastOwner {
			names = append(names, m.GetName())
		}
	}
	switch {
	case len(names) > 0:
		return names, nil
	case node != "":
		return nil, fmt.Errorf("%w: %q is not a node of this cluster", failover.ErrRefused, node)
	}
	return nil, fmt.Errorf("%w: no node but the owner could hold a copy", failover.ErrRefused)
}

func (s *Server) syncOn(ctx context.Context, name, node string) *hadv1.SyncRun {
	out := &hadv1.SyncRun{Node: node}
	if node == s.cfg.Self {
		result, err := s.cfg.Controller.Sync(ctx, name)
		if out.Result = result; err != nil {
			out.Why = err.Error()
		}
		return out
	}
	c, err := s.cfg.Peers.HA(node)
	if err == nil && forwarded(ctx) {
		err = fmt.Errorf("%s was asked for %s", s.cfg.Self, node)
	}
	var resp *hadv1.SyncRunResponse
	if err == nil {
		resp, err = c.SyncRun(metadata.AppendToOutgoingContext(ctx, forwardedKey, s.cfg.Self), &hadv1.SyncRunRequest{Name: name, Node: node})
	}
	switch {
	case err != nil:
		out.Why = fmt.Sprintf("%s could not be asked: %s", node, status.Convert(err).Message())
	case len(resp.GetRuns()) == 1:
		out = resp.GetRuns()[0]
	}
	return out
}

// SyncResume implements HA.
func (s *Server) SyncResume(ctx context.Context, req *hadv1.SyncResumeRequest) (*hadv1.SyncResumeResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.SyncResumeResponse, error) {
			view, _ := s.cfg.Node.View()
			if err := s.knownSync(view, req.GetName()); err != nil {
				return nil, err
			}
			v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_SyncResume{SyncResume: &hadv1.SyncResume{
				Name: req.GetName(), Epoch: req.GetEpoch(), By: req.GetBy(), Reason: req.GetReason(),
			}}})
			if err != nil {
				return nil, err
			}
			return &hadv1.SyncResumeResponse{Index: v.Index}, nil
		},
		passOn(req, hadv1.HAClient.SyncResume))
}
