package main

import (
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
