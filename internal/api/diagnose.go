package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/failover"
	"had/internal/logs"
	hadv1 "had/proto/had/v1"
)

// isMember refuses a name that no node has: that is the asker's fault.
func (s *Server) isMember(name string) error {
	var names []string
	for _, m := range s.cfg.Members() {
		if m.GetName() == name {
			return nil
		}
		names = append(names, m.GetName())
	}
	return status.Errorf(codes.InvalidArgument, "%q is not a node of %s: %s are", name, s.cfg.Cluster, strings.Join(names, ", "))
}

// WhyNot implements HA. The leader answers; without one, the node that is asked
// says what it knows.
func (s *Server) WhyNot(ctx context.Context, req *hadv1.WhyNotRequest) (*hadv1.WhyNotResponse, error) {
	if err := s.isMember(req.GetNode()); err != nil {
		return nil, err
	}
	return onLeaderOrHere(ctx, s,
		func(doubt string) *hadv1.WhyNotResponse {
			r := s.cfg.Controller.WhyNot(req.GetNode())
			r.AnsweredBy, r.Doubt = s.cfg.Self, doubt
			return r
		},
		passOn(req, hadv1.HAClient.WhyNot))
}

// onLeaderOrHere has a read answered by the leader, after a quorum has confirmed
// it; a node that can't reach one answers itself, and says what is to be doubted.
func onLeaderOrHere[R any](ctx context.Context, s *Server, here func(doubt string) R, there func(context.Context, hadv1.HAClient) (R, error)) (R, error) {
	c, out, err := s.leader(ctx)
	switch {
	case err != nil:
		return here(err.Error()), nil
	case c == nil:
		return here(s.confirm(ctx).GetNote()), nil
	}
	r, err := there(out, c)
	if code := status.Code(err); code == codes.Unavailable || code == codes.Unimplemented {
		return here(fmt.Sprintf("%s leads, and could not answer: %v", s.cfg.Node.Leadership().Leader, err)), nil
	}
	return r, err
}

// inspectLimit is how long a node has to look at itself. Fence devices take
// longest.
const inspectLimit = 20 * time.Second

// Preflight implements HA. Every node looks at itself; the leader, which owns,
// asks them and knows which hardware addresses are no strangers'.
func (s *Server) Preflight(ctx context.Context, req *hadv1.PreflightRequest) (*hadv1.PreflightResponse, error) {
	if n := req.GetNode(); n != "" {
		if err := s.isMember(n); err != nil {
			return nil, err
		}
	}
	return onLeaderOrHere(ctx, s,
		func(doubt string) *hadv1.PreflightResponse { return s.preflight(ctx, req, doubt) },
		passOn(req, hadv1.HAClient.Preflight))
}

func (s *Server) preflight(ctx context.Context, req *hadv1.PreflightRequest, doubt string) *hadv1.PreflightResponse {
	ask := &hadv1.InspectRequest{RunTests: req.GetRunTests()}
	if macs, err := s.cfg.Controller.OwnerMACs(); err == nil {
		ask.OwnerMacs = macs
	}
	for name, fresh := range s.cfg.Controller.Status().Fresh {
		if fresh {
			ask.Alive = append(ask.Alive, name)
		}
	}
	ask.Alive = append(ask.Alive, s.cfg.Self)
	resp := &hadv1.PreflightResponse{AnsweredBy: s.cfg.Self, Doubt: doubt}
	looks := s.inspectAll(ctx, ask, func(m *hadv1.Member) bool {
		return m.GetName() == req.GetNode() || req.GetNode() == "" && !m.GetWitness()
	})
	for _, l := range looks {
		n := &hadv1.NodePreflight{Node: l.node, Owns: l.found.GetOwns(), Findings: l.found.GetFindings()}
		if l.err != nil {
			n.Findings = []*hadv1.Finding{{
				Check: "answers", Level: hadv1.Finding_LEVEL_FAIL, Detail: "it could not be asked: " + plainly(l.err),
				Advice: "is its host up, does had run there (systemctl status had), and is it of this version?",
			}}
		}
		resp.Nodes = append(resp.Nodes, n)
	}
	if req.GetNode() != "" {
		// What it has must be compared with what the others have.
		looks = append(looks, s.inspectAll(ctx, &hadv1.InspectRequest{HooksOnly: true}, func(m *hadv1.Member) bool {
			return m.GetName() != req.GetNode() && !m.GetWitness()
		})...)
	}
	view, _ := s.cfg.Node.View()
	resp.Cluster = slices.Concat(s.majority(doubt), standstill(view), compare(looks))
	return resp
}

