package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/clock"
	"had/internal/failover"
	"had/internal/policy"
	"had/storage"
)

func TestFenceLevelsAreThePolicys(t *testing.T) {
	p, diags := policy.ParsePolicy("p", []byte(`
volume "web" {
  device = "LABEL=web"
  path   = "/srv/web"
}
fence {
  methods = ["agent", "command", "confirm"]
  agent "alpha" {
    program = "fence_ipmilan"
    options = {
      ip            = "10.0.9.11"
      password_file = "/etc/had/secrets/ipmi"
    }
    level   = 1
  }
  agent "alpha" {
    program = "fence_apc"
    options = {
      ip   = "10.0.9.5"
      plug = "3"
    }
    level   = 2
  }
  command "beta" {
    command = ["/sbin/off", "beta"]
    verify  = ["/sbin/is-off", "beta"]
    timeout = "7s"
  }
}
`))
	if p == nil {
		t.Fatal(diags.Err())
	}
	for _, c := range []struct {
		method policy.Method
		node   string
		levels int
		names  string
	}{
		{policy.MethodAgent, "alpha", 2, "fence_ipmilan ip=10.0.9.11, fence_apc ip=10.0.9.5 plug=3"},
		{policy.MethodCommand, "beta", 1, "/sbin/off beta"},
	} {
		levels, err := fenceLevels(p.Fence, c.method, c.node)
		if err != nil || len(levels) != c.levels || nameDevices(levels) != c.names {
			t.Errorf("%s of %s: %d levels, %q, %v", c.method, c.node, len(levels), nameDevices(levels), err)
		}
	}
	for _, m := range []policy.Method{policy.MethodAgent, policy.MethodConfirm, policy.MethodLease} {
		if _, err := switchOff(t.Context(), p.Fence, m, "beta"); err == nil || !strings.Contains(err.Error(), "for beta") {
			t.Errorf("%s of beta: %v", m, err)
		}
	}
}

// What isn't proven keeps this node from owning, until it is.
func TestLeftoversAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		l := newLeftovers(failover.Recovered{Unproven: "busy"}, func(context.Context) (r failover.Recovered, err error) {
			tries++
			switch tries {
			case 1:
				r.Unproven = "still busy"
			case 2:
				err = errors.New("the journal is full")
			}
			return r, err
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.run(ctx) }()
		for _, want := range []string{"busy", "still busy", "the journal is full", ""} {
			synctest.Wait()
			if l.trouble() != want {
				t.Errorf("trouble %q, want %q", l.trouble(), want)
			}
			time.Sleep(leftoversEvery)
		}
		<-l.cleared
		if tries != 3 {
			t.Errorf("%d tries", tries)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestInspectAnswersForEachVolume(t *testing.T) {
	in := strings.NewReader(`{"op": "check", "volumes": [{"Name": "web", "Device": "LABEL=no-such-label-here", "Path": "/srv/none"}, {"Name": "db", "Path": "/srv/db"}]}`)
	var out bytes.Buffer
	if err := Inspect(t.Context(), in, &out); err != nil || strings.Count(out.String(), `"volume `) != 2 {
		t.Errorf("%v, %s", err, out.String())
	}
	if err := Inspect(t.Context(), strings.NewReader(`{"op": "eat", "volumes": [{}]}`), &out); err == nil {
		t.Error("it took what is no question")
	}
}

// A child that doesn't come back keeps nobody waiting, and no second one is
// started beside it.
func TestAnInspectionThatHangs(t *testing.T) {
	script := filepath.Join(t.TempDir(), "had")
	write := func(text string) {
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	i := &inspector{exe: script}
	write(`cat >/dev/null; echo '["volume web: busy"]'`)
	for range 20 { // one that has answered is never in the next one's way
		if wrong, err := i.ask(t.Context(), inspection{Op: inspectCheck}); err != nil || len(wrong) != 1 || wrong[0] != "volume web: busy" {
			t.Fatal(wrong, err)
		}
	}
	write("echo no >&2; exit 1")
	if _, err := i.ask(t.Context(), inspection{Op: inspectCheck}); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("%v", err)
	}
	write("exec sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.ask(ctx, inspection{Op: inspectCheck}); !errors.Is(err, errHangs) {
		t.Errorf("%v", err)
	}
	<-i.child // killed
	stuck := make(chan struct{})
	i.child = stuck
	if _, err := i.ask(t.Context(), inspection{Op: inspectCheck}); !errors.Is(err, errHangs) {
		t.Errorf("with one that can't be killed: %v", err)
	}
}

// What can't be reserved is found before this node has to own.
func TestADiskWithoutReservationsIsFound(t *testing.T) {
	q, err := json.Marshal(inspection{Op: inspectReserve, Mark: 1 << 36, Volumes: []storage.Volume{{Name: "web", Device: "/dev/null", Path: "/srv/web"}, {Name: "db", Device: "host:/db", Path: "/srv/db", FSType: "nfs4"}}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Inspect(t.Context(), bytes.NewReader(q), &out); err != nil || !strings.Contains(out.String(), "no block device") || !strings.Contains(out.String(), "it has no device here") {
		t.Errorf("%s, %v", &out, err)
	}
}

// Whoever asks never waits: it gets the last findings about that very policy.
func TestPreflightNeverKeepsAnybodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		p := newPreflight("alpha", nil, nil, 0, func() clock.Instant {
			return clock.Instant(time.Hour).Add(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
		})
		p.volumes = func(context.Context, *policy.Policy) []string {
			looks++
			time.Sleep(time.Second)
			return []string{"this host has no such device"}
		}
		p.fences = func(context.Context, *policy.Policy) []string { return []string{"fence_ipmilan is not installed"} }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.run(ctx) }()
		first, second := &policy.Policy{Volumes: []policy.Volume{{Name: "web"}}}, &policy.Policy{}
		if got := p.CheckVolumes(first); len(got) != 0 {
			t.Errorf("before any look: %v", got)
		}
		for range 30 {
			time.Sleep(time.Second)
			p.CheckVolumes(first)
		}
		if got := p.CheckVolumes(first); len(got) != 1 || looks != 2 || len(p.problems()) != 1 {
			t.Errorf("found %v and %v in %d looks", got, p.problems(), looks)
		}
		if got := p.CheckVolumes(second); len(got) != 0 {
			t.Errorf("about another policy: %v", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestVolumesOfALeftoverAreOnlyLookedAt(t *testing.T) {
	script := filepath.Join(t.TempDir(), "had")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ngrep -q unused && echo '[\"mounted on /mnt\"]'\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	l := leftVolumes{inspector: &inspector{exe: script}, secure: func(context.Context, []storage.Volume) error { return errors.New("by force") }}
	if err := l.Unused(t.Context(), []storage.Volume{{Name: "web"}}); err == nil || err.Error() != "mounted on /mnt" {
		t.Error(err)
	}
	if err := l.Secure(t.Context(), 7, nil); err == nil || err.Error() != "by force" {
		t.Error(err)
	}
}
