package lab

import (
	"context"
	"testing"
	"time"
)

func TestWireNamesWhoClaims(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	w, err := l.WatchWire()
	must(t, err)
	defer w.Close()
	beta := l.Host("beta")
	for i, vip := range l.VIPs() {
		must(t, beta.AddAddress(hostPrefix(vip), Forever))
		c, err := l.Client.Measure(ClientConfig{Target: vip})
		must(t, err)
		_, err = c.AwaitAnswer(ctx, time.Time{}) // the kernel asked who has it, and beta said so
		must(t, err)
		c.Stop()

		want := []string{"reply", "advertisement"}[i]
		_, err = w.Await(ctx, func(c Claim) bool { return c.VIP == vip && c.Kind == want })
		must(t, err)
		claims, err := w.Claims(vip)
		must(t, err)
		for _, claim := range claims {
			if claim.Host != "beta" || claim.MAC.String() != beta.MAC.String() {
				t.Errorf("%s: a claim by %s with MAC %s, want only beta's %s", vip, claim.Host, claim.MAC, beta.MAC)
			}
		}
	}
}
