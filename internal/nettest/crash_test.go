package nettest

import (
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

func TestDaemonsEndAndComeBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{})

	s.scenario(t, "SIGTERM of the owner", func(t *testing.T, owner string) {
		s.stop(t, owner)
		s.takenOver(t, owner)
	})

	s.scenario(t, "SIGKILL of the owner", func(t *testing.T, owner string) {
		s.kill(t, owner)
		s.takenOver(t, owner)
	})

	s.scenario(t, "SIGKILL of the owner, which is restarted at once", func(t *testing.T, owner string) {
		s.kill(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.settled(t)
		released := lastReleaseBy(s.fullHistory(t), owner)
		if !released.GetForced() || released.GetCause() == "" {
			t.Errorf("the restarted daemon did not report what its earlier run had held: %v", released)
		}
	})

	s.scenario(t, "every node restarted in turn", func(t *testing.T, _ string) {
		for _, h := range s.Servers() {
			must(t, h.Restart(within(t)))
			s.settled(t)
		}
	})

	s.scenario(t, "all nodes killed and restarted at once", func(t *testing.T, _ string) {
		for _, h := range s.Servers() {
			s.kill(t, h.Name)
		}
		for _, h := range s.Servers() {
			must(t, h.StartDaemon())
		}
	})

	s.scenario(t, "the owner is stopped for longer than its lease", func(t *testing.T, owner string) {
		must(t, s.Host(owner).Pause())
		s.takenOver(t, owner)
		woken := time.Now()
		must(t, s.Host(owner).Resume())
		s.settled(t)
		for _, vip := range s.vips {
			h, err := s.Observer.History(within(t), vip)
			must(t, err)
			for _, tr := range h.Transitions {
				if tr.Held && tr.Host == owner && tr.At.After(woken) {
					t.Errorf("%s put %s back after it had slept through its lease:\n%s", owner, vip, h)
				}
			}
		}
	})
}

// lastReleaseBy returns the newest release that a node reported.
func lastReleaseBy(events []*hadv1.Event, node string) (last *hadv1.Released) {
	for _, e := range events {
		if e.GetReleased() != nil && e.GetNode() == node {
			last = e.GetReleased()
		}
	}
	return last
}
