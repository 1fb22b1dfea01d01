// Package steps times the parts of an acquisition or a release for the log.
package steps

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// Timeline collects the timed steps of one acquisition or release. The zero
// value is empty; methods may be called from several goroutines.
type Timeline struct {
	mu    sync.Mutex
	steps []*hadv1.Step
}

// Run does one step and notes how long it took and how it ended. It returns
// the step's error.
func (t *Timeline) Run(name string, step func() error) error {
	started := time.Now()
	err := step()
	s := &hadv1.Step{Name: name, Started: timestamppb.New(started), DurationNs: int64(time.Since(started))}
	if err != nil {
		s.Error = Printable(err.Error())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, s)
	return err
}

// List returns the steps so far, in the order in which they ended.
func (t *Timeline) List() []*hadv1.Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}

// Printable makes a text fit for the log: names of scripts may hold any
// bytes, a protobuf string may not; and joined errors have a line each.
func Printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\n", "; ")
}
