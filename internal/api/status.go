package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/failover"
	"had/internal/level"
	"had/internal/notify"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Status implements HA. The leader answers, after its state was confirmed by
// a quorum; a node that can't reach one answers with what it knows and says
// so.
func (s *Server) Status(ctx context.Context, req *hadv1.StatusRequest) (*hadv1.StatusResponse, error) {
	c, out, err := s.leader(ctx)
	if err != nil {
		return s.status(notConfirmed(err.Error())), nil
	}
	if c == nil {
		return s.status(s.confirm(ctx)), nil
	}
	out, cancel := context.WithTimeout(out, forwardLimit)
	defer cancel()
	resp, err := c.Status(out, req)
	if err != nil {
		leader := s.cfg.Node.Leadership().Leader
		return s.status(notConfirmed(fmt.Sprintf("%s leads, as far as %s knows, and doesn't answer", leader, s.cfg.Self))), nil
	}
	return resp, nil
}

// forwardLimit is how long a read waits for the leader.
const forwardLimit = 2 * time.Second

func notConfirmed(why string) *hadv1.Freshness { return &hadv1.Freshness{Note: why} }

// confirm makes sure that what this leader has applied is current: its last
// committed command says so if it is young enough, otherwise a barrier does.
func (s *Server) confirm(ctx context.Context) *hadv1.Freshness {
	age := func() time.Duration { return s.cfg.Clock().Sub(s.cfg.Node.Confirmed()) }
	if s.cfg.Node.Confirmed() == 0 || age() > s.cfg.Timing.TTL {
		ctx, cancel := context.WithTimeout(ctx, forwardLimit)
		defer cancel()
		if err := s.cfg.Node.Confirm(ctx); err != nil {
			return notConfirmed(fmt.Sprintf("no quorum answered %s: %v", s.cfg.Self, err))
		}
	}
	return &hadv1.Freshness{Confirmed: true, AgeMs: ms(age())}
}

// Watch implements HA.
func (s *Server) Watch(_ *hadv1.WatchRequest, stream grpc.ServerStreamingServer[hadv1.WatchResponse]) error {
	ctx := stream.Context()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		_, changed := s.cfg.Node.View()
		leadership := s.cfg.Node.LeadershipChanged()
		st, err := s.Status(ctx, &hadv1.StatusRequest{})
		if err != nil {
			return err
		}
		if err := stream.Send(&hadv1.WatchResponse{Status: st}); err != nil {
			return err
		}
		pause := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
			return statusOf(ctx.Err())
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return statusOf(ctx.Err())
		case <-tick.C:
		case <-changed:
		case <-leadership:
		}
	}
}

// watchPause is the least time between two statuses: lease renewals change
// the state several times a second.
const watchPause = 200 * time.Millisecond

// status is this node's view.
func (s *Server) status(fresh *hadv1.Freshness) *hadv1.StatusResponse {
	view, _ := s.cfg.Node.View()
	l := s.cfg.Node.Leadership()
	local := s.cfg.Controller.Status()
	parsed := s.policy.of(view)
	fresh.AppliedIndex = view.Applied
	resp := &hadv1.StatusResponse{
		Cluster: s.cfg.Cluster, ClusterId: view.Birth.GetClusterId(), AnsweredBy: s.cfg.Self,
		Leader: l.Leader, Term: l.Term, Freshness: fresh, At: timestamppb.Now(),
		Ownership: s.ownership(view, local, fresh), Policy: summary(view, parsed), Syncs: syncs(view, parsed),
	}
	if l.Leading {
		resp.Leader = s.cfg.Self
	}
	own := s.cfg.Controller.Health()
	own.RevokedDigest = s.cfg.Revoked()
	for _, m := range s.cfg.Members() {
		resp.Nodes = append(resp.Nodes, s.node(m, resp, own, local, l.Leading))
	}
	resp.Level = s.levels(view, resp.GetNodes(), l.Leading)
	if l.Leading {
		resp.Unsecured = unsecured(view, local, s.cfg.Self)
		resp.Notify = s.cfg.Notifier.Status()
	}
	if o := resp.GetOwnership(); o.GetState() == hadv1.Ownership_STATE_UNOWNED && namesNothing(resp.GetPolicy()) {
		o.State = hadv1.Ownership_STATE_NO_POLICY // one that names nothing
	}
	if o := resp.GetOwnership(); o.GetState() == hadv1.Ownership_STATE_OWNED {
		o.Volumes = stillThere(o.GetVolumes(), resp.GetPolicy().GetVolumes())
	}
	resp.Tokens = tokenSummaries(view, parsed)
	resp.Warnings = append(s.warnings(resp), s.nodesDiffer(own, local)...)
	resp.Warnings = append(resp.Warnings, policyWarnings(resp)...)
	resp.Warnings = append(resp.Warnings, heldSyncs(resp)...)
	resp.Warnings = append(resp.Warnings, tokensDiffer(resp)...)
	resp.Warnings = append(resp.Warnings, s.cfg.Problems()...)
	resp.Warnings = append(resp.Warnings, notify.Warnings(resp.GetNotify(), time.Now())...)
	resp.Failback = local.Failback
	steered(resp, view)
	resp.Next = cmp.Or(next(resp), nextTrial(resp), nextResume(resp))
	return resp
}

