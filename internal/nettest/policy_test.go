package nettest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// untouched notes how things are, and returns what is to be called when nobody
// may have noticed anything of what was done meanwhile: the addresses stayed where
// they were, no script ran for them, and their client was always answered.
func (s *site) untouched(t *testing.T) func() {
	t.Helper()
	// A machine that stalls is no gap of an address: one of the owner's own, which
	// had never touches, shows how long that was.
	control, err := s.Client.Measure(lab.ClientConfig{Target: s.Host(s.settled(t)).V4})
	must(t, err)
	t.Cleanup(func() { control.Stop() })
	epoch, index, since := s.epoch(t), s.now(t), time.Now()
	return func() {
		t.Helper()
		if now := s.epoch(t); now != epoch {
			t.Errorf("epoch %d was given up for %d", epoch, now)
		}
		for _, e := range s.eventsSince(t, index) {
			if h := e.GetHook(); h != nil && slices.Contains(s.vips, netip.MustParseAddr(h.GetVip())) {
				t.Errorf("%s ran for %s, which stays", h.GetScript(), h.GetVip())
			}
		}
		allowed := 50 * time.Millisecond
		if stall, ok := control.Stop().LongestGap(since, time.Now()); ok {
			allowed += stall.Duration()
		}
		for vip, c := range s.clients {
			h, err := s.Observer.History(t.Context(), vip)
			must(t, err)
			if last := h.Transitions[len(h.Transitions)-1]; last.At.After(since) {
				t.Errorf("%s was touched:\n%s", vip, h)
			}
			gap, ok := c.Report().LongestGap(since, time.Now())
			if ok && gap.Duration() > allowed {
				t.Errorf("the client of %s got no answer for %v; %v is what the machine takes", vip, gap, allowed)
			}
			if ok {
				t.Logf("the client of %s waited for %v at the longest; an address that had doesn't touch, %v", vip, gap.Duration(), allowed-50*time.Millisecond)
			}
		}
	}
}

// file writes a policy for hactl.
func policyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.hcl")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// inForce returns what a node says is in force.
func (s *site) inForce(t *testing.T, node string) (p *hadv1.Policy, err error) {
	t.Helper()
	err = s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		r, err := ha.PolicyShow(ctx, &hadv1.PolicyShowRequest{})
		p = r.GetPolicy()
		return err
	})
	return p, err
}

// comesInForce waits until every node has this text.
func (s *site) comesInForce(t *testing.T, text string) (version uint64) {
	t.Helper()
	for _, h := range s.Servers() {
		eventually(t, h.Name+" has the policy", func() error {
			p, err := s.inForce(t, h.Name)
			if err == nil && p.GetText() != text {
				err = fmt.Errorf("version %d is in force there:\n%s", p.GetVersion(), p.GetText())
			}
			version = p.GetVersion()
			return err
		})
	}
	return version
}

