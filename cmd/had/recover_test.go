package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"had/cluster"
	"had/internal/daemon"
	hadv1 "had/proto/had/v1"
)

// asked is a recovery at a terminal.
func asked(in io.Reader, out io.Writer) *recovery {
	return &recovery{in: bufio.NewReader(in), asks: true, out: out, err: out}
}

func lostTwo() []*hadv1.Member { return []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}} }

func TestEachLostNodeIsTyped(t *testing.T) {
	for typed, want := range map[string]string{
		"alpha\nbeta\n": "", "alpha \nbeta": "", "alpha\n\n": `"" is not beta`, "yes\n": `"yes" is not alpha`, "": `"" is not alpha`,
	} {
		var out strings.Builder
		err := asked(strings.NewReader(typed), &out).confirm(t.Context(), lostTwo())
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want+"; nothing was changed") {
			t.Errorf("%q: %v, want %q", typed, err, want)
		}
	}
}

// Ctrl-C at the question ends it.
func TestTheQuestionIsInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	keyboard, typist := io.Pipe()
	defer typist.Close()
	var out strings.Builder
	r := asked(keyboard, &out)
	interrupt()
	if err := r.confirm(ctx, lostTwo()); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("it ended with %v: %s", err, out.String())
	}
}

// What differs from the usual is said before and after.
func TestRecoverSaysWhatIsSpecial(t *testing.T) {
	l := daemon.Loss{Remains: &cluster.Remains{}, Generation: 2, Lost: lostTwo(), Wait: time.Second, Witness: true}
	if text := nextText("/etc/had/had.hcl", "gamma", l); !strings.Contains(text, `First take role = "witness" out of the block of gamma in /etc/had/had.hcl`) {
		t.Errorf("a witness isn't told that it can't be one alone:\n%s", text)
	}
	l.Witness = false
	if text := nextText("/etc/had/had.hcl", "gamma", l); strings.Contains(text, "witness") {
		t.Errorf("who is none is told of witnesses:\n%s", text)
	}
}
