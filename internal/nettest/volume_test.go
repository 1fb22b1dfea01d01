package nettest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/lab"
)

const (
	// volumeDetect is what these clusters detect by: mounts and a fence have a
	// busy machine lose more leases than addresses do.
	volumeDetect = 500 * time.Millisecond
	// volumeLease is how long their owners hold on after the last they have heard.
	volumeLease = volumeDetect * 3 / 2
)

func TestVolumesFollowTheOwner(t *testing.T) {
	t.Parallel()
	s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "command", "confirm")

	s.scenario(t, "moved", func(t *testing.T, owner string) {
		s.movedAway(t, owner)
		if r := s.lastReleased(t, owner); r.GetForced() {
			t.Errorf("the release was forced: %v", r)
		}
	})

	s.scenario(t, "SIGTERM of the owner", func(t *testing.T, owner string) {
		s.stop(t, owner)
		s.volumesTaken(t, owner)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "SIGKILL of the daemon", func(t *testing.T, owner string) {
		s.kill(t, owner)
		s.volumesTaken(t, owner)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "SIGKILL of the guard", func(t *testing.T, owner string) {
		_, err := s.Host(owner).SignalGuard(syscall.SIGKILL)
		must(t, err)
		// It moves, unless there is another guard before it has noticed.
		s.linger(t)
		s.allSettled(t)
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "SIGKILL of both", func(t *testing.T, owner string) {
		s.killBoth(t, owner)
		s.volumesTaken(t, owner)
		s.wasSwitchedOff(t, owner)
	})

	s.scenario(t, "SIGKILL of both, and started again", func(t *testing.T, owner string) {
		s.killBoth(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.allSettled(t) // whether it was switched off before it could say so
	})

	s.scenario(t, "SIGKILL of everybody", func(t *testing.T, _ string) {
		for _, h := range s.Servers() {
			s.killBoth(t, h.Name)
		}
		for _, h := range s.Servers() {
			must(t, h.StartDaemon())
		}
		s.allSettled(t)
	})

	s.scenario(t, "SIGSTOP of the daemon", func(t *testing.T, owner string) {
		must(t, s.Host(owner).Pause())
		stopped := clock.Now()
		s.volumesTaken(t, owner)
		s.silentAfter(t, owner, stopped.Add(volumeLease))
		s.nobodySwitchedOff(t)
	})

	s.scenario(t, "SIGSTOP of both", func(t *testing.T, owner string) {
		s.stopBoth(t, owner)
		s.volumesTaken(t, owner)
		s.wasSwitchedOff(t, owner)
	})

	s.scenario(t, "the owner is cut off", func(t *testing.T, owner string) {
		must(t, s.Isolate(owner))
		cut := clock.Now()
		s.volumesTaken(t, owner)
		s.silentAfter(t, owner, cut.Add(volumeLease))
		s.wasSwitchedOff(t, owner)
	})

	s.scenario(t, "the owner is cut off, and the power strip is out of order", func(t *testing.T, owner string) {
		s.strip.BreakDown(true)
		must(t, s.Isolate(owner))
		s.waits(t, owner)
		s.tried(t, owner, "the strip is out of order")
		s.strip.BreakDown(false)
		s.volumesTaken(t, owner)
		s.wasSwitchedOff(t, owner)
	})

	s.scenario(t, "the owner's power fails", func(t *testing.T, owner string) {
		must(t, s.Host(owner).PowerOff(t.Context()))
		s.volumesTaken(t, owner)
	})

	s.areClean(t)
}

// killBoth ends daemon and guard so that neither can do anything about it.
func (s *volumeSite) killBoth(t *testing.T, host string) {
	t.Helper()
	must(t, s.Host(host).Pause()) // or it starts another guard
	_, err := s.Host(host).SignalGuard(syscall.SIGKILL)
	must(t, err)
	s.kill(t, host)
}

// linger gives a move time to come about that nothing waits for.
func (s *volumeSite) linger(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(4 * volumeDetect)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// stopBoth stops daemon and guard.
func (s *volumeSite) stopBoth(t *testing.T, host string) {
	t.Helper()
	_, err := s.Host(host).SignalGuard(syscall.SIGSTOP)
	must(t, err)
	must(t, s.Host(host).Pause())
}

// tried waits until status says of a silent owner what was tried, with which
// result.
func (s *volumeSite) tried(t *testing.T, silent, result string) {
	t.Helper()
	node := s.others(silent)[0]
	eventually(t, fmt.Sprintf("%s says what was tried against %s", node, silent), func() error {
		st, err := s.status(t, node)
		if err == nil && !strings.Contains(st.GetOwnership().GetWhy(), result) {
			err = describe(st)
		}
		return err
	})
}

// silentAfter checks that no write that a host began after an instant became safe.
func (s *volumeSite) silentAfter(t *testing.T, host string, end clock.Instant) {
	t.Helper()
	if n := s.begunSince(t, host, end); n > 0 {
		t.Errorf("%d writes that %s began after the end of its lease became safe", n, host)
	}
}

func (s *volumeSite) nobodySwitchedOff(t *testing.T) {
	t.Helper()
	if cuts := s.strip.Switched(); len(cuts) > 0 {
		t.Errorf("%v were switched off, and had said by themselves that they were done", cuts)
	}
}

func (s *volumeSite) wasSwitchedOff(t *testing.T, host string) {
	t.Helper()
	cuts := s.strip.Switched()
	if len(cuts) == 0 || slices.ContainsFunc(cuts, func(c string) bool { return c != host }) {
		t.Errorf("%v were switched off, want %s", cuts, host)
	}
}

// areClean takes the volumes out of the policy, for which they are unmounted in
// order, and has the file systems checked.
func (s *volumeSite) areClean(t *testing.T) {
	t.Helper()
	s.mendAll(t)
	owner := s.allSettled(t)
	s.apply(t, owner, s.policy(s.vips...))
	s.mounted(t, "")
	s.check(t)
}

// check has file systems checked that nobody has mounted. They are mounted once
// before: an owner that lost its lease at last has left a journal to be replayed.
func (s *volumeSite) check(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, v := range s.volumes {
		for _, argv := range [][]string{{"mount", "-o", "loop", s.VolumeImage(v.Name), dir}, {"umount", dir}} {
			if out, err := s.Client.Exec(within(t), argv...); err != nil {
				t.Errorf("volume %s: %v\n%s", v.Name, err, out)
			}
		}
		argv := []string{"fsck.ext4", "-f", "-n", s.VolumeImage(v.Name)}
		if v.FSType == "xfs" {
			argv = []string{"xfs_repair", "-n", "-f", s.VolumeImage(v.Name)}
		}
		if out, err := s.Client.Exec(within(t), argv...); err != nil {
			t.Errorf("volume %s isn't clean: %v\n%s", v.Name, err, out)
		}
	}
}
