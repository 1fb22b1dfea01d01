package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

// On a terminal the name has to be typed, and only that name will do.
func TestAConfirmationIsTyped(t *testing.T) {
	const status = `Status {"cluster": "office", "leader": "beta", "freshness": {"confirmed": true}, "unsecured": [{"node": "alpha", "epoch": "7", "leaseIndex": "90"}]}`
	for _, c := range []struct {
		typed string
		want  int
	}{
		{"alpha\n", exitDone}, {" alpha \n", exitDone}, {"alpha", exitDone},
		{"yes\n", exitFailed}, {"beta\n", exitFailed}, {"\n", exitFailed}, {"", exitFailed},
	} {
		typed, want := c.typed, c.want
		fake, socket := startFake(t, status+"\nConfirmFence {}\n")
		a, _, errOut := testApp(socket)
		a.asks, a.in = true, strings.NewReader(typed)
		if got := run(t.Context(), []string{"fence", "confirm", "alpha"}, a); got != want {
			t.Errorf("%q: exit code %d, want %d: %s", typed, got, want, errOut)
		}
		if sent := strings.Contains(fake.asked(), "ConfirmFence"); sent != (want == exitDone) {
			t.Errorf("%q: sent %v", typed, sent)
		}
		if want != exitDone && !strings.Contains(errOut.String(), "nothing was changed") {
			t.Errorf("%q: %s", typed, errOut)
		}
	}
}

// Ctrl-C at the question ends it, and nothing was said.
func TestAQuestionIsInterrupted(t *testing.T) {
	fake, socket := startFake(t, `Status {"cluster": "office", "leader": "beta", "freshness": {"confirmed": true}, "unsecured": [{"node": "alpha", "epoch": "7", "leaseIndex": "90"}]}`+"\nConfirmFence {}\n")
	a, _, _ := testApp(socket)
	typed, keyboard := io.Pipe()
	defer keyboard.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	a.asks, a.in = true, typed
	asked := &prompt{at: "to confirm: ", shown: interrupt}
	a.err = asked
	if got := run(ctx, []string{"fence", "confirm", "alpha"}, a); got != exitInterrupted || !strings.Contains(asked.String(), "nothing was changed") {
		t.Errorf("exit code %d, want %d: %s", got, exitInterrupted, asked)
	}
	if strings.Contains(fake.asked(), "ConfirmFence") {
		t.Error("it was confirmed")
	}
}

// prompt keeps what is written, and tells when a question is there.
type prompt struct {
	strings.Builder
	at    string
	shown func()
}

func (p *prompt) Write(b []byte) (int, error) {
	n, err := p.Builder.Write(b)
	if strings.HasSuffix(p.String(), p.at) {
		p.shown()
	}
	return n, err
}
