package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/failover"
	"had/internal/policy"
	"had/internal/token"
	hadv1 "had/proto/had/v1"
)

// local reports whether a request came through the root-only socket of this
// host. Contents of tokens take no other way.
func local(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	return ok && p.Addr.Network() == "unix"
}

var errNotLocal = status.Error(codes.PermissionDenied, "the content of a token is taken and shown only on a node itself, by root: ask there")

// tokenSummaries are the tokens of a policy, and after them what the log still
// has and no policy names.
func tokenSummaries(view cluster.View, p *policy.Policy) (out []*hadv1.TokenSummary) {
	named := map[string]bool{}
	if p != nil {
		for _, t := range p.Tokens {
			named[t.Name] = true
			s := &hadv1.TokenSummary{Name: t.Name, Location: t.Location, Replicated: t.Replicate, RenderTo: t.RenderTo}
			if t.Replicate {
				fill(s, view.Token(t.Name))
			}
			out = append(out, s)
		}
	}
	for _, t := range view.Tokens {
		if !named[t.GetName()] {
			s := &hadv1.TokenSummary{Name: t.GetName(), Replicated: true}
			fill(s, t)
			out = append(out, s)
		}
	}
	return out
}

func fill(s *hadv1.TokenSummary, t *hadv1.Token) {
	c := t.GetCurrent()
	s.Version, s.Size, s.At, s.By, s.Reason = c.GetVersion(), c.GetSize(), c.GetAt(), c.GetBy(), c.GetReason()
	for _, e := range t.GetEarlier() {
		s.Earlier = append(s.Earlier, e.GetVersion())
	}
}

// tokensDiffer warns of nodes whose token keys differ, or whose location that
// isn't replicated isn't one place: a node has no way to see that by itself.
func tokensDiffer(r *hadv1.StatusResponse) (out []string) {
	keys, places := map[string][]string{}, map[string]map[string][]string{}
	for _, n := range r.GetNodes() {
		if !n.GetReachable() {
			continue
		}
		if id := n.GetTokens().GetKeyId(); id != "" {
			keys[id] = append(keys[id], n.GetName())
		}
		for _, p := range n.GetTokens().GetPlaces() {
			if p.GetShared() == "" {
				continue
			}
			if places[p.GetName()] == nil {
				places[p.GetName()] = map[string][]string{}
			}
			places[p.GetName()][p.GetShared()] = append(places[p.GetName()][p.GetShared()], n.GetName())
		}
	}
	if len(keys) > 1 {
		out = append(out, "the token keys are not the same on "+groups(keys)+": copy the file of one of them to the others, and restart nothing")
	}
	for _, name := range slices.Sorted(maps.Keys(places)) {
		if len(places[name]) > 1 {
			out = append(out, fmt.Sprintf("reconnect token %q is not in one place on %s: mount the same storage on all of them, or no client can reconnect", name, groups(places[name])))
		}
	}
	return out
}

// nextKey is the command that ends a wait for a token key that no node has.
func nextKey(r *hadv1.StatusResponse) string {
	lacking := false
	for _, n := range r.GetNodes() {
		if n.GetTokens().GetKeyId() != "" {
			return "" // somebody has one: it has to be copied
		}
		lacking = lacking || slices.ContainsFunc(n.GetReasons(), func(why string) bool { return strings.HasPrefix(why, token.ErrNoKey.Error()) })
	}
	if !lacking {
		return ""
	}
	return "hactl token key"
}

// groups names nodes by what they have: "alpha, on beta and gamma".
func groups(nodes map[string][]string) string {
	var all []string
	for _, names := range nodes {
		all = append(all, strings.Join(names, " and "))
	}
	slices.Sort(all)
	return strings.Join(all, ", on ")
}