// ownership tells who owns. Only a leader confirmed by a quorum knows.
func (s *Server) ownership(view cluster.View, local failover.Status, fresh *hadv1.Freshness) *hadv1.Ownership {
	o := &hadv1.Ownership{Why: local.Why}
	c := view.Newest()
	if c != nil {
		o.Owner, o.Epoch, o.Cause = c.GetInstance().GetNode(), c.GetEpoch(), c.GetCause()
		o.Since, o.Layers, o.Addresses, o.Volumes = c.GetAt(), c.GetTerms().GetLayers(), c.GetAddresses(), c.GetVolumes()
		if c.GetServingAt() != nil {
			o.Since = c.GetServingAt()
		}
	}
	mine := c != nil && c.GetEpoch() == local.Holding.Epoch
	switch {
	case !fresh.GetConfirmed():
		o.State, o.Why = hadv1.Ownership_STATE_UNKNOWN, fresh.GetNote()
	case view.Policy == nil:
		o.State = hadv1.Ownership_STATE_NO_POLICY
	case local.Holding.Phase == failover.PhaseLeaving:
		o.State = hadv1.Ownership_STATE_RELEASING
	case c == nil:
		o.State = hadv1.Ownership_STATE_UNOWNED
	case mine && local.Holding.Phase == failover.PhaseServing:
		o.State, o.Why = hadv1.Ownership_STATE_OWNED, ""
		o.LeaseRemainingMs = max(0, ms(local.LeaseUntil.Sub(s.cfg.Clock())))
	case mine:
		o.State = hadv1.Ownership_STATE_ACQUIRING
	default:
		o.State = hadv1.Ownership_STATE_WAITING
		if local.Again != 0 {
			o.WaitRemainingMs = max(0, ms(local.Again.Sub(s.cfg.Clock())))
		}
	}
	return o
}

func (s *Server) node(m *hadv1.Member, resp *hadv1.StatusResponse, own *hadv1.HealthResponse, local failover.Status, leading bool) *hadv1.NodeStatus {
	n := &hadv1.NodeStatus{
		Name: m.GetName(), Address: m.GetAddress(), Witness: m.GetWitness(), Leader: m.GetName() == resp.GetLeader(),
		Owner: m.GetName() == resp.GetOwnership().GetOwner() && resp.GetOwnership().GetState() == hadv1.Ownership_STATE_OWNED,
	}
	var h *hadv1.HealthResponse
	switch p, ok := local.Peers[m.GetName()]; {
	case m.GetName() == s.cfg.Self:
		h = own
		n.Reachable = true
	case leading && ok && p.Health != nil:
		h = p.Health
		n.Reachable = local.Fresh[m.GetName()]
		n.LastSeenMs = ms(s.cfg.Clock().Sub(p.At))
	}
	if h == nil {
		n.Reasons = []string{"it doesn't answer"}
		if !leading {
			n.Reasons = []string{"only the leader asks the other nodes"}
		}
		return n
	}
	n.Eligible, n.Reasons = h.GetEligible(), h.GetReasons()
	n.Version, n.Holds, n.AppliedIndex = h.GetVersion(), h.GetHolds(), h.GetAppliedIndex()
	n.RecordLevel = level.Of(h.GetRecordLevel())
	n.Layers, n.Tokens, n.Syncs, n.Checks = h.GetLayers(), h.GetTokens(), h.GetSyncs(), h.GetChecks()
	n.PendingReports, n.Problems, n.PolicyVersion = h.GetPendingReports(), h.GetProblems(), h.GetPolicyVersion()
	if leading && n.GetReachable() && n.GetAppliedIndex()+failover.MaxLag < resp.GetFreshness().GetAppliedIndex() {
		n.Problems = append(n.Problems, fmt.Sprintf("it is catching up, %d log entries behind", resp.GetFreshness().GetAppliedIndex()-n.GetAppliedIndex()))
	}
	if ofAnEarlierTurn(n, resp) {
		n.Holds = nil
	}
	if !n.Reachable {
		n.Eligible = false
		n.Reasons = append([]string{"it doesn't answer"}, n.Reasons...)
	}
	return n
}

// ofAnEarlierTurn reports whether what another node said it holds is from before
// the present owner served: it has let go since, or nobody would.
func ofAnEarlierTurn(n *hadv1.NodeStatus, resp *hadv1.StatusResponse) bool {
	o := resp.GetOwnership()
	return o.GetState() == hadv1.Ownership_STATE_OWNED && n.GetName() != o.GetOwner() &&
		n.GetLastSeenMs() > ms(resp.GetAt().AsTime().Sub(o.GetSince().AsTime()))
}

