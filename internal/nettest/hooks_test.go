package nettest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// macFolder is the example that stands for a folder from an old Mac server.
const macFolder = "../../scripts/examples/hooks-macstyle/192.0.2.10"

// TestMacFolder runs an unchanged IPFailover folder, under another address,
// through an acquisition, a planned move, a veto, a crash and a restart.
func TestMacFolder(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{Detect: steady})
	vip := s.vips[0]
	folder := filepath.Join(s.hooks.dir, vip.String())
	must(t, os.RemoveAll(folder))
	must(t, os.CopyFS(folder, os.DirFS(macFolder)))
	s.vips = s.vips[:1]
	s.apply(t, "alpha", s.policy(vip))
	first := s.settled(t)
	acquired := []string{"Test", "PreAcq10StopMirror", "PreAcq20CheckConfig", "PostAcq10StartWeb", "PostAcq20MailAdmin"}
	s.ran(t, first, acquired...)
	epoch := s.epoch(t)
	s.printed(t, first, "PreAcq10StopMirror", fmt.Sprintf("PreAcq10StopMirror: acquire %s, mirroring from nobody stops", vip))
	s.printed(t, first, "PostAcq10StartWeb", fmt.Sprintf("PostAcq10StartWeb: acquire %s on eth0, web server starts", vip))
	s.printed(t, first, "PostAcq20MailAdmin", fmt.Sprintf("PostAcq20MailAdmin: %s owns %s in epoch %d, because: the first owner", first, vip, epoch))

	second := s.others(first)[0]
	s.moveTo(t, first, second)
	s.takenOver(t, first)
	// The target's Test and the owner's are asked before anything is released.
	s.ran(t, first, append(slices.Clone(acquired), "Test", "PreRel10StopWeb", "PostRel10StartMirror")...)
	s.ran(t, second, acquired...)
	s.printed(t, first, "PreRel10StopWeb", fmt.Sprintf("PreRel10StopWeb: release %s, web server stops", vip))
	s.printed(t, second, "PreAcq10StopMirror", fmt.Sprintf("PreAcq10StopMirror: acquire %s, mirroring from %s stops", vip, first))

	maintenance := filepath.Join(folder, "maintenance")
	must(t, os.WriteFile(maintenance, nil, 0o600))
	if _, err := s.move(t, first, first); err == nil || !strings.Contains(err.Error(), "Test") {
		t.Errorf("a move to a host under maintenance was answered with: %v", err)
	}
	s.printed(t, first, "Test", "Test: this host is under maintenance")
	must(t, os.Remove(maintenance))
	s.takenOver(t, first)

	s.kill(t, second)
	must(t, s.Host(second).StartDaemon())
	s.settled(t)
	s.printed(t, second, "PreRel10StopWeb", fmt.Sprintf("PreRel10StopWeb: release %s after the fact, web server stops", vip))
}

