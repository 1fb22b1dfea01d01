package failover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/hook"
)

// unrecorded is a recorder for scripts whose results nobody reads.
type unrecorded struct{}

func (unrecorded) Started(context.Context, hook.Running) error               { return nil }
func (unrecorded) Finished(context.Context, hook.Running, hook.Result) error { return nil }

// Real scripts that never end, at each stage: the turn goes on, or is given back,
// within the timeout and the two seconds that ending one may take.
func TestAScriptDelaysATurnNoLongerThanItMay(t *testing.T) {
	const timeout = 200 * time.Millisecond
	for _, stage := range []hook.Stage{hook.Test, hook.PreAcq, hook.PostAcq, hook.PreRel, hook.PostRel} {
		for does, body := range map[string]string{
			"hangs":                     "exec sleep 600",
			"ignores SIGTERM":           `trap "" TERM; while :; do sleep 600; done`,
			"prints without end":        "yes",
			"leaves a daemon and hangs": "sleep 600 & sleep 600",
		} {
			t.Run(fmt.Sprintf("%s %s", stage, does), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				folder := filepath.Join(dir, "192.0.2.1")
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(folder, string(stage)), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				b := newBench(t.Context(), hclog.NewNullLogger())
				b.x.timing = cluster.TimingFor(10 * time.Second) // nobody renews the lease here
				b.x.keeper.timing = b.x.timing
				b.x.hooks = func(string, time.Duration) (Hooks, error) {
					return hook.NewRunner(hook.Config{Dir: dir, Timeout: timeout, Recorder: unrecorded{}})
				}
				in := b.inputs("192.0.2.1")
				in.Policy.Hooks.Dir = dir
				began := time.Now()
				err := b.x.acquire(t.Context(), in, Step{Kind: StepAcquire, Cause: "a test"})
				stops := stage == hook.Test || stage == hook.PreAcq
				if (err != nil) != stops || stops && !strings.Contains(err.Error(), "ran for longer than 200ms") {
					t.Errorf("the turn ended with: %v", err)
				}
				if h := b.x.held(); h.Epoch != 0 {
					b.giveBack(t, h.Epoch)
				}
				// The scripts that print, five at once, take the machine from the others.
				const promised = timeout + 2*time.Second
				if took := time.Since(began); took < timeout || took > 2*promised {
					t.Errorf("with a script that %s the turn took %s; at most %s are promised", does, took, promised)
				}
				if stage != hook.Test && !slices.ContainsFunc(b.diary.all(), func(line string) bool { return strings.HasPrefix(line, "report released") }) {
					t.Errorf("it was not given back: %q", b.diary.all())
				}
			})
		}
	}
}