// standstill is what people and limits keep from moving, whatever a node could.
func standstill(view cluster.View) (out []*hadv1.Finding) {
	if f := view.Frozen; f != nil {
		out = append(out, &hadv1.Finding{
			Check: "freeze", Level: hadv1.Finding_LEVEL_FAIL, Advice: "hactl unfreeze",
			Detail: failover.FrozenBy(f) + ": nobody takes over by itself before that",
		})
	}
	if h := view.Held; h != nil {
		out = append(out, &hadv1.Finding{
			Check: "limits", Level: hadv1.Finding_LEVEL_WARN, Advice: "mend what fails, then: hactl resume",
			Detail: "checks and scripts change the owner no more: " + h.GetHold().GetReason(),
		})
	}
	return out
}

// plainly is the error of a call without gRPC's words around it.
func plainly(err error) string {
	text := status.Convert(err).Message()
	if _, inner, ok := strings.Cut(text, "Error while dialing: "); ok {
		return strings.TrimSuffix(inner, `"`)
	}
	return text
}

// majority is whether anybody could be made the owner at all.
func (s *Server) majority(doubt string) []*hadv1.Finding {
	if doubt != "" {
		return []*hadv1.Finding{{
			Check: "quorum", Level: hadv1.Finding_LEVEL_FAIL, Detail: "nobody could take over now: " + doubt,
			Advice: "start had on the nodes that are missing, or mend the network between them",
		}}
	}
	return []*hadv1.Finding{{Check: "quorum", Level: hadv1.Finding_LEVEL_OK, Detail: s.cfg.Self + " leads, and a majority of the nodes has just confirmed it"}}
}

// look is what one node found about itself.
type look struct {
	node  string
	found *hadv1.InspectResponse
	err   error
}

// inspectAll asks nodes side by side.
func (s *Server) inspectAll(ctx context.Context, req *hadv1.InspectRequest, want func(*hadv1.Member) bool) []look {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	var looks []look
	for _, m := range s.cfg.Members() {
		if want(m) {
			looks = append(looks, look{node: m.GetName()})
		}
	}
	var asking sync.WaitGroup
	for i := range looks {
		asking.Go(func() {
			l := &looks[i]
			if l.node == s.cfg.Self {
				l.found = s.cfg.Inspect(ctx, req)
				return
			}
			l.found, l.err = s.cfg.Peers.Inspect(ctx, l.node, req)
		})
	}
	asking.Wait()
	return looks
}

// Inspect implements Peer.
func (s *Server) Inspect(ctx context.Context, req *hadv1.InspectRequest) (*hadv1.InspectResponse, error) {
	return s.cfg.Inspect(ctx, req), nil
}

// compare finds what differs between nodes and must not.
func compare(looks []look) (out []*hadv1.Finding) {
	add := func(check string, level hadv1.Finding_Level, advice, differs, same string, of func(*hadv1.InspectResponse) string) {
		groups, order := map[string][]string{}, []string(nil)
		asked := 0
		for _, l := range looks {
			if l.found == nil {
				continue
			}
			asked++
			v := of(l.found)
			if groups[v] == nil {
				order = append(order, v)
			}
			groups[v] = append(groups[v], l.node)
		}
		switch {
		case asked < 2:
			return
		case len(order) == 1:
			out = append(out, &hadv1.Finding{Check: check, Level: hadv1.Finding_LEVEL_OK, Detail: same + " on " + strings.Join(groups[order[0]], ", ")})
			return
		}
		var parts []string
		for _, v := range order {
			parts = append(parts, strings.Join(groups[v], " and "))
		}
		out = append(out, &hadv1.Finding{Check: check, Level: level, Detail: differs + " on " + strings.Join(parts, ", on "), Advice: advice})
	}
	const warn, fail = hadv1.Finding_LEVEL_WARN, hadv1.Finding_LEVEL_FAIL
	add("hooks", fail, "make them the same: hactl hook list shows what differs", "the hook folders are not the same", "the hook folders are the same", func(r *hadv1.InspectResponse) string {
		var all []string
		for _, f := range r.GetFolders() {
			all = append(all, f.GetDigest()+f.GetError())
		}
		return strings.Join(all, " ")
	})
	add("policy", warn, "wait a moment; a node that stays behind says why in hactl status", "the policy's version is not the same", "the policy's version is the same", func(r *hadv1.InspectResponse) string {
		return fmt.Sprint(r.GetPolicyVersion())
	})
	add("version", warn, "upgrade the others", "the version of had is not the same", "the version of had is the same", (*hadv1.InspectResponse).GetVersion)
	return out
}