// TokenShow implements HA. The leader answers, but for the content, which this
// node decrypts itself.
func (s *Server) TokenShow(ctx context.Context, req *hadv1.TokenShowRequest) (*hadv1.TokenShowResponse, error) {
	if req.GetContent() {
		if !local(ctx) {
			return nil, errNotLocal
		}
		if req.GetName() == "" {
			return nil, status.Error(codes.InvalidArgument, "name the token whose content you want")
		}
	} else if c, out, err := s.leader(ctx); err == nil && c != nil {
		return c.TokenShow(out, req)
	}
	view, _ := s.cfg.Node.View()
	resp := &hadv1.TokenShowResponse{Tokens: tokenSummaries(view, s.policy.of(view))}
	if req.GetName() == "" {
		return resp, nil
	}
	resp.Tokens = slices.DeleteFunc(resp.Tokens, func(t *hadv1.TokenSummary) bool { return t.GetName() != req.GetName() })
	if len(resp.Tokens) == 0 {
		return nil, unknownToken(req.GetName())
	}
	if !req.GetContent() {
		return resp, nil
	}
	if !resp.Tokens[0].GetReplicated() {
		return nil, refuse("token %q isn't replicated: its content is in %s and nowhere else", req.GetName(), resp.Tokens[0].GetLocation())
	}
	content, err := s.cfg.Tokens.Open(req.GetName())
	if err != nil {
		return nil, refuse("%v", err)
	}
	resp.Content = content
	return resp, nil
}

func unknownToken(name string) error {
	return status.Errorf(codes.InvalidArgument, "the policy has no reconnect_token %q: hactl token show lists them", name)
}

func refuse(format string, args ...any) error {
	return statusOf(fmt.Errorf("%w: %s", failover.ErrRefused, fmt.Sprintf(format, args...)))
}

// TokenSet implements HA. The content is sealed here: whoever leads gets only
// that.
func (s *Server) TokenSet(ctx context.Context, req *hadv1.TokenSetRequest) (*hadv1.TokenSetResponse, error) {
	if !local(ctx) {
		return nil, errNotLocal
	}
	defer clear(req.Content)
	view, _ := s.cfg.Node.View()
	p := s.policy.of(view)
	t, err := replicatedToken(p, req.GetName())
	if err != nil {
		return nil, err
	}
	if len(req.GetContent()) > 0 {
		if same := s.alreadySet(view, req); same != nil {
			return same, nil
		}
	} else {
		n := int(req.GetRandom())
		if n == 0 {
			n = t.Bytes
		}
		if n == 0 {
			return nil, status.Errorf(codes.InvalidArgument, "the policy doesn't say how many bytes token %q has: add bytes = 80 to it, or say how many (hactl token rotate %s --bytes 80)", t.Name, t.Name)
		}
		if req.Content, err = token.Random(n); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	return s.setToken(ctx, t, req)
}

// alreadySet is the answer to a request whose content is the current one, for
// instance because it is the second try of one that went through; nil: it isn't.
func (s *Server) alreadySet(view cluster.View, req *hadv1.TokenSetRequest) *hadv1.TokenSetResponse {
	v := view.Token(req.GetName()).GetCurrent()
	if v == nil || req.GetCheckVersion() && v.GetVersion() != req.GetExpectedVersion() && v.GetVersion() != req.GetExpectedVersion()+1 {
		return nil
	}
	content, err := s.cfg.Tokens.Open(req.GetName())
	defer clear(content)
	if err != nil || !bytes.Equal(content, req.GetContent()) {
		return nil
	}
	return &hadv1.TokenSetResponse{Version: v.GetVersion(), Index: v.GetIndex(), Size: v.GetSize(), Unchanged: true}
}

func replicatedToken(p *policy.Policy, name string) (policy.Token, error) {
	if p != nil {
		for _, t := range p.Tokens {
			switch {
			case t.Name != name:
			case !t.Replicate:
				return t, refuse("token %q isn't replicated: change %s itself", name, t.Location)
			default:
				return t, nil
			}
		}
	}
	return policy.Token{}, unknownToken(name)
}

// setTries is how often a version that somebody else made meanwhile is followed
// by another one, when nobody insists on which one it follows.
const setTries = 5

func (s *Server) setToken(ctx context.Context, t policy.Token, req *hadv1.TokenSetRequest) (*hadv1.TokenSetResponse, error) {
	by := s.askedBy(ctx, req.GetBy())
	for try := 1; ; try++ {
		view, changed := s.cfg.Node.View()
		expected := view.Token(t.Name).GetCurrent().GetVersion()
		if req.GetCheckVersion() {
			expected = req.GetExpectedVersion()
		}
		r, err := s.cfg.Tokens.Seal(t, expected, req.GetContent())
		if err != nil {
			return nil, refuse("%v", err)
		}
		r.By, r.Reason = by, req.GetReason()
		index, err := s.proposeToken(ctx, &hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: r}})
		refused := &cluster.RefusedError{}
		switch {
		case err == nil:
			return &hadv1.TokenSetResponse{Version: expected + 1, Index: index, Size: r.GetSize()}, nil
		case !errors.As(err, &refused) || req.GetCheckVersion() || try == setTries:
			return nil, statusOf(err)
		}
		// This node may not have applied yet what the leader refused it for.
		if err := await(ctx, changed); err != nil {
			return nil, statusOf(err)
		}
	}
}

