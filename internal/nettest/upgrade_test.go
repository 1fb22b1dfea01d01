package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
)

// landed returns the programs of a landed version, the latest ("commit") or the
// latest of a lower level ("below"), built once from git's history, which a shallow
// clone doesn't have.
func landed(t *testing.T, which string) (had, hactl string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../tools/landed.sh", which, "build").Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit.ExitCode() == 3 { // a shallow clone
			t.Skipf("%s", exit.Stderr) //nolint:forbidigo // there is nothing to upgrade from
		}
		t.Fatalf("build the landed version: %v\n%s", err, exit.Stderr)
	}
	must(t, err)
	bin := filepath.Join(strings.TrimSpace(string(out)), "bin")
	return filepath.Join(bin, "had"), filepath.Join(bin, "hactl")
}

// startLanded starts a cluster of a landed version.
func startLanded(t *testing.T, had string) (s *site, first string) {
	t.Helper()
	s = newSilentSite(t, lab.Config{Detect: steady})
	for _, h := range s.Servers() {
		h.Install(had)
	}
	s.startAll(t)
	s.apply(t, "alpha", s.policy(s.vips...))
	return s, s.settled(t)
}

// TestRollingUpgrade brings a cluster from the latest landed version to this one,
// node by node, as docs/upgrade.md says: the others first, then the owner, by a
// planned move.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	oldHad, oldHactl := landed(t, "commit")
	s, first := startLanded(t, oldHad)
	since := time.Now()
	followers := s.others(first)
	for i, node := range followers {
		s.undisturbed(t, "the upgrade of a node that doesn't own", func() { s.replace(t, node, hadBinary) })
		s.apply(t, node, s.policy(s.vips...)+fmt.Sprintf("# %d, by way of a newer node\n", i))
	}
	s.says(t, first, []string{"status"}, 0, first+" owns")
	s.gap(t, "a move from the older to the newer version", func() { s.moved(t, followers[0]) })
	for _, hactl := range []string{oldHactl, hactlBinary} {
		for _, node := range s.others() {
			if out, code := s.run(t, node, hactl, "history"); code != 0 {
				t.Errorf("%s asks %s for the history: %d\n%s", hactl, node, code, out)
			}
		}
	}
	s.gap(t, "the death of the newer owner", func() { s.kill(t, followers[0]); s.takenOver(t, followers[0]) })
	s.mend(t)
	if s.settled(t) == first {
		s.gap(t, "the move before the last upgrade", func() { s.moved(t, followers[1]) })
	}
	s.undisturbed(t, "the last upgrade", func() { s.replace(t, first, hadBinary) })
	s.undisturbed(t, "a node goes back", func() { s.replace(t, first, oldHad) })
	s.undisturbed(t, "and is upgraded again", func() { s.replace(t, first, hadBinary) })
	s.judge(t, since)
}

