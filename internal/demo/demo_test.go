package demo

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The whole of what a newcomer sees, with real daemons. It runs alone, as a
// newcomer would.
func TestDemo(t *testing.T) {
	p := start(t, "--demo")
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	out := p.output()
	count := func(pattern string) int { return len(regexp.MustCompile(`(?m)`+pattern).FindAllString(out, -1)) }
	for pattern, least := range map[string]int{
		`^  client +no answer for [0-9.]+ ms \(by IPv6 [0-9.]+ ms\), then from `: 3,
		`^  observer +0 ms in which two hosts had the address$`:                  3,
		`^  [123]  .* -> .* ms .* ms +0 ms$`:                                     3, // the summary
		`^  client +GET http://10\.77\.0\.100/: hello from `:                     4,
		`^  client +GET http://\[fd77::100\]/: hello from `:                      3,
		` kernel +\w+ has got `:                                                  3,
		` hook 10\.77\.0\.100 PostAcq10StartWeb ok `:                             4, // move shows its own as it goes
		` forced hook 10\.77\.0\.100 PreRel10StopWeb ok `:                        2, // crashed, cut off
		` FORCED release: .* its guard gave back what it held`:                   1,
		` FORCED release: the lease ended.* \[reached the log .* later, at `:     1,
		`its own web service: hello from `:                                       1, // crashed: PreRel never ran
	} {
		if got := count(pattern); got < least {
			t.Errorf("%s: %d times, want %d", pattern, got, least)
		}
	}
	if got := count(`two hosts had the address`); got != 3 {
		t.Errorf("%d verdicts of the observer, want 3", got)
	}
	if m := regexp.MustCompile(`the same history, ([0-9]+) events`).FindStringSubmatch(out); m == nil {
		t.Error("the histories aren't compared")
	} else if n, _ := strconv.Atoi(m[1]); n < 25 || n > 70 {
		t.Errorf("%d events in the log: more are noise, fewer are holes", n)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colour in a pipe")
	}
	if p.stderr.Len() > 0 {
		t.Errorf("standard error:\n%s", p.stderr.String())
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestSignalInTheMiddleLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal syscall.Signal
		code   int
	}{
		"Ctrl-C":  {syscall.SIGINT, 130},
		"SIGTERM": {syscall.SIGTERM, 143},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, "--demo")
			p.await("now for the next owner to come") // the owner is dead, nobody owns
			must(t, p.cmd.Process.Signal(c.signal))
			if code := p.end(); code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, p.stderr.String())
			}
			if !strings.Contains(p.output(), "Cleaned up") {
				t.Error("it doesn't say that it cleaned up")
			}
		})
	}
}

// As with `had dev --demo | head`.
func TestReaderWhoLeavesEndsIt(t *testing.T) {
	t.Parallel()
	p := start(t, "--demo")
	p.await("A cluster on this machine")
	must(t, p.stdout.Close())
	if code := p.end(); code == 0 {
		t.Error("exit code 0 although nobody saw the end")
	}
}

func TestDeadDaemonIsToldAtOnce(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	for name, script := range map[string]string{"had": "echo the disk is on fire; exit 1", "hactl": "exec " + filepath.Join(programs, "hactl") + ` "$@"`} {
		must(t, os.WriteFile(filepath.Join(tmp, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	var out strings.Builder
	err := Run(t.Context(), Config{
		Had: filepath.Join(tmp, "had"), Hactl: filepath.Join(tmp, "hactl"), Dir: filepath.Join(tmp, "lab"), Out: &out,
	})
	if err == nil || !strings.Contains(err.Error(), "the disk is on fire") || !strings.Contains(err.Error(), "daemon of ") {
		t.Errorf("error = %v, want the daemon's last words", err)
	}
}

func TestDirectoryOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Chown(dir, 1234, 1234))
	err := Run(t.Context(), Config{Dir: filepath.Join(dir, "lab"), Out: &strings.Builder{}})
	if err == nil || !strings.Contains(err.Error(), dir+" belongs to user 1234") {
		t.Errorf("error = %v, want the directory and its owner", err)
	}
}
