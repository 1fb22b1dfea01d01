package api

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// levels says what the log may have in it, and who keeps it from more. Only a
// leader has asked the other nodes.
func (s *Server) levels(view cluster.View, nodes []*hadv1.NodeStatus, leading bool) *hadv1.LevelStatus {
	out := &hadv1.LevelStatus{InForce: view.Level(), Known: level.Known}
	for _, n := range nodes {
		out.Known = max(out.Known, n.GetRecordLevel())
	}
	for _, n := range nodes {
		switch {
		case out.GetInForce() == out.GetKnown(), n.GetRecordLevel() == out.GetKnown() && n.GetReachable():
		case n.GetReachable():
			out.Behind = append(out.Behind, fmt.Sprintf("%s runs had %s, which reads records up to level %d: upgrade it", n.GetName(), n.GetVersion(), n.GetRecordLevel()))
		case leading:
			out.Behind = append(out.Behind, fmt.Sprintf("%s doesn't answer, and may read records up to level %d only: start had there", n.GetName(), out.GetInForce()))
		}
	}
	return out
}

// whole sends a request to another node only if that node's had reads all of it.
// One that doesn't know the request at all is said to be older.
func whole(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if m, ok := req.(proto.Message); ok {
		if needs, _ := level.Needs(m); needs > level.First {
			v, err := hadv1.NewHAClient(conn).Version(ctx, &hadv1.VersionRequest{})
			if err != nil {
				return err
			}
			if lacks := level.Lacks(m, v); lacks != "" {
				return status.Error(codes.FailedPrecondition, lacks)
			}
		}
	}
	err := invoke(ctx, method, req, reply, conn, opts...)
	if status.Code(err) == codes.Unimplemented {
		return status.Errorf(codes.FailedPrecondition, "had on %s is older than the one that was asked, and doesn't know the request: upgrade it first", strings.TrimPrefix(conn.Target(), scheme))
	}
	return err
}

// UpgradeFinish implements HA.
func (s *Server) UpgradeFinish(ctx context.Context, req *hadv1.UpgradeFinishRequest) (*hadv1.UpgradeFinishResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.UpgradeFinishResponse, error) {
			index, err := s.cfg.Node.RaiseLevel(ctx, level.Known, req.GetBy(), req.GetReason())
			if err != nil {
				return nil, err
			}
			view, _ := s.cfg.Node.View()
			return &hadv1.UpgradeFinishResponse{Index: index, Level: view.Level()}, nil
		},
		passOn(req, hadv1.HAClient.UpgradeFinish))
}