// TestUpgradeToANewLevel upgrades a cluster whose log knows less than this version
// would write: each node can go back until the upgrade is finished, and not after.
func TestUpgradeToANewLevel(t *testing.T) {
	t.Parallel()
	oldHad, oldHactl := landed(t, "below")
	s, first := startLanded(t, oldHad)
	since := time.Now()
	s.says(t, first, []string{"status"}, 0, first+" owns")
	s.says(t, first, []string{"upgrade"}, 3, "older than this hactl")
	s.says(t, first, []string{"upgrade", "finish"}, 1, "doesn't know the request")

	followers := s.others(first)
	for i, node := range followers {
		s.undisturbed(t, "the upgrade of a node that doesn't own", func() { s.replace(t, node, hadBinary) })
		// The leader is an older had than the one that is asked.
		s.says(t, node, []string{"upgrade", "finish"}, 3, first, "older than the one that was asked")
		s.apply(t, node, s.policy(s.vips...)+fmt.Sprintf("# %d, by way of a newer node\n", i))
	}
	apply := func(comment string, more ...string) []string {
		return append([]string{"policy", "apply", policyFile(t, s.policy(s.vips...)+"# "+comment+"\n"), "--yes"}, more...)
	}
	s.says(t, first, apply("an older had is asked"), 0, "is in force")
	s.says(t, followers[0], apply("and by way of a newer one"), 0, "is in force")
	s.says(t, followers[0], apply("on trial", "--confirm-within", "1m"), 3, first+" runs had landed-", "confirm_within_ns")
	s.gap(t, "a move from the older to the newer version", func() { s.moved(t, followers[0]) })

	// The newer one leads.
	s.says(t, first, []string{"status"}, 0, "records level 1", first+" runs had landed-", "upgrade it")
	s.says(t, followers[1], []string{"upgrade", "finish"}, 3, first+" runs had landed-", "upgrade it first")
	s.says(t, followers[1], apply("newer ones lead"), 0, "is in force")
	s.says(t, followers[1], apply("on trial", "--confirm-within", "1m"), 3, first+" runs had landed-", "upgrade it first")
	s.says(t, followers[1], []string{"policy", "confirm"}, 3, "waits for no confirmation")
	s.says(t, followers[1], []string{"policy", "rollback", "1", "--yes"}, 0, "is in force")
	if out, code := s.run(t, followers[0], oldHactl, "history"); code != 0 {
		t.Errorf("the older hactl asks a newer had for the history: %d\n%s", code, out)
	}
	s.gap(t, "a move back to the older version", func() { s.moved(t, first) })
	s.gap(t, "a move from it again", func() { s.moved(t, followers[1]) })
	s.gap(t, "the death of the newer owner", func() { s.kill(t, followers[1]); s.takenOver(t, followers[1]) })
	s.mend(t)
	if s.settled(t) == first {
		s.gap(t, "the move before the last upgrade", func() { s.moved(t, followers[0]) })
	}
	s.undisturbed(t, "the last upgrade", func() { s.replace(t, first, hadBinary) })

	// Until something needs the new level, each node can go back.
	s.says(t, first, []string{"upgrade"}, 0, "up to level 1", "can go back")
	s.undisturbed(t, "a node goes back", func() { s.replace(t, first, oldHad) })
	s.undisturbed(t, "and is upgraded again", func() { s.replace(t, first, hadBinary) })
	s.undisturbed(t, "the end of the upgrade", func() {
		s.says(t, first, []string{"upgrade", "finish", "--reason", "all is well"}, 0, "no older had can join")
	})
	s.says(t, first, []string{"upgrade"}, 0, "No had that reads less can join")
	s.says(t, first, []string{"history", "--last", "1"}, 0, "no older had can join")
	if out, code := s.run(t, first, oldHactl, "history", "--last", "1"); code != 0 || !strings.Contains(out, "had is newer") {
		t.Errorf("the older hactl shows what it doesn't know: %d\n%s", code, out)
	}
	s.says(t, first, apply("on trial", "--confirm-within", "1m"), 0, "unless you say")
	s.says(t, first, []string{"policy", "confirm"}, 0, "is there for good")

	// From then on an older had stops before it takes part in anything.
	s.stop(t, first)
	s.Host(first).Install(oldHad)
	must(t, s.Host(first).StartDaemon())
	if err := s.Host(first).Wait(within(t)); err == nil {
		t.Error("the older had ends as if all were well")
	}
	log, err := os.ReadFile(s.Host(first).Log())
	must(t, err)
	if !strings.Contains(string(log), "this version of had doesn't know; update had on this node") {
		t.Errorf("the older had doesn't say why it ends:\n%s", lastLines(string(log), 20))
	}
	s.Host(first).Install(hadBinary)
	must(t, s.Host(first).StartDaemon())
	s.gap(t, "a restart of the owner's daemon", func() {
		owner := s.settled(t)
		s.stop(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.takenOver(t, owner)
	})
	s.gap(t, "a restart with nobody to move to", func() {
		owner := s.settled(t)
		s.says(t, owner, []string{"freeze", "--for", "10m"}, 0, "frozen")
		s.stop(t, owner)
		must(t, s.Host(owner).StartDaemon())
		if got := s.settled(t); got != owner {
			t.Errorf("%s owns after a restart of %s during a freeze", got, owner)
		}
	})
	s.judge(t, since)
}

// replace stops a node's daemon in order and starts it as another version.
func (s *site) replace(t *testing.T, node, had string) {
	t.Helper()
	s.stop(t, node)
	s.Host(node).Install(had)
	must(t, s.Host(node).StartDaemon())
	s.settled(t)
}

// moved has the addresses moved to a node and waits until all agree.
func (s *site) moved(t *testing.T, target string) {
	t.Helper()
	old := s.settled(t)
	s.moveTo(t, old, target)
	if got := s.takenOver(t, old); got != target {
		t.Fatalf("moved to %s, and %s serves", target, got)
	}
	s.settled(t)
}

// undisturbed does something that must not touch the addresses.
func (s *site) undisturbed(t *testing.T, what string, do func()) {
	t.Helper()
	before := time.Now()
	s.gap(t, what, do)
	for _, vip := range s.vips {
		h, err := s.Observer.History(t.Context(), vip)
		must(t, err)
		if last := h.Transitions[len(h.Transitions)-1]; last.At.After(before) {
			t.Errorf("%s: %s was touched:\n%s", what, vip, h)
		}
	}
}
