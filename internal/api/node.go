package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/failover"
	"had/internal/peer"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// NodeList implements HA.
func (s *Server) NodeList(ctx context.Context, req *hadv1.NodeListRequest) (*hadv1.NodeListResponse, error) {
	return onLeaderOrHere(ctx, s,
		func(string) *hadv1.NodeListResponse { return s.nodeList() },
		passOn(req, hadv1.HAClient.NodeList))
}

func (s *Server) nodeList() *hadv1.NodeListResponse {
	view, _ := s.cfg.Node.View()
	l, local := s.cfg.Node.Leadership(), s.cfg.Controller.Status()
	r := &hadv1.NodeListResponse{Cluster: s.cfg.Cluster, AnsweredBy: s.cfg.Self, Leading: l.Leading, RosterIndex: view.Roster.GetIndex()}
	owner := view.Newest().GetInstance().GetNodeId()
	for _, m := range view.Roster.GetMembers() {
		is := s.cfg.Node.MemberState(m.GetNodeId())
		n := &hadv1.NodeInfo{
			Member: m, Voter: is.Voter, Owner: m.GetNodeId() == owner, Leader: m.GetName() == l.Leader,
			Reachable: local.Fresh[m.GetName()], Version: local.Peers[m.GetName()].Health.GetVersion(),
			EpochOpen: slices.ContainsFunc(view.Open, func(c *hadv1.Claim) bool { return c.GetInstance().GetNodeId() == m.GetNodeId() }),
			Waits:     is.Waits.Why, AwaitsThird: is.Waits.Third,
		}
		if m.GetName() == s.cfg.Self {
			n.Leader, n.Reachable, n.Version = l.Leading, true, s.cfg.Version.GetVersion()
		}
		if l.Leading && is.Has < is.LogEnd {
			n.Behind = is.LogEnd - is.Has
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r
}

// NodeAdd implements HA.
func (s *Server) NodeAdd(ctx context.Context, req *hadv1.NodeAddRequest) (*hadv1.NodeAddResponse, error) {
	if _, _, err := net.SplitHostPort(req.GetAddress()); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%q is not an address: it is host:port, as in had.hcl", req.GetAddress())
	}
	if !policy.ValidNodeName(req.GetName()) {
		return nil, status.Errorf(codes.InvalidArgument, "%q can't be a node's name", req.GetName())
	}
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.NodeAddResponse, error) { return s.nodeAdd(ctx, req) },
		passOn(req, hadv1.HAClient.NodeAdd))
}

func (s *Server) nodeAdd(ctx context.Context, req *hadv1.NodeAddRequest) (*hadv1.NodeAddResponse, error) {
	known := s.memberNamed(req.GetName())
	found, err := s.cfg.Newcomer(ctx, req.GetName(), req.GetAddress())
	switch {
	case errors.Is(err, peer.ErrNotNewcomer):
		return nil, fmt.Errorf("%w: %s at %s: %w", failover.ErrRefused, req.GetName(), req.GetAddress(), err)
	case err != nil && known != nil && known.GetAddress() == req.GetAddress():
		found = peer.Newcomer{NodeID: known.GetNodeId(), Witness: known.GetWitness()} // it goes on when it answers again
	case err != nil:
		return nil, fmt.Errorf("%w: %s doesn't answer at %s (%w): start had there first, with a had.hcl that lists it and the nodes of this cluster", failover.ErrRefused, req.GetName(), req.GetAddress(), err)
	case known != nil && known.GetNodeId() == found.NodeID:
		found.Witness = known.GetWitness()
	case found.Witness && !req.GetWitness():
		return nil, fmt.Errorf("%w: the had.hcl of %s makes it a witness: add it with --witness", failover.ErrRefused, req.GetName())
	case !found.Witness && req.GetWitness():
		return nil, fmt.Errorf("%w: the had.hcl of %s doesn't make it a witness: write role = \"witness\" there, or leave --witness out", failover.ErrRefused, req.GetName())
	}
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_MemberAdd{MemberAdd: &hadv1.MemberAdd{
		Member:    &hadv1.Member{Name: req.GetName(), Address: req.GetAddress(), Witness: found.Witness, NodeId: found.NodeID},
		TwoVoters: req.GetTwoVoters() || s.cfg.TwoVoters, By: req.GetBy(), Reason: req.GetReason(),
	}}})
	if err != nil {
		return nil, err
	}
	return &hadv1.NodeAddResponse{Index: v.Index, Member: s.memberNamed(req.GetName()), Known: known != nil}, nil
}

func (s *Server) memberNamed(name string) *hadv1.Member {
	all := s.cfg.Members()
	i := slices.IndexFunc(all, func(m *hadv1.Member) bool { return m.GetName() == name })
	if i < 0 {
		return nil
	}
	return all[i]
}

// NodeRemove implements HA.
func (s *Server) NodeRemove(ctx context.Context, req *hadv1.NodeRemoveRequest) (*hadv1.NodeRemoveResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.NodeRemoveResponse, error) { return s.nodeRemove(ctx, req) },
		passOn(req, hadv1.HAClient.NodeRemove))
}

func (s *Server) nodeRemove(ctx context.Context, req *hadv1.NodeRemoveRequest) (*hadv1.NodeRemoveResponse, error) {
	if err := s.isMember(req.GetName()); err != nil {
		return nil, err
	}
	m := s.memberNamed(req.GetName())
	id := req.GetNodeId()
	if id == "" {
		id = m.GetNodeId()
	}
	local := s.cfg.Controller.Status()
	if n := local.Peers[m.GetName()].Health.GetPendingReports(); n > 0 && local.Fresh[m.GetName()] {
		return nil, fmt.Errorf("%w: %d reports of %s aren't in the log yet, and would be lost: try again in a moment", failover.ErrRefused, n, m.GetName())
	}
	if cluster.Settled(m) {
		if why := s.cfg.Node.WouldStop(ctx, id); why != "" {
			return nil, fmt.Errorf("%w: %s", failover.ErrRefused, why)
		}
	}
	v, err := s.cfg.Node.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_MemberRemove{MemberRemove: &hadv1.MemberRemove{
		Name: m.GetName(), NodeId: id, TwoVoters: req.GetTwoVoters() || s.cfg.TwoVoters, By: req.GetBy(), Reason: req.GetReason(),
	}}})
	if err != nil {
		return nil, err
	}
	return &hadv1.NodeRemoveResponse{Index: v.Index, NodeId: id}, nil
}
