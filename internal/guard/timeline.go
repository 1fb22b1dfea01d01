package guard

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// timeline is the timed steps of a release.
type timeline struct{ steps []*hadv1.Step }

// run does one step and notes how long it took and how it ended.
func (t *timeline) run(name string, step func() error) error {
	started := time.Now()
	err := step()
	s := &hadv1.Step{Name: name, Started: timestamppb.New(started), DurationNs: int64(time.Since(started))}
	if err != nil {
		// A protobuf string must be UTF-8, and a script's name need not be.
		s.Error = strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "\uFFFD"), "\n", "; ")
	}
	t.steps = append(t.steps, s)
	return err
}
