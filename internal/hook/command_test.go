package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sh is a command that runs a line of shell.
func sh(timeout time.Duration, line string) Command {
	return Command{Name: `sync "pages"`, Line: []string{"sh", "-c", line, "sh", "one", "two words"}, Env: []string{"HAD_SYNC=pages"}, Mark: "mark", Timeout: timeout}
}

func TestCommand(t *testing.T) {
	t.Setenv("DAEMONS_OWN_SECRET", "leak")
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("#!/bin/sh\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	chmod(t, open, 0o777)
	c := NewCommands()
	defer c.Close()
	for _, tc := range []struct {
		cmd     Command
		outcome Outcome
		want    string // the result's sentence, or what was printed
	}{
		{sh(long, `echo "$1, $2"; env | sort`), Exited, "one, two words\nHAD_RUN=mark\nHAD_SYNC=pages\nHOME=/root\nLANG=C.UTF-8\nPATH=" + searchPath + "\nPWD=/\n"},
		{sh(long, `exit 12`), Exited, `sync "pages" exited with 12`},
		{sh(200*time.Millisecond, `sleep 600 & wait`), TimedOut, `sync "pages": it ran for longer than 200ms`},
		{Command{Name: "x", Line: []string{"had-no-such-program"}, Timeout: long}, Refused, `x: not run: there is no program "had-no-such-program" in /usr/local/sbin`},
		{Command{Name: "x", Line: []string{"/nothing"}, Timeout: long}, Refused, "x: not run: lstat /nothing"},
		{Command{Name: "x", Line: []string{open}, Timeout: long}, Refused, "mode 0777"},
	} {
		r, err := c.Run(t.Context(), tc.cmd)
		got := r.String()
		if r.OK() {
			got = string(r.OutputTail)
		}
		if err != nil || r.Outcome != tc.outcome || !strings.Contains(got, tc.want) {
			t.Errorf("%q: %s %q, %v; want %s %q", tc.cmd.Line, r.Outcome, got, err, tc.outcome, tc.want)
		}
	}
}

func TestACommandEndsWithItsContext(t *testing.T) {
	f := newFixture(t)
	ready := f.fifo("ready")
	c := NewCommands()
	defer c.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	var pid int
	go func() {
		fmt.Sscan(f.heard(ready), &pid)
		cancel(errors.New("the owner has changed"))
	}()
	r, err := c.Run(ctx, sh(long, `trap "" TERM; sleep 60 & echo $! > `+ready+`; wait; wait`))
	if err != nil || r.Outcome != Canceled || !strings.Contains(r.Err, "the owner has changed") {
		t.Errorf("%+v, %v", r, err)
	}
	if alive(t, pid) {
		t.Error("what it had started goes on")
	}
	if r, err := c.Run(ctx, sh(long, "true")); err != nil || r.Outcome != Canceled {
		t.Errorf("it was begun although it was canceled before: %+v, %v", r, err)
	}
}

// What has left the session is found by its mark.
func TestKillMarked(t *testing.T) {
	c := NewCommands()
	defer c.Close()
	f := newFixture(t)
	ready := f.fifo("ready")
	heard := make(chan string, 1)
	go func() { heard <- f.heard(ready) }()
	cmd := sh(long, "setsid sh -c 'echo $$ > "+ready+"; exec sleep 60' >&- 2>&- &")
	cmd.Mark = "mark-of-" + t.Name()
	if r, err := c.Run(t.Context(), cmd); err != nil || !r.OK() {
		t.Fatalf("%+v, %v", r, err)
	}
	var pid int
	if _, err := fmt.Sscan(<-heard, &pid); err != nil {
		t.Fatal(err)
	}
	if err := KillMarked(t.Context(), cmd.Name, cmd.Mark); err != nil {
		t.Error(err)
	}
	if alive(t, pid) {
		t.Error("it goes on")
	}
}
