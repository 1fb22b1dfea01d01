package api

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

func TestLevelsNameWhoIsBehind(t *testing.T) {
	nodes := []*hadv1.NodeStatus{
		{Name: "alpha", Reachable: true, RecordLevel: level.Known},
		{Name: "beta", Reachable: true, RecordLevel: level.First, Version: "1.0"},
		{Name: "gamma", RecordLevel: level.Known}, // before it fell silent: it may have been replaced
	}
	s := new(Server)
	for _, c := range []struct {
		leading bool
		inForce uint32
		want    []string
	}{
		{true, level.First, []string{"beta runs had 1.0, which reads records up to level 1: upgrade it", "gamma doesn't answer, and may read records up to level 1 only: start had there"}},
		{false, level.First, []string{"beta runs had 1.0, which reads records up to level 1: upgrade it"}}, // it has asked nobody
		{true, level.Known, nil},
	} {
		view := cluster.View{LevelRise: &hadv1.LevelInForce{Rise: &hadv1.LevelRise{Level: c.inForce}}}
		got := s.levels(view, nodes, c.leading)
		if !slices.Equal(got.GetBehind(), c.want) || got.GetInForce() != c.inForce || got.GetKnown() != level.Known {
			t.Errorf("leading %t, level %d: %v", c.leading, c.inForce, got)
		}
	}
}

// older is a had from before there were levels.
type older struct {
	hadv1.UnimplementedHAServer
	hadv1.UnimplementedPeerServer
	proposed int
}

func (*older) Version(context.Context, *hadv1.VersionRequest) (*hadv1.VersionResponse, error) {
	return &hadv1.VersionResponse{Node: "beta", Version: "1.0"}, nil
}

func (o *older) Propose(context.Context, *hadv1.ProposeRequest) (*hadv1.ProposeResponse, error) {
	o.proposed++
	return &hadv1.ProposeResponse{}, nil
}

// A leader that is older than this node gets whole what it gets: a field that it
// would pass over would be in the log as if nobody had meant it.
func TestAnOlderNodeIsAskedNothingThatItReadsInPart(t *testing.T) {
	old := new(older)
	g := grpc.NewServer()
	hadv1.RegisterHAServer(g, old)
	hadv1.RegisterPeerServer(g, old)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	p := NewPeers(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	})
	t.Cleanup(func() { _ = p.Close() })

	later := &hadv1.Command{Record: &hadv1.Command_LevelRise{LevelRise: &hadv1.LevelRise{Level: 2}}}
	_, err = p.Propose(t.Context(), "beta", later)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `beta runs had 1.0, which doesn't know "level_rise"`) || old.proposed != 0 {
		t.Errorf("a later record, proposed %d times: %v", old.proposed, err)
	}
	if _, err = p.Propose(t.Context(), "beta", &hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{}}}); err != nil || old.proposed != 1 {
		t.Errorf("an old record, proposed %d times: %v", old.proposed, err)
	}
	ha, err := p.HA("beta")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ha.UpgradeFinish(t.Context(), &hadv1.UpgradeFinishRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "had on beta is older") {
		t.Errorf("a request it doesn't know: %v", err)
	}
}
