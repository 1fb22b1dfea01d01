package nettest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

func TestOperatorSteers(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})

	s.scenario(t, "planned moves, asked for at every node", func(t *testing.T, owner string) {
		for _, h := range s.Servers() {
			target := s.others(owner)[0]
			before := time.Now()
			s.moveTo(t, h.Name, target)
			if got := s.takenOver(t, owner); got != target {
				t.Fatalf("moved to %s, and %s serves", target, got)
			}
			// Nobody had to wait until the kernel forgot the old owner's addresses.
			for vip, c := range s.clients {
				if gap, ok := c.Report().LongestGap(before, time.Now()); ok && gap.Duration() > 2*time.Second {
					t.Errorf("a planned move of %s took the client %v", vip, gap)
				}
			}
			owner = target
		}
	})

	s.scenario(t, "policies, applied at every node, add and remove addresses", func(t *testing.T, owner string) {
		kept, spare := s.vips, spareVIPs()
		before := time.Now()
		version := uint64(0)
		for i, h := range s.Servers() {
			resp := s.apply(t, h.Name, s.policy(append(slices.Clone(kept), spare[:i%2+1]...)...))
			if resp.GetVersion() <= version {
				t.Errorf("%s answers with policy version %d after version %d", h.Name, resp.GetVersion(), version)
			}
			version = resp.GetVersion()
			s.holds(t, owner, spare[:i%2+1]...)
			s.holds(t, "", spare[i%2+1:]...)
		}
		s.apply(t, owner, s.policy(kept...))
		s.holds(t, "", spare...)
		for _, vip := range kept {
			h, err := s.Observer.History(t.Context(), vip)
			must(t, err)
			if last := h.Transitions[len(h.Transitions)-1]; last.At.After(before) {
				t.Errorf("%s was touched while other addresses came and went:\n%s", vip, h)
			}
		}
	})

	s.scenario(t, "something else deletes the addresses", func(t *testing.T, owner string) {
		epoch := s.epoch(t)
		for _, vip := range s.vips {
			must(t, s.Host(owner).DelAddress(netip.PrefixFrom(vip, vip.BitLen())))
		}
		s.holds(t, owner, s.vips...)
		s.settled(t)
		if now := s.epoch(t); now != epoch {
			t.Errorf("epoch %d was given up for %d because an address had been deleted", epoch, now)
		}
	})
}

// moveTo orders a move and waits until it is accepted: a leader that has just
// been elected knows nothing of its peers for a moment.
func (s *site) moveTo(t *testing.T, asked, target string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has the addresses moved to %s", asked, target), func() error {
		_, err := s.move(t, asked, target)
		return err
	})
}

// holds waits until exactly that host, "" for none, holds these addresses.
func (s *site) holds(t *testing.T, host string, vips ...netip.Addr) {
	t.Helper()
	var hosts []string
	if host != "" {
		hosts = []string{host}
	}
	for _, vip := range vips {
		must(t, s.Observer.Await(within(t), vip, hosts...))
	}
}

// epoch returns the present epoch.
func (s *site) epoch(t *testing.T) uint64 {
	t.Helper()
	st, err := s.status(t, s.Servers()[0].Name)
	must(t, err)
	return st.GetOwnership().GetEpoch()
}

// failures returns what the log says about turns that came to nothing.
func failures(events []*hadv1.Event, node string, outcome hadv1.Progress_Outcome) (reasons []string) {
	for _, e := range events {
		if p := e.GetProgress(); e.GetNode() == node && p.GetOutcome() == outcome {
			reasons = append(reasons, p.GetReason())
		}
	}
	return reasons
}

func TestTurnsThatFail(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})

	s.scenario(t, "PreAcq fails on one node", func(t *testing.T, owner string) {
		bad := s.others(owner)[0]
		s.hooks.fail(t, "PreAcq20", bad)
		s.moveFails(t, owner, bad, "PreAcq")
		if now := s.settled(t); now == bad {
			t.Fatalf("%s serves although its PreAcq failed", bad)
		}

		// A move to no one in particular doesn't choose it.
		s.mayOwn(t, bad, false)
		other := s.others(bad, s.settled(t))[0]
		s.mayOwn(t, other, true)
		resp, err := s.move(t, bad, "")
		must(t, err)
		if resp.GetTarget() != other {
			t.Errorf("%s was chosen; %s has just failed, so %s is better", resp.GetTarget(), bad, other)
		}
		s.takenOver(t, resp.GetFrom())

		// A person who asks for it by name, once it is mended, gets it.
		s.hooks.mend(t)
		old := s.settled(t)
		s.moveTo(t, bad, bad)
		if now := s.takenOver(t, old); now != bad {
			t.Errorf("moved to %s, and %s serves", bad, now)
		}
	})

	s.scenario(t, "every node's Test says no", func(t *testing.T, owner string) {
		before := len(s.fullHistory(t))
		s.hooks.fail(t, "Test", "alpha", "beta", "gamma")
		_, err := s.move(t, owner, s.others(owner)[0])
		if err == nil || !strings.Contains(err.Error(), "Test") {
			t.Errorf("a move to a node whose Test says no was answered with: %v", err)
		}

		// A move never gets that far, but a stop of the owner does.
		s.stop(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.vacant(t)
		for _, node := range []string{"alpha", "beta", "gamma"} {
			s.noted(t, "Test", node, hadv1.Progress_OUTCOME_VETOED)
		}
		for _, h := range s.Servers() {
			s.saysNobody(t, h.Name, "its last turn failed (Test")
		}
		// They go on trying, further and further apart: the history shows each
		// try, and must not be flooded with them.
		quiet := time.NewTimer(6 * time.Second)
		defer quiet.Stop()
		select {
		case <-quiet.C:
		case <-t.Context().Done():
		}
		s.vacant(t)
		events, err := s.history(t, owner)
		must(t, err)
		if n := len(events) - before; n > 60 {
			t.Errorf("%d events in the few seconds in which nobody could own", n)
		}

		s.hooks.mend(t)
		s.apply(t, owner, s.policy(s.vips...)+"# mended\n")
	})
}

