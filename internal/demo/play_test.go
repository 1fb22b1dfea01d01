package demo

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestPlay(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.await("stop everything and clean up")
	for _, c := range []struct{ say, expect string }{
		{`hactl move --reason "a first try"`, "moved 10.77.0.100, fd77::100 from "}, // alpha owns, or beta
		{"client", " then "},
		{"kill owner", "had is killed"},
		{"hactl history --last 20", ": a first try (operation "},
		{"where", "  -           "}, // instead of a process number
		{"cut delta", `there is no server "delta": they are alpha, beta, gamma`},
		{"link gamma sideways", "usage: link NAME up|down"},
		{"frobnicate", `there is no command "frobnicate"`},
		{"link gamma down", "the link is down"},
		{"link gamma up", "the link is up"},
		{"stop gamma", "had has stopped"},
		{"start gamma", "had is started"},
		{"split", "cut from each other"},
		{"cut gamma", "cut off from everybody"},
		{"heal", "no cuts"},
		{"client", "0 ms in which two hosts had fd77::100"},
		{"help", "this list"},
	} {
		p.say(c.say)
		p.await(c.expect)
	}
	p.say("quit")
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d after quit: %s", code, p.stderr.String())
	}
}

// In a script, or with standard input at /dev/null, it runs until a signal.
func TestPlayOutlivesItsInput(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.await("stop everything and clean up")
	p.say("hactl status --check")
	must(t, p.stdin.Close())
	p.await("HAD OK")
	must(t, p.cmd.Process.Signal(syscall.SIGINT))
	if code := p.end(); code != 130 {
		t.Errorf("exit code %d, want 130: %s", code, p.stderr.String())
	}
}

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                                 nil,
		" cut  beta ":                      {"cut", "beta"},
		`hactl move --reason "too many"`:   {"hactl", "move", "--reason", "too many"},
		`hactl move --reason="a b" -x`:     {"hactl", "move", "--reason=a b", "-x"},
		`hactl move --reason 'it''s "so"'`: {"hactl", "move", "--reason", `its "so"`},
		`say ""`:                           {"say", ""},
		`an "open end`:                     {"an", "open end"},
	} {
		if got := words(line); !slices.Equal(got, want) {
			t.Errorf("words(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestLineReader(t *testing.T) {
	in, out, err := os.Pipe()
	must(t, err)
	defer in.Close()
	_, err = out.WriteString("one\ntwo\nlast")
	must(t, err)
	must(t, out.Close())
	r, err := newLineReader(in)
	must(t, err)
	defer r.close()
	var got []string
	for {
		line, ok, err := r.next(t.Context())
		must(t, err)
		if !ok {
			break
		}
		got = append(got, line)
	}
	if strings.Join(got, "|") != "one|two|last" {
		t.Errorf("lines = %q", got)
	}
}

func TestLineReaderEndsWithItsContext(t *testing.T) {
	in, out, err := os.Pipe()
	must(t, err)
	defer in.Close()
	defer out.Close() // stays open: no line ever comes
	r, err := newLineReader(in)
	must(t, err)
	defer r.close()
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := r.next(ctx)
		done <- err
	}()
	cancel(stopped)
	if err := <-done; !errors.Is(err, stopped) {
		t.Errorf("error = %v, want the context's cause", err)
	}
}
