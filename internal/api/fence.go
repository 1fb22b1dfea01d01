package api

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/failover"
	hadv1 "had/proto/had/v1"
)

// unsecured lists the open epochs whose owners may still write to volumes. The
// leader's own is none of them: it owns.
func unsecured(view cluster.View, local failover.Status, leader string) (out []*hadv1.Unsecured) {
	for _, c := range view.Open {
		missing := cluster.WhyNotSecured(c)
		node := c.GetInstance().GetNode()
		if missing == "" || node == leader {
			continue
		}
		tried := local.Fencing[c.GetEpoch()]
		out = append(out, &hadv1.Unsecured{
			Node: node, Epoch: c.GetEpoch(), Volumes: c.GetVolumes(), Methods: c.GetTerms().GetFenceMethods(),
			Missing: missing, Tries: tried.Text, NeedsPerson: needsPerson(c.GetTerms(), tried.Failed), LeaseIndex: c.GetLastLeaseIndex(),
		})
	}
	return out
}

// needsPerson reports whether an epoch waits for a person: none of its methods
// ends by itself, and none that could succeed is still untried.
func needsPerson(t *hadv1.Terms, failed bool) bool {
	has := func(m string) bool { return slices.Contains(t.GetFenceMethods(), m) }
	switch {
	case has(cluster.MethodLease), has(cluster.MethodWatchdog) && t.GetWatchdogTimeoutNs() > 0:
		return false
	case has(cluster.MethodAgent), has(cluster.MethodCommand), has(cluster.MethodReservation) && t.GetReservationKey() != 0:
		return failed
	}
	return true
}

// nextConfirm is the command that ends a wait for evidence, once nothing else
// does.
func nextConfirm(r *hadv1.StatusResponse) string {
	for _, u := range r.GetUnsecured() {
		if u.GetNeedsPerson() {
			return "hactl fence confirm " + u.GetNode()
		}
	}
	return ""
}

// ConfirmFence implements HA.
func (s *Server) ConfirmFence(ctx context.Context, req *hadv1.ConfirmFenceRequest) (*hadv1.ConfirmFenceResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.ConfirmFenceResponse, error) { return s.confirmFence(ctx, req) },
		passOn(req, hadv1.HAClient.ConfirmFence))
}

func (s *Server) confirmFence(ctx context.Context, req *hadv1.ConfirmFenceRequest) (*hadv1.ConfirmFenceResponse, error) {
	view, _ := s.cfg.Node.View()
	r, err := confirmation(view, s.cfg.Self, req)
	if err != nil || r == nil {
		return &hadv1.ConfirmFenceResponse{Index: view.Applied}, err
	}
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Secured{Secured: r}})
	if err != nil {
		return nil, err
	}
	return &hadv1.ConfirmFenceResponse{Index: v.Index}, nil
}

// confirmation is the record of an operator's word about what the log says now;
// nil when the log has it already, because a retry's first try went through.
func confirmation(view cluster.View, leader string, req *hadv1.ConfirmFenceRequest) (*hadv1.Secured, error) {
	refuse := func(format string, args ...any) (*hadv1.Secured, error) {
		return nil, fmt.Errorf("%w: %s", failover.ErrRefused, fmt.Sprintf(format, args...))
	}
	node := req.GetNode()
	c := view.Claim(req.GetEpoch())
	switch {
	case node == leader:
		return refuse("%s leads the cluster: it is not off", node)
	case c == nil || c.GetInstance().GetNode() != node || len(c.GetVolumes()) == 0:
		return refuse("nothing of %s waits for a confirmation in epoch %d: look at hactl status", node, req.GetEpoch())
	case c.GetSecured().GetKind() == hadv1.Secured_KIND_CONFIRMED && c.GetSecured().GetBy() == req.GetBy():
		return nil, nil
	case c.GetSecured() != nil:
		return refuse("the volumes of epoch %d are safe already (%s): nothing is left to confirm", c.GetEpoch(), c.GetSecured().GetKind())
	case c.GetLastLeaseIndex() != req.GetLeaseIndex():
		return refuse("%s has renewed its lease since you were shown epoch %d: it runs", node, c.GetEpoch())
	}
	return &hadv1.Secured{
		Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_CONFIRMED, By: req.GetBy(), Detail: req.GetReason(),
		LeaseIndex: req.GetLeaseIndex(), At: timestamppb.Now(),
	}, nil
}