// TestScripts puts scripts of every kind into a folder and reads in the log
// what became of them.
func TestScripts(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{Detect: steady, Env: []string{"DAEMON_SECRET=1"}})
	v4, v6 := s.vips[0], s.vips[1]
	for _, vip := range s.vips {
		s.hooks.empty(t, vip)
	}
	for _, stage := range []string{"PreAcq", "PostAcq", "PreRel", "PostRel"} {
		for i, vip := range s.vips {
			// Names that only byte order sorts like this.
			for _, name := range []string{"05", "10", "9", "B", "a"} {
				s.hooks.write(t, vip, stage+name, fmt.Sprintf("echo %s%s of address %d on $HAD_NODE: $(%s) >>%s", stage, name, i, isThere(v6), s.hooks.ledger+".order"))
			}
		}
	}
	s.hooks.write(t, v4, "PostAcq20-env", "env")
	s.hooks.write(t, v4, "PostAcq30-fails", "echo it went wrong >&2; exit 3")
	s.hooks.write(t, v4, "PostAcq40-hangs", "echo before; sleep 60 & wait")
	s.hooks.write(t, v4, "PostAcq50-killed", "kill -TERM $$")
	s.hooks.write(t, v6, "PostAcq60-unsafe", "echo never")
	must(t, os.Chmod(filepath.Join(s.hooks.dir, v6.String(), "PostAcq60-unsafe"), 0o757))
	s.apply(t, "alpha", strings.Replace(s.policy(v4, v6), `"10s"`, `"500ms"`, 1))
	owner := s.settled(t)
	epoch := s.epoch(t)

	s.became(t, "PostAcq20-env", func(r *hadv1.HookResult) bool {
		return r.GetExitCode() == 0 && slices.Equal(environment(r), []string{
			"HAD_CLUSTER=lab", fmt.Sprintf("HAD_EPOCH=%d", epoch), "HAD_EVENT=acquire", "HAD_INTERFACE=eth0", "HAD_NODE=" + owner,
			"HAD_PREVIOUS_OWNER=", "HAD_REASON=the first owner", "HAD_VIP=" + v4.String(),
		})
	})
	s.became(t, "PostAcq30-fails", func(r *hadv1.HookResult) bool {
		return r.GetOutcome() == hadv1.HookResult_OUTCOME_EXITED && r.GetExitCode() == 3 && string(r.GetOutputTail()) == "it went wrong\n"
	})
	s.became(t, "PostAcq40-hangs", func(r *hadv1.HookResult) bool {
		return r.GetOutcome() == hadv1.HookResult_OUTCOME_TIMED_OUT && string(r.GetOutputTail()) == "before\n" && r.GetDurationNs() >= 5e8
	})
	s.became(t, "PostAcq50-killed", func(r *hadv1.HookResult) bool {
		return r.GetOutcome() == hadv1.HookResult_OUTCOME_SIGNALED && r.GetSignal() != ""
	})
	s.became(t, "PostAcq60-unsafe", func(r *hadv1.HookResult) bool {
		return r.GetOutcome() == hadv1.HookResult_OUTCOME_REFUSED && strings.Contains(r.GetError(), "0757")
	})

	// Each stage runs for every address before the next begins, in the
	// policy's order to take over and in reverse to give up.
	s.moveTo(t, owner, s.others(owner)[0])
	s.takenOver(t, owner)
	order := s.hooks.order(t, owner)
	var want []string
	for _, stage := range []struct {
		name  string
		first int
		there string
	}{{"PreAcq", 0, "down"}, {"PostAcq", 0, "up"}, {"PreRel", 1, "up"}, {"PostRel", 1, "down"}} {
		for _, i := range []int{stage.first, 1 - stage.first} {
			for _, name := range []string{"05", "10", "9", "B", "a"} {
				want = append(want, fmt.Sprintf("%s%s of address %d on %s: %s", stage.name, name, i, owner, stage.there))
			}
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("the scripts ran in the order\n%s\nwant\n%s", strings.Join(order, "\n"), strings.Join(want, "\n"))
	}
}

// TestScriptsAndLeases lets scripts run for longer than a lease, and had die
// in the middle of one.
func TestScriptsAndLeases(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})

	s.scenario(t, "stopping the services takes longer than a lease", func(t *testing.T, owner string) {
		s.hooks.add(t, s.vips[0], "PreRel20", "sleep 2.5")
		defer s.hooks.remove(t, s.vips[0], "PreRel20")
		began := time.Now()
		s.moveTo(t, owner, s.others(owner)[0])
		s.takenOver(t, owner)
		if took := time.Since(began); took < 2*steady {
			t.Errorf("the addresses went after %v, before PreRel20 was through", took)
		}
		if r := lastReleaseBy(s.fullHistory(t), owner); r.GetForced() {
			t.Errorf("the release was forced although the owner could renew its lease: %v", r)
		}
	})

	s.scenario(t, "told to stop, and again in the middle of a script", func(t *testing.T, owner string) {
		begun := filepath.Join(s.hooks.orders, "begun")
		s.hooks.add(t, s.vips[0], "PreRel20", "touch "+begun+"; sleep 1000")
		defer s.hooks.remove(t, s.vips[0], "PreRel20")
		epoch := s.epoch(t)
		must(t, s.Host(owner).Kill(syscall.SIGTERM))
		eventually(t, "the script runs", func() error { _, err := os.Stat(begun); return err })
		must(t, s.Host(owner).Kill(syscall.SIGTERM))
		_ = s.Host(owner).Wait(within(t)) // its exit code is not the point
		s.takenOver(t, owner)
		must(t, s.Host(owner).StartDaemon())
		s.settled(t)
		var releases []*hadv1.Released
		for _, e := range s.fullHistory(t) {
			if r := e.GetReleased(); r.GetEpoch() == epoch {
				releases = append(releases, r)
			}
		}
		if len(releases) != 1 || !releases[0].GetForced() {
			t.Errorf("releases of epoch %d: %v, want one, forced", epoch, releases)
		}
	})

	s.scenario(t, "had dies in the middle of a script", func(t *testing.T, owner string) {
		// Whoever comes to run it writes its process ID down under its own name.
		running := filepath.Join(s.hooks.orders, "running-")
		s.hooks.add(t, s.vips[0], "PostAcq20", "sleep 1000 & echo $! >"+running+"new; mv "+running+"new "+running+"on-$HAD_NODE; wait")
		s.moveTo(t, owner, s.others(owner)[0])
		var victim string
		eventually(t, "the script runs", func() error {
			found, err := filepath.Glob(running + "on-*")
			if err == nil && len(found) != 1 {
				err = fmt.Errorf("it runs on %v", found)
			}
			if err == nil {
				victim = strings.TrimPrefix(found[0], running+"on-")
			}
			return err
		})
		text, err := os.ReadFile(running + "on-" + victim)
		must(t, err)
		s.kill(t, victim)
		s.hooks.remove(t, s.vips[0], "PostAcq20")
		// A process that has ended and that nobody has waited for has no words.
		commandLine := filepath.Join("/proc", strings.TrimSpace(string(text)), "cmdline")
		eventually(t, "what the script had started is ended by the guard", func() error {
			if words, err := os.ReadFile(commandLine); err == nil && len(words) > 0 {
				return fmt.Errorf("%q is still running", words)
			}
			return nil
		})
		must(t, s.Host(victim).StartDaemon())
		s.became(t, "PostAcq20", func(r *hadv1.HookResult) bool { return r.GetOutcome() == hadv1.HookResult_OUTCOME_UNKNOWN })
	})
}

