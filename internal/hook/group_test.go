package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"had/internal/cgroup"
)

// newGroup makes a control group for a test; the kernel must have version 2.
func newGroup(t *testing.T) cgroup.Group {
	t.Helper()
	own, err := cgroup.Own()
	if err != nil {
		t.Fatalf("mount control groups of version 2 (cgroups(7)), this test is about them: %v", err)
	}
	g := own.Child("had-test-" + t.Name())
	if err := g.Make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), long)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// inGroup is the runner of f with a group for every script.
func (f *fixture) inGroup(group func(Run) (*os.File, error)) *Runner {
	f.t.Helper()
	r, err := NewRunner(Config{Dir: f.dir, Timeout: long, Recorder: f, Group: group})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(r.Close)
	return r
}

// A service that leaves the session, and forgets its environment, doesn't leave
// the group: whoever ends the group ends it.
func TestWhatAScriptLeavesRunningStaysInItsGroup(t *testing.T) {
	f, g := newFixture(t), newGroup(t)
	ready := f.fifo("ready")
	f.script("PostAcq", fmt.Sprintf("setsid env -i sh -c 'echo $$ > %s; exec sleep 60' >&- 2>&- & cat /proc/self/cgroup", ready))
	heard := make(chan string, 1)
	go func() { heard <- f.heard(ready) }()
	r := f.inGroup(func(run Run) (*os.File, error) {
		if run.Stage != PostAcq {
			t.Errorf("a group is asked for %s", run.Stage)
		}
		return g.Open()
	})
	results, err := r.Stage(t.Context(), Run{Stage: PostAcq, Event: Acquire, VIP: testVIP()})
	if err != nil || len(results) != 1 || !results[0].OK() {
		t.Fatal(results, err)
	}
	if out := string(results[0].OutputTail); !strings.Contains(out, g.Name()) {
		t.Errorf("the script was in %q, want %s", out, g.Name())
	}
	var service int
	if _, err := fmt.Sscan(<-heard, &service); err != nil {
		t.Fatal(err)
	}
	if its, err := cgroup.Of(service); err != nil || its != g {
		t.Errorf("the service is in %v (%v), want %v", its, err, g)
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if alive(t, service) {
		t.Error("the service survived its group")
	}
}

func TestScriptWithoutItsGroupIsNotRun(t *testing.T) {
	f, g := newFixture(t), newGroup(t)
	f.script("PreAcq", "exit 0")
	dir, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		group func(Run) (*os.File, error)
		why   string
	}{
		{"there is none", func(Run) (*os.File, error) { return nil, errors.New("no group for the script") }, "no group for the script"},
		{"it was ended", func(Run) (*os.File, error) { return dir, nil }, "was ended meanwhile"},
	} {
		results, err := f.inGroup(c.group).Stage(t.Context(), Run{Stage: PreAcq, Event: Acquire, VIP: testVIP()})
		if err != nil || len(results) != 1 || results[0].Outcome != Refused || !strings.Contains(results[0].Err, c.why) {
			t.Errorf("%s: %v, %v; want it refused: %s", c.name, results, err, c.why)
		}
	}
}