// await waits a moment for a change of the state.
func await(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}

// proposeToken has a record committed by whoever leads. A second try of one that
// went through is refused by its version.
func (s *Server) proposeToken(ctx context.Context, cmd *hadv1.Command) (uint64, error) {
	until := time.Now().Add(min(6*s.cfg.Timing.Election, patience))
	for {
		s.settle(ctx, until)
		changed := s.cfg.Node.LeadershipChanged()
		index, err := s.proposeOnce(ctx, cmd)
		if code := status.Code(statusOf(err)); err == nil || code != codes.Unavailable || time.Now().After(until) {
			return index, err
		}
		pause := time.NewTimer(s.cfg.Timing.Election / 2)
		select {
		case <-ctx.Done():
			return 0, err
		case <-changed:
		case <-pause.C:
		}
	}
}

func (s *Server) proposeOnce(ctx context.Context, cmd *hadv1.Command) (uint64, error) {
	l := s.cfg.Node.Leadership()
	switch {
	case l.Leading:
		v, err := s.cfg.Node.Propose(ctx, cmd)
		return v.Index, err
	case l.Leader == "":
		return 0, errNoLeader
	}
	resp, err := s.cfg.Peers.Propose(ctx, l.Leader, cmd)
	switch {
	case err != nil:
		return 0, err
	case resp.GetRefused() != "":
		return 0, &cluster.RefusedError{Reason: resp.GetRefused(), Index: resp.GetIndex()}
	}
	return resp.GetIndex(), nil
}

// TokenForget implements HA.
func (s *Server) TokenForget(ctx context.Context, req *hadv1.TokenForgetRequest) (*hadv1.TokenForgetResponse, error) {
	view, _ := s.cfg.Node.View()
	if _, err := replicatedToken(s.policy.of(view), req.GetName()); err == nil {
		return nil, refuse("the policy in force replicates token %q: take it out of the policy first", req.GetName())
	}
	t := view.Token(req.GetName())
	if t == nil {
		return nil, refuse("the log has no content of a token %q", req.GetName())
	}
	index, err := s.proposeToken(ctx, &hadv1.Command{Record: &hadv1.Command_TokenForget{TokenForget: &hadv1.TokenForget{
		Name: req.GetName(), ExpectedVersion: t.GetCurrent().GetVersion(), By: s.askedBy(ctx, req.GetBy()), Reason: req.GetReason(),
	}}})
	if err != nil {
		return nil, statusOf(err)
	}
	return &hadv1.TokenForgetResponse{Index: index}, nil
}

// TokenKey implements HA.
func (s *Server) TokenKey(ctx context.Context, _ *hadv1.TokenKeyRequest) (*hadv1.TokenKeyResponse, error) {
	if !local(ctx) {
		return nil, status.Error(codes.PermissionDenied, "a token key is made on a node itself, by root: ask there")
	}
	resp := &hadv1.TokenKeyResponse{Node: s.cfg.Self, Path: s.cfg.TokenKey}
	key, err := token.ReadKey(s.cfg.TokenKey)
	if errors.Is(err, token.ErrNoKey) {
		view, _ := s.cfg.Node.View()
		if len(view.Tokens) > 0 {
			return nil, refuse("the cluster has a token key, and a new one would open nothing: copy %s from another node", s.cfg.TokenKey)
		}
		if key, err = token.MakeKey(s.cfg.TokenKey); errors.Is(err, fs.ErrExist) {
			key, err = token.ReadKey(s.cfg.TokenKey)
		} else {
			resp.Made = err == nil
		}
	}
	if err != nil {
		return nil, statusOf(err)
	}
	resp.KeyId = key.ID()
	return resp, nil
}
