package nettest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// TestVolumesWaitForEvidence is about owners who fall silent where nothing can
// switch them off.
func TestVolumesWaitForEvidence(t *testing.T) {
	t.Parallel()
	s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "confirm")

	s.scenario(t, "cut off, and a person confirms", func(t *testing.T, owner string) {
		must(t, s.Isolate(owner))
		cut := clock.Now()
		s.waits(t, owner)
		s.mounted(t, "") // its guard has seen to that, and can tell nobody
		s.silentAfter(t, owner, cut.Add(volumeLease))
		s.confirm(t, owner)
		s.volumesTaken(t, owner)
	})

	s.scenario(t, "cut off, and comes back", func(t *testing.T, owner string) {
		must(t, s.Isolate(owner))
		s.waits(t, owner)
		must(t, s.Heal())
		s.allSettled(t)
	})

	// Once had has given its epoch up, by itself or because its guard did, the guard's
	// word is all that the others can hear.
	givenUp := func(t *testing.T, owner string) {
		s.mounted(t, "")
		must(t, s.Host(owner).Resume())
		eventually(t, "had has a release to report", func() error {
			n, err := s.nodeStatus(t, owner, owner)
			if err == nil && n.GetPendingReports() == 0 {
				err = errors.New("it has nothing")
			}
			return err
		})
		must(t, s.Host(owner).Pause())
		must(t, s.Heal())
		s.volumesTaken(t, owner)
	}
	s.scenario(t, "cut off, stopped when it has given up, and within reach again", func(t *testing.T, owner string) {
		must(t, s.Isolate(owner))
		givenUp(t, owner)
	})
	s.scenario(t, "stopped and cut off, awake for a moment, and within reach again", func(t *testing.T, owner string) {
		must(t, s.Host(owner).Pause())
		must(t, s.Isolate(owner))
		givenUp(t, owner)
	})

	s.scenario(t, "both killed, and a person sees to its power", func(t *testing.T, owner string) {
		s.killBoth(t, owner)
		s.waits(t, owner)
		s.mounted(t, owner) // nobody could unmount: to confirm now would be a lie
		must(t, s.Host(owner).PowerOff(t.Context()))
		s.confirm(t, owner)
		s.volumesTaken(t, owner)
	})

	s.scenario(t, "both stopped, and go on", func(t *testing.T, owner string) {
		s.stopBoth(t, owner)
		s.waits(t, owner)
		s.mounted(t, owner)
	})

	s.scenario(t, "rebooted", func(t *testing.T, _ string) {
		s.atLeastOnce(t, func() error { // on a busy machine the guard may see had die first
			owner := s.allSettled(t)
			must(t, s.Host(owner).PowerOff(t.Context()))
			s.waits(t, owner)
			must(t, s.Host(owner).PowerOn())
			must(t, s.Host(owner).StartDaemon())
			s.allSettled(t)
			if r := s.lastReleased(t, owner); r.GetKind() != hadv1.Evidence_KIND_REBOOTED {
				return fmt.Errorf("what it says of its last turn is %v", r)
			}
			return nil
		})
	})

	const grace = 2 * time.Second
	s.apply(t, s.Servers()[0].Name, s.volumePolicy()+`release_grace = "2s"`+"\n")
	owner := s.allSettled(t)
	s.moveTo(t, owner, s.others(owner)[0]) // the grace is in an epoch's terms
	s.volumesTaken(t, owner)
	s.scenario(t, "cut off, with the time to stop its services", func(t *testing.T, _ string) {
		s.hooks.add(t, s.vips[0], "PreRel20", "sleep 1") // longer than the lease
		defer s.hooks.remove(t, s.vips[0], "PreRel20")
		s.atLeastOnce(t, func() error { // a busy machine needs longer for the services
			owner := s.allSettled(t)
			must(t, s.Isolate(owner))
			cut := clock.Now()
			s.mounted(t, "")
			s.silentAfter(t, owner, cut.Add(volumeLease+grace))
			must(t, s.Heal())
			s.allSettled(t)
			if r := s.lastReleased(t, owner); r.GetForced() {
				return fmt.Errorf("the release was forced: %v", r)
			}
			return nil
		})
	})

	s.areClean(t)
}

// waits waits until the other nodes say that nobody owns because of an owner that
// fell silent, and what would help.
func (s *volumeSite) waits(t *testing.T, silent string) {
	t.Helper()
	command := "hactl fence confirm " + silent
	for _, node := range s.others(silent) {
		eventually(t, fmt.Sprintf("%s says that the volumes wait for word of %s", node, silent), func() error {
			st, err := s.status(t, node)
			if err != nil {
				return err
			}
			u := st.GetUnsecured()
			if len(u) != 1 || u[0].GetNode() != silent {
				return fmt.Errorf("it lists %v: %w", u, describe(st))
			}
			if o := st.GetOwnership(); o.GetState() != hadv1.Ownership_STATE_WAITING || !strings.Contains(o.GetWhy(), command) || st.GetNext() != command {
				return fmt.Errorf("next %q: %w", st.GetNext(), describe(st))
			}
			return nil
		})
	}
	s.nobodyMountsBut(t, silent)
}

// nobodyMountsBut looks for a while whether another host mounts a volume.
func (s *volumeSite) nobodyMountsBut(t *testing.T, host string) {
	t.Helper()
	linger := time.NewTimer(2 * volumeLease)
	defer linger.Stop()
	<-linger.C
	for _, other := range s.others(host) {
		for _, v := range s.volumes {
			if err := s.hasVolume(other, v.Name, false); err != nil {
				t.Error(err)
			}
		}
	}
}

// confirm says, as an operator does, that a node is off.
func (s *volumeSite) confirm(t *testing.T, node string) {
	t.Helper()
	asked := s.others(node)[0]
	eventually(t, "hactl takes the word", func() error { // not in the middle of an election
		out, err := s.Host(asked).Exec(within(t), hactlBinary, "--socket", s.Host(asked).Socket(), "fence", "confirm", node, "--yes", "--reason", "seen by the test")
		if err == nil && !strings.Contains(out, node+" is confirmed to be off") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}
