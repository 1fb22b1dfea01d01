package failover

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// timeline collects the timed steps of one acquisition or release.
type timeline struct {
	mu    sync.Mutex
	steps []*hadv1.Step
}

// run does one step and notes how long it took and how it ended.
func (t *timeline) run(name string, step func() error) error {
	started := time.Now()
	err := step()
	s := &hadv1.Step{Name: name, Started: timestamppb.New(started), DurationNs: int64(time.Since(started))}
	if err != nil {
		s.Error = printable(err.Error())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, s)
	return err
}

// printable makes a text fit for the log: names of scripts may hold any
// bytes, a protobuf string may not; and joined errors have a line each.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\n", "; ")
}

func (t *timeline) list() []*hadv1.Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}