func TestPoliciesChangeWhileItServes(t *testing.T) {
	t.Parallel()
	data := lab.Volume{Name: "data", FSType: "ext4"}
	s := newIdleSite(t, lab.Config{Detect: steady, Volumes: []lab.Volume{data}})
	mounts := s.WatchMounts()
	t.Cleanup(mounts.Close)
	base := s.policy(s.vips...)
	s.apply(t, "alpha", base)
	s.settled(t)
	spare := spareVIPs()[0]
	volume := fmt.Sprintf("volume \"data\" {\n  device = %q\n  path   = %q\n}\nfence { methods = [\"confirm\"] }\n", data.Device(), data.Path())
	isMounted := func(t *testing.T, want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the volume is mounted %d times", want), func() error {
			turns, _, err := mounts.Turns(data.Name)
			open := slices.DeleteFunc(turns, func(m lab.MountTurn) bool { return !m.To.IsZero() })
			if err == nil && len(open) != want {
				err = fmt.Errorf("it is %v", turns)
			}
			return err
		})
	}

	s.scenario(t, "what stays doesn't notice", func(t *testing.T, owner string) {
		unnoticed := s.untouched(t)
		node := s.others(owner)[0]

		more := s.policy(append(slices.Clone(s.vips), spare)...)
		s.says(t, node, []string{"policy", "plan", policyFile(t, more)}, 0, s.vips[0].String()+" stays", spare.String()+" is added", "No service restarts")
		s.gap(t, "a policy with one address more", func() {
			s.says(t, node, []string{"policy", "apply", policyFile(t, more), "--yes"}, 0, "is in force")
			s.holds(t, owner, spare)
		})

		other := filepath.Join(t.TempDir(), "hooks")
		must(t, exec.Command("cp", "-a", s.hooks.dir, other).Run())
		moved := strings.Replace(more, s.hooks.dir, other, 1)
		s.says(t, node, []string{"policy", "apply", policyFile(t, moved), "--yes"}, 0, "is in force")

		s.says(t, node, []string{"policy", "plan", policyFile(t, moved+volume)}, 0, "volume data is mounted on "+data.Path(), "No service restarts")
		s.gap(t, "a policy with one volume more", func() {
			s.says(t, node, []string{"policy", "apply", policyFile(t, moved+volume), "--yes"}, 0, "is in force")
			isMounted(t, 1)
		})

		check := "check \"exec\" \"well\" {\n  command  = [\"/bin/true\"]\n  interval = \"1s\"\n}\n"
		s.apply(t, node, moved+volume+check)
		s.apply(t, node, moved+volume+strings.Replace(check, "1s", "2s", 1))
		s.apply(t, node, moved)
		isMounted(t, 0)
		s.says(t, node, []string{"policy", "plan", policyFile(t, base)}, 0, spare.String()+" is dropped")
		s.apply(t, node, base)
		s.holds(t, "", spare)
		unnoticed()
	})

	s.scenario(t, "a policy that is refused changes nothing", func(t *testing.T, owner string) {
		unnoticed, index := s.untouched(t), s.now(t)
		before, err := s.inForce(t, owner)
		must(t, err)
		bad := base + "vip \"twice\" {\n  address = \"" + s.vips[0].String() + "\"\n}\n"
		for _, verb := range []string{"plan", "apply"} {
			s.says(t, owner, []string{"policy", verb, policyFile(t, bad)}, 2)
		}
		s.says(t, owner, []string{"policy", "apply", policyFile(t, base+"# newer\n"), "--yes", "--base", fmt.Sprint(before.GetVersion() - 1)}, 3)
		after, err := s.inForce(t, owner)
		must(t, err)
		if after.GetVersion() != before.GetVersion() || s.now(t) != index {
			t.Errorf("version %d is in force after version %d; events %v", after.GetVersion(), before.GetVersion(), s.eventsSince(t, index))
		}
		unnoticed()
	})

	s.scenario(t, "two from the same version", func(t *testing.T, owner string) {
		before, err := s.inForce(t, owner)
		must(t, err)
		var taken []string
		var mu sync.Mutex
		var both sync.WaitGroup
		for _, node := range s.others() {
			both.Go(func() {
				text := base + "# by " + node + "\n"
				err := s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
					_, err := ha.PolicyApply(ctx, &hadv1.PolicyApplyRequest{Text: text, CheckVersion: true, ExpectedVersion: before.GetVersion()})
					return err
				})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					taken = append(taken, text)
				}
			})
		}
		both.Wait()
		if len(taken) != 1 {
			t.Fatalf("%d of them were taken: %q", len(taken), taken)
		}
		if v := s.comesInForce(t, taken[0]); v != before.GetVersion()+1 {
			t.Errorf("version %d is in force after version %d", v, before.GetVersion())
		}
		s.says(t, owner, []string{"policy", "rollback", "--yes"}, 0, "is in force")
		s.comesInForce(t, before.GetText())
	})

	s.scenario(t, "on trial", func(t *testing.T, owner string) {
		unnoticed := s.untouched(t)
		more := s.policy(append(slices.Clone(s.vips), spare)...)
		s.says(t, owner, []string{"policy", "apply", policyFile(t, more), "--yes", "--confirm-within", "5s"}, 0, "unless you say: hactl policy confirm")
		s.says(t, owner, []string{"status"}, 0, "unless confirmed", "Next: hactl policy confirm")
		s.holds(t, "", spare)
		s.comesInForce(t, base)
		s.says(t, owner, []string{"policy", "history"}, 0, "undone, back to version")

		s.says(t, owner, []string{"policy", "apply", policyFile(t, more), "--yes", "--confirm-within", "30s"}, 0)
		s.says(t, owner, []string{"policy", "confirm"}, 0, "is there for good")
		s.holds(t, owner, spare)
		s.apply(t, owner, base)
		s.holds(t, "", spare)
		unnoticed()
	})

	s.scenario(t, "the leader dies during a trial", func(t *testing.T, owner string) {
		s.says(t, owner, []string{"policy", "apply", policyFile(t, base+"# on trial\n"), "--yes", "--confirm-within", "8s"}, 0)
		s.kill(t, owner)
		s.takenOver(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.comesInForce(t, base)
	})

	// Wherever a leader dies on the way, the cluster has the old policy or the new
	// one; and the new one, if anybody was told so.
	s.scenario(t, "the leader dies while it applies", func(t *testing.T, owner string) {
		text := base
		for i := range 6 {
			next := base + fmt.Sprintf("# attempt %d\n", i)
			behind := s.others(owner)[i%2]
			if i >= 3 { // with a follower that doesn't hear of it
				must(t, s.Host(behind).Pause())
			}
			told := make(chan error, 1)
			go func() {
				told <- s.ask(t, owner, func(ctx context.Context, ha hadv1.HAClient) error {
					_, err := ha.PolicyApply(ctx, &hadv1.PolicyApplyRequest{Text: next})
					return err
				})
			}()
			time.Sleep(time.Duration(i%3) * 15 * time.Millisecond) // it may have come to nothing, or to the disk of one, or be through
			s.kill(t, owner)
			err := <-told
			if i >= 3 {
				must(t, s.Host(behind).Resume())
			}
			must(t, s.Host(owner).StartDaemon())
			owner = s.settled(t)
			p, wrong := s.inForce(t, owner)
			must(t, wrong)
			switch {
			case p.GetText() == next:
				text = next
			case p.GetText() != text || err == nil:
				t.Fatalf("attempt %d: told %v, and in force is:\n%s", i, err, p.GetText())
			}
			t.Logf("attempt %d: told %v; version %d is in force", i, err, p.GetVersion())
			s.comesInForce(t, text)
		}
		s.apply(t, owner, base)
	})
}
