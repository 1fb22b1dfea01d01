package api

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// No content is taken or shown through anything but the local socket, whoever
// asks.
func TestContentsTakeNoOtherWay(t *testing.T) {
	s := New(Config{Self: "alpha"})
	_, show := s.TokenShow(t.Context(), &hadv1.TokenShowRequest{Name: "tickets", Content: true})
	_, set := s.TokenSet(t.Context(), &hadv1.TokenSetRequest{Name: "tickets", Content: []byte("x")})
	_, key := s.TokenKey(t.Context(), &hadv1.TokenKeyRequest{})
	for what, err := range map[string]error{"show": show, "set": set, "key": key} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A service's change is its owner's own to propose; what an operator set comes
// from any node.
func TestWhichTokenRecordsArePassedOn(t *testing.T) {
	for want, r := range map[bool]*hadv1.TokenSet{true: {Name: "x"}, false: {Name: "x", Epoch: 7, Instance: &hadv1.Instance{}}} {
		if got := passedOn(&hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: r}}); got != want {
			t.Errorf("%v is passed on: %t", r, got)
		}
	}
}

func TestTokenSummaries(t *testing.T) {
	view := cluster.View{Tokens: []*hadv1.Token{
		{Name: "old", Current: &hadv1.TokenVersion{Version: 1}},
		{Name: "tickets", Current: &hadv1.TokenVersion{Version: 3, Size: 80, Sealed: []byte("SEALED")}, Earlier: []*hadv1.TokenVersion{{Version: 2}}},
	}}
	p := &policy.Policy{Tokens: []policy.Token{{Name: "tickets", Location: "/etc/t", Replicate: true}, {Name: "afp", Location: "/srv/a"}, {Name: "new", Location: "/srv/n", Replicate: true}}}
	var got []string
	for _, s := range tokenSummaries(view, p) {
		got = append(got, s.String())
	}
	all := strings.Join(got, "\n")
	if len(got) != 4 || strings.Contains(all, "SEALED") || !strings.Contains(got[0], `version:3`) || !strings.Contains(got[3], `name:"old"`) {
		t.Errorf("\n%s", all)
	}
}

func TestTokensThatDifferAreWarnedAbout(t *testing.T) {
	node := func(name, key, shared string, reachable bool) *hadv1.NodeStatus {
		return &hadv1.NodeStatus{Name: name, Reachable: reachable, Tokens: &hadv1.TokenHealth{KeyId: key, Places: []*hadv1.TokenPlace{{Name: "afp", Shared: shared}}}}
	}
	same := &hadv1.StatusResponse{Nodes: []*hadv1.NodeStatus{node("alpha", "k1", "nfs4 files:/x 2", true), node("beta", "k1", "nfs4 files:/x 2", true), node("gamma", "k2", "", false)}}
	if got := tokensDiffer(same); len(got) > 0 {
		t.Errorf("warned of %q", got)
	}
	same.Nodes[1] = node("beta", "k2", "nfs4 files:/y 2", true)
	got := tokensDiffer(same)
	if len(got) != 2 || !strings.Contains(got[0], "token keys are not the same on alpha, on beta") || !strings.Contains(got[1], `"afp" is not in one place on alpha, on beta`) {
		t.Errorf("%q", got)
	}
}

func TestAMissingKeyIsTheNextThing(t *testing.T) {
	lacking := &hadv1.NodeStatus{Reasons: []string{"this node has no token key (/etc/had/token.key): copy the file"}, Tokens: &hadv1.TokenHealth{}}
	r := &hadv1.StatusResponse{Nodes: []*hadv1.NodeStatus{lacking, lacking}, Ownership: &hadv1.Ownership{State: hadv1.Ownership_STATE_UNOWNED}}
	if got := next(r); got != "hactl token key" {
		t.Errorf("next: %q", got)
	}
	r.Nodes[1] = &hadv1.NodeStatus{Reasons: []string{"no link"}, Tokens: &hadv1.TokenHealth{KeyId: "k1"}}
	if got := next(r); got != "hactl history" {
		t.Errorf("next: %q, though another node has a key to be copied", got)
	}
}

func TestAwaitEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := await(ctx, nil); err == nil {
		t.Error("it goes on although nobody waits any more")
	}
	changed := make(chan struct{})
	close(changed)
	if err := await(t.Context(), changed); err != nil {
		t.Error(err)
	}
}
