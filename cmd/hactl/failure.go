package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes, stable for scripts.
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2   // wrong usage or an invalid file
	exitRefused      = 3   // refused by the current state
	exitUnreachable  = 4   // no daemon, no leader or no quorum
	exitUnknown      = 5   // a write whose outcome isn't known
	exitNotPermitted = 6   // the socket or the operation is for somebody else
	exitInterrupted  = 130 // 128 + SIGINT, as shells say it
)

// failure is an error with the exit code it leads to. Without err nothing is
// printed: the verb has said all there is.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// errNoAnswer means that the daemon has said nothing in the time allowed.
var errNoAnswer = errors.New("no answer from had")

func noAnswer(within time.Duration) error {
	return fail(exitUnreachable, "%w within %s (--timeout gives it longer)", errNoAnswer, within)
}

// asFailure finds the exit code and the sentence for any error of a verb: its
// own failures as they are, errors of the service by their status code.
func asFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if lost, ok := errors.AsType[*lostError](err); ok {
		return lost.failure()
	}
	s, ok := status.FromError(err)
	if !ok {
		return &failure{exitFailed, err}
	}
	sentence := s.Message()
	if sentence == "" {
		sentence = "the daemon says " + s.Code().String()
	}
	switch s.Code() {
	case codes.InvalidArgument, codes.OutOfRange:
		return &failure{exitUsage, errors.New(sentence)}
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists, codes.NotFound:
		return &failure{exitRefused, errors.New(sentence)}
	case codes.Unavailable, codes.DeadlineExceeded: // of a write, see outcomeUnknown
		return &failure{exitUnreachable, errors.New(sentence)}
	case codes.PermissionDenied, codes.Unauthenticated:
		return &failure{exitNotPermitted, errors.New(sentence)}
	case codes.Canceled:
		return &failure{exitFailed, context.Canceled}
	case codes.Unimplemented:
		return &failure{exitFailed, fmt.Errorf("the had that answers doesn't know the request: it is older than this hactl (hactl version shows both); upgrade it, or use the hactl it came with")}
	}
	return &failure{exitFailed, errors.New(sentence)}
}

// outcomeUnknown reports whether the write that failed with err may have
// happened all the same: nobody answered, or the daemon couldn't tell.
func outcomeUnknown(err error) bool {
	if lost, ok := errors.AsType[*lostError](err); ok {
		return lost.connected
	}
	code := status.Code(err)
	return errors.Is(err, errNoAnswer) || code == codes.DeadlineExceeded || code == codes.Canceled
}

// lostError is an RPC that got no answer because there was no connection.
type lostError struct {
	socket    string // or the address of a node elsewhere
	remote    bool
	connected bool  // it broke; false: there never was one
	dial      error // why the latest attempt to connect failed
	err       error // what the RPC returned
}

func (e *lostError) Error() string { return e.failure().Error() }
func (e *lostError) Unwrap() error { return e.err }

func (e *lostError) failure() *failure {
	switch {
	case e.remote:
		return e.notReached()
	case errors.Is(e.dial, fs.ErrPermission):
		return notPermitted(e.socket)
	case errors.Is(e.dial, fs.ErrNotExist):
		return &failure{exitUnreachable, fmt.Errorf("no had socket at %s: is had running here? systemctl status had", e.socket)}
	case errors.Is(e.dial, syscall.ECONNREFUSED):
		return &failure{exitUnreachable, fmt.Errorf("nobody listens on %s: has had ended? systemctl status had", e.socket)}
	case e.dial != nil:
		return &failure{exitUnreachable, fmt.Errorf("connect to had: %w", e.dial)}
	}
	return &failure{exitUnreachable, fmt.Errorf("the connection to had on %s broke: is it restarting? systemctl status had", e.socket)}
}

func notPermitted(path string) *failure {
	return &failure{exitNotPermitted, fmt.Errorf("open %s: the socket is for root only: try sudo", path)}
}
