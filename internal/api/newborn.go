package api

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// newborn answers while the nodes of a new cluster have not all met yet.
type newborn struct {
	hadv1.UnimplementedHAServer
	cluster, self string
	version       *hadv1.VersionResponse
	waiting       func() []string
	next          func() string
}

// Newborn returns a server that tells who is missing, and what a person could do
// about it, and refuses the rest.
func Newborn(cluster, self string, version *hadv1.VersionResponse, waiting func() []string, next func() string) *grpc.Server {
	n := &newborn{cluster: cluster, self: self, version: version, waiting: waiting, next: next}
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			if status.Code(err) == codes.Unimplemented {
				return nil, n.unborn()
			}
			return resp, err
		}),
		grpc.StreamInterceptor(func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error { return n.unborn() }),
	)
	hadv1.RegisterHAServer(g, n)
	return g
}

const bornWhen = "a new cluster starts when all its nodes have met once"

func (n *newborn) unborn() error {
	return status.Error(codes.Unavailable, bornWhen+": "+strings.Join(n.waiting(), "; "))
}

// Status implements HA.
func (n *newborn) Status(context.Context, *hadv1.StatusRequest) (*hadv1.StatusResponse, error) {
	return &hadv1.StatusResponse{
		Cluster: n.cluster, AnsweredBy: n.self, At: timestamppb.Now(), Warnings: n.waiting(),
		Freshness: &hadv1.Freshness{Note: bornWhen},
		Ownership: &hadv1.Ownership{State: hadv1.Ownership_STATE_UNKNOWN, Why: bornWhen},
		Next:      n.next(),
	}, nil
}

// Version implements HA.
func (n *newborn) Version(context.Context, *hadv1.VersionRequest) (*hadv1.VersionResponse, error) {
	return n.version, nil
}
