package lab

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func history(t *testing.T, l *Lab, vip netip.Addr) History {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	h, err := l.Observer.History(ctx, vip)
	must(t, err)
	return h
}

func TestObserverSeesMovesAndOverlaps(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	alpha, beta := l.Host("alpha"), l.Host("beta")
	for _, vip := range l.VIPs() {
		p := hostPrefix(vip)
		must(t, alpha.AddAddress(p, Forever))
		must(t, l.Observer.Await(ctx, vip, "alpha"))
		must(t, alpha.DelAddress(p))
		must(t, beta.AddAddress(p, Forever))
		must(t, l.Observer.Await(ctx, vip, "beta"))
		moved := history(t, l, vip)
		if o := moved.Overlaps(); len(o) != 0 {
			t.Errorf("%s: overlaps in a clean move: %v\n%s", vip, o, moved)
		}
		if got := moved.Owners(); !slices.Equal(got, []string{"alpha", "beta"}) {
			t.Errorf("%s: owners = %v", vip, got)
		}
		if v := moved.Vacancies(); len(v) != 2 || v[1].To.Before(v[1].From) {
			t.Errorf("%s: vacancies = %v, want one before alpha and one before beta", vip, v)
		}

		must(t, alpha.AddAddress(p, Forever)) // beta still has it
		must(t, l.Observer.Await(ctx, vip, "alpha", "beta"))
		must(t, beta.DelAddress(p))
		after := history(t, l, vip)
		overlaps := after.Overlaps()
		if len(overlaps) != 1 || !slices.Equal(overlaps[0].Hosts, []string{"alpha", "beta"}) || !overlaps[0].To.After(overlaps[0].From) {
			t.Errorf("%s: overlaps = %v, want one of alpha and beta\n%s", vip, overlaps, after)
		}
		if got := after.Holders(); !slices.Equal(got, []string{"alpha"}) {
			t.Errorf("%s: holders = %v", vip, got)
		}
	}
}

func TestObserverSeesAddressesExpire(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for _, vip := range l.VIPs() {
		must(t, l.Host("gamma").AddAddress(hostPrefix(vip), time.Second))
		must(t, l.Observer.Await(ctx, vip, "gamma"))
	}
	for _, vip := range l.VIPs() {
		must(t, l.Observer.Await(ctx, vip))
		h := history(t, l, vip)
		if n := len(h.Transitions); n != 2 {
			t.Fatalf("%s: %d transitions, want 2\n%s", vip, n, h)
		}
		// At the earliest after the lifetime; late by the kernel's timer slack
		// and by a stall of this machine.
		if held := h.Transitions[1].At.Sub(h.Transitions[0].At); held < 900*time.Millisecond {
			t.Errorf("%s expired after %v, want 1 s or more", vip, held)
		}
	}
}

// A second link with the address, and a renewal, are not another holder.
func TestObserverCountsHostsNotEvents(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha, vip := l.Host("alpha"), l.VIPs()[0]
	must(t, alpha.AddAddress(hostPrefix(vip), Forever))
	if _, err := alpha.Exec(t.Context(), "ip", "address", "add", vip.String()+"/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	must(t, alpha.DelAddress(hostPrefix(vip)))
	h := history(t, l, vip)
	if got := h.Holders(); !slices.Equal(got, []string{"alpha"}) || len(h.Transitions) != 1 {
		t.Errorf("holders = %v, want alpha by its loopback link\n%s", got, h)
	}
}

// Events that the kernel had to drop must show as an error, never as a clean
// record.
func TestObserverReportsLostEvents(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	vip := l.VIPs()[0]
	sock, err := subscribe(l.fabric.ns)
	must(t, err)
	must(t, unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)) // the kernel's minimum
	in, err := openInbox(sock)
	must(t, err)
	defer in.close()
	for range 50 { // nobody reads
		must(t, l.Host("alpha").AddAddress(hostPrefix(vip), Forever))
		must(t, l.Host("alpha").DelAddress(hostPrefix(vip)))
	}
	lost := make(chan error, 1)
	in.start(func(message) error { return nil }, func(err error) { lost <- err })
	select {
	case err = <-lost:
	case <-time.After(testTimeout):
	}
	if !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("reading over lost events ended with %v, want %v", err, unix.ENOBUFS)
	}

	l.Observer.fail(err)
	if h, err := l.Observer.History(t.Context(), vip); err == nil {
		t.Errorf("a record with a hole was returned: %v", h)
	}
	if err := l.Observer.Await(t.Context(), vip); err == nil {
		t.Error("waiting went on over a hole")
	}
}
