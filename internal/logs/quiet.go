package logs

import (
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Quiet returns a logger for a library whose lines are for those who look into it:
// they are at level debug, but for errors other than those named by how their
// messages begin. What of it matters to an operator, the caller says in its own
// words.
func Quiet(l hclog.Logger, expected ...string) hclog.Logger {
	return &quiet{Logger: l, expected: expected}
}

type quiet struct {
	hclog.Logger
	expected []string
}

// Log implements hclog.Logger, as do the others.
func (q *quiet) Log(level hclog.Level, msg string, args ...any) {
	if level == hclog.Error {
		q.Error(msg, args...)
		return
	}
	q.Logger.Log(min(level, hclog.Debug), msg, args...)
}

func (q *quiet) Info(msg string, args ...any) { q.Debug(msg, args...) }
func (q *quiet) Warn(msg string, args ...any) { q.Debug(msg, args...) }

func (q *quiet) Error(msg string, args ...any) {
	for _, e := range q.expected {
		if strings.HasPrefix(msg, e) {
			q.Debug(msg, args...)
			return
		}
	}
	q.Logger.Error(msg, args...)
}

func (q *quiet) With(args ...any) hclog.Logger {
	return &quiet{q.Logger.With(args...), q.expected}
}

func (q *quiet) Named(name string) hclog.Logger { return &quiet{q.Logger.Named(name), q.expected} }

func (q *quiet) ResetNamed(name string) hclog.Logger {
	return &quiet{q.Logger.ResetNamed(name), q.expected}
}