// HookList implements HA: what the node that is asked would run, and the others.
func (s *Server) HookList(ctx context.Context, _ *hadv1.HookListRequest) (*hadv1.HookListResponse, error) {
	looks := s.inspectAll(ctx, &hadv1.InspectRequest{HooksOnly: true}, func(m *hadv1.Member) bool {
		return m.GetName() == s.cfg.Self || !m.GetWitness()
	})
	slices.SortStableFunc(looks, func(a, b look) int {
		switch {
		case a.node == s.cfg.Self:
			return -1
		case b.node == s.cfg.Self:
			return 1
		}
		return 0
	})
	resp := &hadv1.HookListResponse{AnsweredBy: s.cfg.Self}
	for _, l := range looks {
		n := &hadv1.NodeHooks{Node: l.node, Folders: l.found.GetFolders()}
		if l.err != nil {
			n.Error = plainly(l.err)
		}
		resp.Nodes = append(resp.Nodes, n)
	}
	return resp, nil
}

// HookRun implements HA. It runs Test scripts and no others: those of the other
// stages start and stop services, which only a turn of ownership may.
func (s *Server) HookRun(ctx context.Context, req *hadv1.HookRunRequest) (*hadv1.HookRunResponse, error) {
	if req.GetStage() != "Test" {
		return nil, status.Errorf(codes.InvalidArgument, "only Test can be run by hand: %q belongs to a turn of ownership, and outside of one would start or stop services on a node that doesn't own; hactl move exercises all of them", req.GetStage())
	}
	var only []netip.Addr
	if want := req.GetVip(); want != "" {
		view, _ := s.cfg.Node.View()
		if p := s.policy.of(view); p != nil {
			for _, v := range p.VIPs {
				if v.Name == want || v.Address.String() == want {
					only = append(only, v.Address)
				}
			}
		}
		if only == nil {
			return nil, status.Errorf(codes.InvalidArgument, "the policy has no vip %q: hactl policy show", want)
		}
	}
	results, err := s.cfg.Controller.RunTests(ctx, only)
	if results == nil && err != nil {
		return nil, statusOf(err)
	}
	resp := &hadv1.HookRunResponse{Node: s.cfg.Self, Results: failover.HookResults(results)}
	if err != nil {
		resp.Error = err.Error()
	}
	return resp, nil
}

// errNoLog: this process's log is another's.
func errNoLog() error {
	return status.Error(codes.FailedPrecondition, "this had's log can't be changed")
}

// ShowLogLevel implements HA, for the node that is asked.
func (s *Server) ShowLogLevel(context.Context, *hadv1.ShowLogLevelRequest) (*hadv1.ShowLogLevelResponse, error) {
	if s.cfg.Log == nil {
		return nil, errNoLog()
	}
	return &hadv1.ShowLogLevelResponse{Log: s.logLevel()}, nil
}

func (s *Server) logLevel() *hadv1.LogLevelResponse {
	l := s.cfg.Log
	r := &hadv1.LogLevelResponse{Node: s.cfg.Self, Level: l.Level().String(), Json: l.JSON()}
	started, json := l.Started()
	r.StartedLevel, r.StartedJson = started.String(), json
	return r
}

// LogLevel implements HA, for the node that is asked.
func (s *Server) LogLevel(_ context.Context, req *hadv1.LogLevelRequest) (*hadv1.LogLevelResponse, error) {
	l := s.cfg.Log
	if l == nil {
		return nil, errNoLog()
	}
	before, wasJSON := l.Level(), l.JSON()
	if req.GetLevel() != "" {
		level, err := logs.ParseLevel(req.GetLevel())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		l.SetLevel(level)
	}
	if f := req.GetForm(); f != hadv1.LogLevelRequest_FORM_UNSPECIFIED {
		l.SetJSON(f == hadv1.LogLevelRequest_FORM_JSON)
	}
	if l.Level() != before || l.JSON() != wasJSON {
		l.Logger().Warn("the log was changed, until the next start", "level", l.Level().String(), "json", l.JSON(), "was", before.String())
	}
	return s.logLevel(), nil
}