// isThere is a shell command that says whether this host has an IPv6 address:
// "up" or "down" (/proc/net/if_inet6 has it in 32 hexadecimal digits).
func isThere(vip netip.Addr) string {
	b := vip.As16()
	return fmt.Sprintf("grep -q %x /proc/net/if_inet6 && echo up || echo down", b[:])
}

// environment returns the HAD_ variables in the output of env(1), and
// whatever of the daemon's own environment is in it.
func environment(r *hadv1.HookResult) []string {
	var vars []string
	for line := range strings.Lines(string(r.GetOutputTail())) {
		if strings.HasPrefix(line, "HAD_") && !strings.HasPrefix(line, "HAD_RUN=") || strings.HasPrefix(line, "DAEMON_") {
			vars = append(vars, strings.TrimSpace(line))
		}
	}
	slices.Sort(vars)
	return vars
}

// results returns a node's hook runs in the log, "" for all nodes'.
func (s *site) results(t *testing.T, node string) ([]*hadv1.HookResult, error) {
	t.Helper()
	events, err := s.history(t, s.Servers()[0].Name)
	var results []*hadv1.HookResult
	for _, e := range events {
		if e.GetHook() != nil && (node == "" || e.GetNode() == node) {
			results = append(results, e.GetHook())
		}
	}
	return results, err
}

// ran waits until the log has exactly these runs of a node, in this order.
func (s *site) ran(t *testing.T, node string, scripts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log has %v on %s", scripts, node), func() error {
		results, err := s.results(t, node)
		var got []string
		for _, r := range results {
			got = append(got, r.GetScript())
		}
		if err == nil && !slices.Equal(got, scripts) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

// printed waits until the log has a run of a script that printed this line.
func (s *site) printed(t *testing.T, node, script, line string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log has what %s printed on %s: %s", script, node, line), func() error {
		results, err := s.results(t, node)
		var got []string
		for _, r := range results {
			if r.GetScript() == script {
				got = append(got, string(r.GetOutputTail()))
			}
		}
		if err == nil && !slices.Contains(got, line+"\n") {
			err = fmt.Errorf("it has %q", got)
		}
		return err
	})
}

// became checks what the log has on the one run of a script.
func (s *site) became(t *testing.T, script string, ok func(*hadv1.HookResult) bool) {
	t.Helper()
	eventually(t, script+" ran once and is in the log as it ended", func() error {
		results, err := s.results(t, "")
		if err != nil {
			return err
		}
		results = slices.DeleteFunc(results, func(r *hadv1.HookResult) bool { return r.GetScript() != script })
		if len(results) != 1 || !ok(results[0]) {
			return fmt.Errorf("it has %v", results)
		}
		return nil
	})
}

// order returns the lines that a node's scripts have written.
func (f *hookFolder) order(t *testing.T, node string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(f.ledger + ".order")
	must(t, err)
	for line := range bytes.Lines(text) {
		if strings.Contains(string(line), " on "+node+":") {
			lines = append(lines, strings.TrimSpace(string(line)))
		}
	}
	return lines
}