// noted waits until the log says that a turn of the node came to nothing, for
// a reason with these words.
func (s *site) noted(t *testing.T, why, node string, outcome hadv1.Progress_Outcome) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says that %s gave its turn back: %s", node, why), func() error {
		return s.hasNoted(t, why, node, outcome)
	})
}

func (s *site) hasNoted(t *testing.T, why, node string, outcome hadv1.Progress_Outcome) error {
	t.Helper()
	events, err := s.history(t, s.others(node)[0])
	if err != nil {
		return err
	}
	reasons := failures(events, node, outcome)
	if !slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(r, why) }) {
		return fmt.Errorf("it has only %q", reasons)
	}
	return nil
}

// moveFails has everything moved to a node that can't take it, until the move is
// refused for that reason or the log says that the node gave its turn back for it.
// On a busy machine the owner may be gone before the node has its turn: then the
// move has come to nothing, and is asked for again.
func (s *site) moveFails(t *testing.T, asked, target, why string) {
	t.Helper()
	var due time.Time
	eventually(t, fmt.Sprintf("a move to %s fails: %s", target, why), func() error {
		if now := time.Now(); now.After(due) {
			_, err := s.move(t, asked, target)
			switch {
			case err == nil:
				due = now.Add(patience / 4)
			case strings.Contains(err.Error(), why):
				return nil
			default:
				return err
			}
		}
		return s.hasNoted(t, why, target, hadv1.Progress_OUTCOME_FAILED)
	})
}

// mayOwn waits until status says whether a node is eligible.
func (s *site) mayOwn(t *testing.T, node string, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("eligible is %t for %s", want, node), func() error {
		n, err := s.nodeStatus(t, node, node)
		if err == nil && n.GetEligible() != want {
			err = fmt.Errorf("its reasons: %q", n.GetReasons())
		}
		return err
	})
}

// saysNobody waits until a node says that nobody owns, and why.
func (s *site) saysNobody(t *testing.T, node string, why string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s says that nobody owns: %s", node, why), func() error {
		st, err := s.status(t, node)
		o := st.GetOwnership()
		if err == nil && (o.GetState() != hadv1.Ownership_STATE_UNOWNED || !strings.Contains(o.GetWhy(), why)) {
			err = describe(st)
		}
		return err
	})
}

func TestForeignHostHasTheAddress(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{Detect: steady})
	for i, vip := range s.vips {
		foreign := netip.PrefixFrom(vip, vip.BitLen())
		must(t, s.Client.AddAddress(foreign, lab.Forever))
		s.apply(t, "alpha", s.policy(s.vips...)+fmt.Sprintf("# %d\n", i))
		want := fmt.Sprintf("%s is answered by %s", vip, s.Client.MAC)
		for _, h := range s.Servers() {
			s.noted(t, want, h.Name, hadv1.Progress_OUTCOME_VETOED)
			s.saysNobody(t, h.Name, want)
		}
		must(t, s.Client.DelAddress(foreign))
	}
	s.apply(t, "alpha", s.policy(s.vips...))
	s.judge(t, time.Time{})
}

func TestWitnessHandsLeadershipOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Witnesses: []string{"gamma"}})

	s.scenario(t, "the owner dies", func(t *testing.T, owner string) {
		s.kill(t, owner)
		s.takenOver(t, owner)
	})

	s.scenario(t, "only the witness has the newest entry", func(t *testing.T, owner string) {
		behind := s.others(owner, "gamma")[0]
		s.kill(t, behind)
		s.apply(t, owner, s.policy(s.vips...)+"# committed by the owner and the witness\n")
		s.kill(t, owner)
		must(t, s.Host(behind).StartDaemon())
		// It can't win an election without that entry, and the witness never
		// owns: so the witness has led, and handed leadership on.
		if now := s.takenOver(t, owner); now != behind {
			t.Errorf("%s serves, want %s", now, behind)
		}
	})
}
