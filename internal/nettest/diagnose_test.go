package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"had/internal/lab"
)

// hactl runs the operator's command on a host, and returns what it printed and its
// exit code.
func (s *site) hactl(t *testing.T, host string, args ...string) (out string, code int) {
	t.Helper()
	return s.run(t, host, hactlBinary, args...)
}

// run is hactl with a program of another version.
func (s *site) run(t *testing.T, host, program string, args ...string) (out string, code int) {
	t.Helper()
	h := s.Host(host)
	out, err := h.Exec(within(t), append([]string{program, "--socket", h.Socket()}, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out + err.Error(), exit.ExitCode()
	}
	must(t, err)
	return out, 0
}

// says runs hactl until it ends with this code and has printed all of the words.
func (s *site) says(t *testing.T, host string, args []string, code int, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("hactl %s on %s ends with %d and says %q", strings.Join(args, " "), host, code, words), func() error {
		out, got := s.hactl(t, host, args...)
		if got != code {
			return fmt.Errorf("it ended with %d and said:\n%s", got, out)
		}
		flat := strings.Join(strings.Fields(out), " ")
		for _, w := range words {
			if !strings.Contains(flat, w) {
				return fmt.Errorf("%q isn't in it:\n%s", w, out)
			}
		}
		return nil
	})
}

// TestDiagnosis asks about a crash, about a node that can't own, and whether
// another could take over, as an operator would.
func TestDiagnosis(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})
	old := s.settled(t)
	s.kill(t, old)
	owner := s.takenOver(t, old)
	third := s.others(old, owner)[0]
	// Its guard has taken the addresses down; its socket is still there.
	s.says(t, old, []string{"status"}, 4, "had isn't running here, and this host holds none of its addresses")

	s.says(t, third, []string{"why"}, 0,
		fmt.Sprintf("%s: owns 10.77.0.100, fd77::100 after %s", owner, old),
		fmt.Sprintf("%s lost it: had died while it owned; its guard gave back what it held.", old),
		"addresses down", "wrote its ownership into the log, as leader of term", "PreAcq scripts: 4 ok", "addresses up and announced", "serving",
		"Nobody had the addresses for", "by their clocks")
	s.says(t, third, []string{"why", "-o", "json"}, 0, `"outcome": "serving"`, `"fate": "forced"`, `"least_ms"`)
	s.says(t, third, []string{"why-not", old}, 3, old+" can't take over", "FAIL answers", "systemctl status had")
	s.says(t, third, []string{"preflight", old}, 1, old+": NOT ready", "it could not be asked")
	s.bundlesAfterACrash(t, old, owner)

	must(t, s.Host(old).StartDaemon())
	s.says(t, third, []string{"wait", "--for", "healthy"}, 0, owner+" owns")
	s.says(t, old, []string{"wait", "--for", "owner=" + third, "--timeout", "100ms"}, 1, "not owner="+third+" within 100ms")
	s.says(t, old, []string{"why-not", old}, 0, old+" could take over now.", "up to date", owner+" owns and is well", "Next: hactl move --to "+old)
	s.says(t, third, []string{"why-not", owner}, 0, owner+" owns")
	s.says(t, third, []string{"preflight", "--run-tests"}, 0,
		owner+": owns, and is well", third+": ready to take over", "eth0 for v0, v1 has a link", "none of the 2 is on this host",
		"nobody but the owner answers", "Test for 10.77.0.100 exited with 0", "MiB free", "the hook folders are the same")
	s.says(t, old, []string{"hook", "list"}, 0, "PreAcq20", third+": the same")
	s.says(t, old, []string{"hook", "run", "Test", "--vip", "v0"}, 0, old+": hook 10.77.0.100 Test ok")
	s.says(t, old, []string{"hook", "run", "PreAcq"}, 2, "only Test can be run by hand")

	// A node that can't own says so, and what to do.
	must(t, s.LinkDown(third))
	s.says(t, owner, []string{"why-not", third}, 3, third+" can't take over")
	must(t, s.LinkUp(third))

	// Somebody else could write a script that a takeover needs.
	script := filepath.Join(s.hooks.dir, s.vips[0].String(), "PreAcq20")
	must(t, os.Chmod(script, 0o777))
	s.says(t, third, []string{"preflight", old}, 1, old+": NOT ready", "had won't run PreAcq20, which a takeover needs", "chmod go-w it")
	s.says(t, third, []string{"why-not", old}, 3, "so had won't run PreAcq20")
	must(t, os.Chmod(script, 0o755))

	// What people have said is among the rules, with what ends it.
	s.mayOwn(t, third, true)
	s.says(t, old, []string{"drain", third, "--reason", "new disk"}, 0)
	s.mayOwn(t, third, false)
	s.says(t, old, []string{"why-not", third}, 3, "FAIL drain", ": new disk", "hactl undrain "+third)
	s.says(t, old, []string{"preflight", third}, 1, third+": NOT ready", "FAIL drain")
	s.says(t, old, []string{"undrain", third}, 0)
	s.mayOwn(t, third, true)
	s.says(t, old, []string{"freeze", "--for", "1h"}, 0)
	s.says(t, old, []string{"why-not", third}, 0, "warn freeze", "It may take over by hactl move alone", "if "+owner+" failed now, nobody would take over")
	s.says(t, old, []string{"preflight"}, 1, "FAIL freeze", "nobody takes over by itself before that")
	s.says(t, old, []string{"wait", "--for", "healthy", "--timeout", "100ms"}, 1, "frozen by")
	s.says(t, old, []string{"unfreeze"}, 0)

	// The log can be turned up and down while the daemon runs.
	s.says(t, old, []string{"log", "level", "debug", "--json", "on"}, 0, old+" logs at level debug, as JSON; after its next start at level info, as text")
	eventually(t, "the log has lines of JSON", func() error {
		text, err := os.ReadFile(s.Host(old).Log())
		if err == nil && !strings.Contains(string(text), `"@message":"the log was changed, until the next start"`) {
			err = errors.New("it has none")
		}
		return err
	})
	s.says(t, old, []string{"log", "level", "info", "--json", "off"}, 0, old+" logs at level info, as text")
	s.says(t, old, []string{"wait", "--for", "healthy"}, 0)
}
