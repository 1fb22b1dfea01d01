package gate

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"had/internal/clock"
)

func soon() clock.Instant { return clock.Now().Add(time.Minute) }

func both() []netip.Addr { return []netip.Addr{vip4, vip6} }

// The life of an address, seen by a neighbour that has never heard of it:
// closed when admitted, open after Extend, closed at the deadline with nobody
// doing anything, and free once it is forgotten.
func TestAnAddressAnswersUntilItsDeadline(t *testing.T) {
	t.Parallel()
	for _, addr := range both() {
		t.Run(addr.String(), func(t *testing.T) {
			t.Parallel()
			here, there := newPair(t)
			g := open(t)
			must(t, g.Admit(7, both()))
			here.assignVirtual("eth0")
			here.echo(addr)
			client := there.dial(addr)
			if answers(t, client, brief) {
				t.Error("it answers before Extend")
			}
			if there.remembered(addr) != nil {
				t.Error("its MAC is known before Extend")
			}
			deadline := clock.Now().Add(time.Second)
			must(t, g.Extend(7, deadline))
			there.forget(addr) // the kernel spaces its questions by a second
			if !answers(t, client, patient) && clock.Now().Before(deadline) {
				t.Error("it doesn't answer within its lease")
			}
			<-time.After(deadline.Sub(clock.Now()))
			if answers(t, client, brief) {
				t.Error("it answers after its deadline")
			}
			must(t, g.Extend(7, soon()))
			if !answers(t, client, patient) {
				t.Error("it doesn't answer after a renewal that came late")
			}
			g.Shut(7)
			if answers(t, client, brief) {
				t.Error("it answers although it is shut")
			}
			if err := g.Extend(7, soon()); !errors.Is(err, ErrShut) {
				t.Errorf("Extend of a shut epoch: %v", err)
			}
			if answers(t, client, brief) {
				t.Error("a late renewal opened what was shut")
			}
			must(t, g.Forget(7, both()))
			if !answers(t, client, patient) {
				t.Error("it is held back although it isn't guarded")
			}
		})
	}
}

// A socket bound to the address goes on sending, which the kernel allows; the
// gate doesn't.
func TestABoundSocketIsSilentAfterTheDeadline(t *testing.T) {
	t.Parallel()
	for _, addr := range both() {
		here, there := newPair(t)
		g := open(t)
		must(t, g.Admit(7, both()))
		must(t, g.Extend(7, soon()))
		here.assignVirtual("eth0")
		bound := here.echo(addr)
		client := there.dial(addr)
		if !answers(t, client, patient) {
			t.Fatalf("%s doesn't answer", addr)
		}
		g.Shut(7)
		to := client.LocalAddr()
		for range 10 {
			_, _ = bound.WriteTo([]byte("unasked"), to)
		}
		must(t, client.SetReadDeadline(time.Now().Add(brief)))
		for buf := make([]byte, 64); ; { // answers from within the lease may wait here
			n, err := client.Read(buf)
			if err != nil {
				break
			}
			if string(buf[:n]) == "unasked" {
				t.Fatalf("a packet came from %s after its lease", addr)
			}
		}
	}
}

// While a gate is closed its host may still reach the address elsewhere, and
// asks where that is.
func TestAClosedGateLetsItsHostBeAClient(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	g := open(t)
	must(t, g.Admit(7, both()))
	there.assignVirtual("eth0")
	for _, addr := range both() {
		there.echo(addr)
		if !answers(t, here.dial(addr), patient) {
			t.Errorf("%s on the other host can't be reached", addr)
		}
		if got := here.remembered(addr); !slices.Equal(got, there.mac()) {
			t.Errorf("%s is remembered at %s, want %s", addr, got, there.mac())
		}
	}
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	newHost(t)
	g := open(t)
	if l := g.Lease(); l != (Lease{}) || l.Open(0) {
		t.Errorf("a new gate's lease is %+v", l)
	}
	must(t, g.Admit(7, both()))
	until := soon()
	must(t, g.Extend(7, until))
	must(t, g.Extend(7, until.Add(-time.Second))) // a late answer to an earlier renewal
	if l := g.Lease(); l != (Lease{Epoch: 7, Until: until}) || !l.Open(until-1) || l.Open(until) {
		t.Errorf("the lease is %+v, want epoch 7 until %d", l, until)
	}
	if err := g.Extend(8, soon()); err == nil {
		t.Error("an epoch that wasn't admitted was extended")
	}
	must(t, g.Admit(8, []netip.Addr{vip4}))
	if l := g.Lease(); l.Open(clock.Now()) || l.Until != 0 {
		t.Errorf("a new epoch begins with the old one's deadline: %+v", l)
	}
	if err := g.Admit(7, both()); err == nil {
		t.Error("an epoch was admitted after a later one")
	}
	if err := g.Extend(7, soon()); err == nil {
		t.Error("an epoch was extended after a later one")
	}
	must(t, g.Forget(7, both())) // vip4 is the later epoch's
	if addrs, err := g.Guarded(); err != nil || !slices.Equal(addrs, []netip.Addr{vip4}) {
		t.Errorf("Guarded() = %v, %v; want what epoch 8 admitted", addrs, err)
	}
	g.Shut(9)
	g.Shut(8)
	for epoch := uint64(8); epoch <= 9; epoch++ {
		if err := g.Admit(epoch, both()); !errors.Is(err, ErrShut) {
			t.Errorf("Admit of epoch %d after Shut(9): %v", epoch, err)
		}
	}
	if err := g.Admit(10, []netip.Addr{vip4, {}}); err == nil {
		t.Error("no address at all was admitted")
	}
	must(t, g.Admit(10, both()))
	many := make([]netip.Addr, 0, maxGuarded)
	for a := netip.MustParseAddr("2001:db8:1::"); len(many) < cap(many); a = a.Next() {
		many = append(many, a)
	}
	if err := g.Admit(10, many); err == nil || !strings.Contains(err.Error(), strconv.Itoa(maxGuarded)) {
		t.Errorf("more addresses than there is room for: %v", err)
	}
}
