package nettest

import (
	"flag"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

var restarts = flag.Int("restarts", 8, "how often an owner is restarted in a row")

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

	s.scenario(t, "the owner dies and is restarted, again and again", func(t *testing.T, owner string) {
		before := s.now(t)
		for i := range *restarts {
			s.kill(t, owner)
			if i == 0 {
				s.takenOver(t, owner)
			}
			must(t, s.Host(owner).StartDaemon())
			// Until it has hardly begun, knows its cluster, or is well.
			s.rest(t, time.Duration(i%4)*200*time.Millisecond)
		}
		s.settled(t)
		var released []string
		for _, e := range s.eventsSince(t, before) {
			// A busy machine may cost another its lease.
			if r := e.GetReleased(); r != nil && (e.GetNode() == owner || !strings.Contains(r.GetCause(), "the lease ended")) {
				released = append(released, e.GetNode()+": "+r.GetCause())
			}
		}
		if len(released) != 1 || !strings.HasPrefix(released[0], owner) {
			t.Errorf("%s ended and began %d times, and released were %q: it moves once", owner, *restarts, released)
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

	// The probe for other holders reaches nobody: only the wait keeps the
	// successor from an address that a dead daemon's kernel still has.
	s.scenario(t, "SIGKILL of the owner, cut off from the servers and not from the client", func(t *testing.T, owner string) {
		s.hide(t, owner)
		s.kill(t, owner)
		s.takenOver(t, owner)
	})

	s.scenario(t, "the owner is stopped for longer than its lease", func(t *testing.T, owner string) {
		must(t, s.Host(owner).Pause())
		s.takenOver(t, owner)
		woken := time.Now()
		must(t, s.Host(owner).Resume())
		s.settled(t)
		s.neverAgainOn(t, owner, woken)
	})

	s.scenario(t, "the owner is stopped, cut off from the servers and not from the client", func(t *testing.T, owner string) {
		s.hide(t, owner)
		must(t, s.Host(owner).Pause())
		s.takenOver(t, owner)
		woken := time.Now()
		must(t, s.Host(owner).Resume())
		eventually(t, owner+" notices that its lease is over", func() error {
			st, err := s.status(t, owner)
			if err == nil && st.GetOwnership().GetState() != hadv1.Ownership_STATE_UNKNOWN {
				err = describe(st)
			}
			return err
		})
		must(t, s.Heal())
		s.settled(t)
		s.neverAgainOn(t, owner, woken)
	})
}

// rest lets time pass.
func (s *site) rest(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// Everything dies at once, and the data folders are removed to begin anew: what
// the owner's kernel still has of the earlier cluster, a gate that is closed
// for ever, must not keep its address from answering.
func TestAClusterBegunAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{})
	owner := s.settled(t)
	for _, h := range s.Servers() {
		must(t, h.Pause()) // or it starts another guard
		_, err := h.SignalGuard(syscall.SIGKILL)
		must(t, err)
		s.kill(t, h.Name)
		must(t, os.RemoveAll(h.DataDir()))
	}
	for _, h := range s.Servers() {
		must(t, h.StartDaemon())
	}
	eventually(t, "the cluster is born again", func() error {
		st, err := s.status(t, owner)
		if err == nil && st.GetOwnership().GetState() != hadv1.Ownership_STATE_NO_POLICY {
			err = describe(st)
		}
		return err
	})
	s.apply(t, owner, s.policy(s.vips...))
	if now := s.settled(t); now != owner { // its kernel still had the addresses
		s.mayOwn(t, owner, true)
		s.moveTo(t, now, owner)
	}
	s.settled(t)
}

// hide cuts a host off from the other servers; the client still sees it.
func (s *site) hide(t *testing.T, host string) {
	t.Helper()
	for _, other := range s.others(host) {
		must(t, s.CutBoth(host, other))
	}
}

// neverAgainOn checks that a host got none of the addresses since then.
func (s *site) neverAgainOn(t *testing.T, host string, since time.Time) {
	t.Helper()
	for _, vip := range s.vips {
		h, err := s.Observer.History(within(t), vip)
		must(t, err)
		for _, tr := range h.Transitions {
			if tr.Held && tr.Host == host && tr.At.After(since) {
				t.Errorf("%s got %s back after it had slept through its lease:\n%s", host, vip, h)
			}
		}
	}
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