func summary(view cluster.View, parsed *policy.Policy) *hadv1.PolicySummary {
	p := view.Policy
	if p == nil {
		return nil
	}
	out := &hadv1.PolicySummary{Version: p.GetVersion(), Digest: p.GetDigest(), At: p.GetAt(), By: p.GetBy(), Trial: view.Trial}
	if parsed == nil {
		return out // its nodes say so in their problems
	}
	for _, v := range parsed.VIPs {
		out.Vips = append(out.Vips, &hadv1.VipSummary{Name: v.Name, Address: v.Address.String()})
	}
	for _, v := range parsed.Volumes {
		out.Volumes = append(out.Volumes, &hadv1.HeldVolume{Name: v.Name, Device: v.Device, Path: v.Path, Fstype: v.FSType})
	}
	for _, m := range parsed.Fence.Methods {
		out.FenceMethods = append(out.FenceMethods, string(m))
	}
	return out
}

// stillThere are the volumes of an epoch without those that the policy has given
// up, which stay the epoch's until it is over.
func stillThere(held, wanted []*hadv1.HeldVolume) (out []*hadv1.HeldVolume) {
	for _, h := range held {
		if slices.ContainsFunc(wanted, func(w *hadv1.HeldVolume) bool { return proto.Equal(w, h) }) {
			out = append(out, h)
		}
	}
	return out
}

// namesNothing reports whether a policy has nothing to own.
func namesNothing(p *hadv1.PolicySummary) bool {
	return len(p.GetVips()) == 0 && len(p.GetVolumes()) == 0
}

// nodesDiffer warns of what should be the same on all nodes and isn't. Only a leader
// has asked the others.
func (s *Server) nodesDiffer(own *hadv1.HealthResponse, local failover.Status) (out []string) {
	hooks, revoked := map[string][]string{}, map[string][]string{} // nodes by digest
	for _, m := range s.cfg.Members() {
		h := local.Peers[m.GetName()].Health
		if m.GetName() == s.cfg.Self {
			h = own
		} else if !local.Fresh[m.GetName()] {
			continue
		}
		if d := h.GetHooksDigest(); d != "" && !m.GetWitness() { // a witness never owns
			hooks[d] = append(hooks[d], m.GetName())
		}
		if d := h.GetRevokedDigest(); d != "" {
			revoked[d] = append(revoked[d], m.GetName())
		}
	}
	if where := apart(hooks); where != "" {
		out = append(out, "the hook folders are not the same on "+where+": make them the same, or the next failover does something else than the last")
	}
	if where := apart(revoked); where != "" {
		out = append(out, "whose certificates are revoked is not the same on "+where+": copy the file revoked from where the CA is to all of them, or somebody who was shut out is let in by some (docs/security.md)")
	}
	return out
}

// apart names the groups of nodes, by digest, if there are several: "alpha and
// gamma, on beta".
func apart(nodes map[string][]string) string {
	if len(nodes) < 2 {
		return ""
	}
	var groups []string
	for _, names := range nodes {
		groups = append(groups, strings.Join(names, " and "))
	}
	slices.Sort(groups)
	return strings.Join(groups, ", on ")
}

// warnings are what a person should know beyond the state.
func (s *Server) warnings(r *hadv1.StatusResponse) []string {
	var out []string
	holders := map[string][]string{}
	voters, silent := 0, 0
	for _, n := range r.GetNodes() {
		for _, a := range n.GetHolds() {
			if n.GetReachable() {
				holders[a] = append(holders[a], n.GetName())
			}
		}
		voters++
		if !n.GetReachable() {
			silent++
		}
	}
	for _, a := range slices.Sorted(maps.Keys(holders)) {
		if h := holders[a]; len(h) > 1 {
			out = append(out, fmt.Sprintf("%s was reported by %v within the last second: if this stays, something outside had put it there", a, h))
		}
	}
	if r.GetLeader() == s.cfg.Self && silent > 0 {
		if left := (voters-1)/2 - silent; left <= 0 {
			out = append(out, fmt.Sprintf("%d of %d nodes answer: if one more fails, nobody can own", voters-silent, voters))
		}
	}
	return out
}

// next is the one command that helps, when a person is needed.
func next(r *hadv1.StatusResponse) string {
	switch r.GetOwnership().GetState() {
	case hadv1.Ownership_STATE_NO_POLICY:
		return "hactl policy apply FILE"
	case hadv1.Ownership_STATE_UNOWNED:
		if r.GetPolicy() != nil && namesNothing(r.GetPolicy()) {
			return "hactl policy apply FILE"
		}
		return cmp.Or(nextSteer(r), nextKey(r), "hactl history")
	case hadv1.Ownership_STATE_UNKNOWN:
		return "start had on the other nodes, or mend the network between them; then: hactl status"
	case hadv1.Ownership_STATE_WAITING:
		if r.GetFrozen() != nil {
			return "hactl unfreeze"
		}
		return nextConfirm(r)
	case hadv1.Ownership_STATE_OWNED:
		if r.GetHeld() != nil {
			return "hactl resume"
		}
	case hadv1.Ownership_STATE_UNSPECIFIED, hadv1.Ownership_STATE_ACQUIRING, hadv1.Ownership_STATE_RELEASING:
	}
	return ""
}
