package api

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/failover"
	"had/internal/mirror"
)

// errNoLeader is for writes that reach a node which knows no leader.
var errNoLeader = errors.New("no leader is known: no majority of the nodes can reach each other, or an election is under way")

// statusOf maps an error to the code that hactl's exit codes follow.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err // it came from another node, which has mapped it
	}
	var refused *cluster.RefusedError
	var leveled *cluster.LevelError
	code := codes.Internal
	switch {
	case errors.As(err, &refused), errors.As(err, &leveled), errors.Is(err, failover.ErrRefused), errors.Is(err, mirror.ErrRefused):
		code = codes.FailedPrecondition
	case errors.Is(err, errNoLeader), errors.Is(err, cluster.ErrNotLeader):
		code = codes.Unavailable
	case errors.Is(err, cluster.ErrOutcomeUnknown), errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Error(code, err.Error())
}
