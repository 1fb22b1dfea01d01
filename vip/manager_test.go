package vip

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"had/internal/clock"
)

func TestNewRefusesLifetimesTheKernelCantKeep(t *testing.T) {
	for _, d := range []time.Duration{0, -time.Second, 999 * time.Millisecond, 1500 * time.Millisecond} {
		if _, err := New(Config{Lifetime: d, Now: clock.Now}); err == nil || !strings.Contains(err.Error(), "whole seconds") {
			t.Errorf("New with lifetime %s: %v", d, err)
		}
	}
}

func TestSetHoldsExactlyWhatIsWanted(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	h.assign("eth0", "192.0.2.1/24")
	m := manager(t, 2*time.Second, clock.Now)

	steps := []struct {
		want   []Address
		change Change
		kernel []string // besides the host's own
	}{
		{on("eth0", "192.0.2.10", "2001:db8::10"), Change{Added: on("eth0", "192.0.2.10", "2001:db8::10")},
			[]string{"192.0.2.10/32", "2001:db8::10/128"}},
		{on("eth0", "192.0.2.10", "2001:db8::10"), Change{}, []string{"192.0.2.10/32", "2001:db8::10/128"}},
		{on("eth0", "192.0.2.11", "192.0.2.10", "192.0.2.10"), Change{Added: on("eth0", "192.0.2.11")},
			[]string{"192.0.2.10/32", "192.0.2.11/32"}},
		{nil, Change{}, nil},
		{on("eth0", "192.0.2.10"), Change{Added: on("eth0", "192.0.2.10")}, []string{"192.0.2.10/32"}},
	}
	for i, s := range steps {
		change, err := m.Set(t.Context(), s.want, soon())
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if diff := cmp.Diff(s.change, change, addrsByValue()); diff != "" {
			t.Errorf("step %d: change (-want +got):\n%s", i, diff)
		}
		expectAssigned(t, h, "eth0", append(s.kernel, "192.0.2.1/24")...)
	}
	if err := m.Remove(t.Context(), on("eth0", "192.0.2.10", "192.0.2.99")); err != nil {
		t.Fatal(err)
	}
	expectAssigned(t, h, "eth0", "192.0.2.1/24")
}

func TestSetMovesAnAddressBetweenInterfaces(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	for _, iface := range []string{"eth0", "lo"} {
		if _, err := m.Set(t.Context(), on(iface, "192.0.2.10"), soon()); err != nil {
			t.Fatal(err)
		}
	}
	expectAssigned(t, h, "eth0")
	expectAssigned(t, h, "lo", "192.0.2.10/32", "127.0.0.1/8", "::1/128")
}

// What NetworkManager and the like do: the address is gone, nobody asked us.
func TestSetReassertsWhatSomethingElseRemoved(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	want := on("eth0", "192.0.2.10", "2001:db8::10")
	if _, err := m.Set(t.Context(), want, soon()); err != nil {
		t.Fatal(err)
	}
	h.take("eth0", "192.0.2.10/32")
	h.take("eth0", "2001:db8::10/128")
	m.Changed()
	change, err := m.Set(t.Context(), want, soon())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Change{Reasserted: want}, change, addrsByValue()); diff != "" {
		t.Errorf("change (-want +got):\n%s", diff)
	}
	expectAssigned(t, h, "eth0", "192.0.2.10/32", "2001:db8::10/128")
}

// Nobody reports a change, as when the reports were lost: what is missing is put back
// with the next renewal, and what is too much goes when Set looks again.
func TestSetLooksNowAndThen(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	want := on("eth0", "192.0.2.10", "2001:db8::10")
	if _, err := m.Set(t.Context(), want, soon()); err != nil {
		t.Fatal(err)
	}
	h.take("eth0", "192.0.2.10/32")
	h.assign("lo", "192.0.2.10/32")
	for n := range lookEvery {
		if _, err := m.Set(t.Context(), want, soon()); err != nil {
			t.Fatal(err)
		}
		expectAssigned(t, h, "eth0", "192.0.2.10/32", "2001:db8::10/128")
		if n < lookEvery-1 {
			expectAssigned(t, h, "lo", "192.0.2.10/32", "127.0.0.1/8", "::1/128")
		}
	}
	expectAssigned(t, h, "lo", "127.0.0.1/8", "::1/128")
}

// The host's own subnets must not depend on a virtual address, whichever was
// there first and whatever the kernel makes of secondary addresses.
func TestTheHostsOwnAddressesStay(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	want := on("eth0", "192.0.2.10", "198.51.100.7", "2001:db8::10")
	if _, err := m.Set(t.Context(), want, soon()); err != nil {
		t.Fatal(err)
	}
	h.assign("eth0", "192.0.2.1/24")
	h.assign("eth0", "192.0.2.2/24") // secondary to the one above
	h.assign("eth0", "2001:db8::1/64")
	own := []string{"192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"}
	expectAssigned(t, h, "eth0", append(own, "192.0.2.10/32", "198.51.100.7/32", "2001:db8::10/128")...)
	if err := m.Remove(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	expectAssigned(t, h, "eth0", own...)
	routes, err := h.link.RouteList(h.get("eth0"), netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if p, ok := prefix(r.Dst); ok && p.IsSingleIP() {
			t.Errorf("a route to a removed address is left: %v", r)
		}
	}
}

func TestNobodyRenewsAndTheKernelRemoves(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, time.Second, clock.Now)
	events := watch(t, NewWatcher(hclog.NewNullLogger()))
	start := time.Now()
	if _, err := m.Set(t.Context(), on("eth0", "192.0.2.10", "2001:db8::10"), soon()); err != nil {
		t.Fatal(err)
	}
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	expectEvent(t, events, Event{AddressRemoved, v4, "eth0"}, Event{AddressRemoved, v6, "eth0"})
	if took := time.Since(start); took > 2500*time.Millisecond {
		t.Errorf("removed after %s, want at most lifetime + 1.5 s", took)
	}
	expectAssigned(t, h, "eth0")
}

func TestRenewalKeepsAnAddress(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, time.Second, clock.Now)
	want := on("eth0", "192.0.2.10", "2001:db8::10")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 14 { // past lifetime + 1.5 s
		change, err := m.Set(t.Context(), want, soon())
		if err != nil || len(change.Reasserted) > 0 {
			t.Fatalf("renewal: %v, %v", change, err)
		}
		<-tick.C
	}
	expectAssigned(t, h, "eth0", "192.0.2.10/32", "2001:db8::10/128")
	// An address somebody pinned loses its new lifetime as well.
	h.assignForever("eth0", "192.0.2.10/32")
	if _, err := m.Set(t.Context(), want, soon()); err != nil {
		t.Fatal(err)
	}
	for cidr, a := range h.assigned("eth0") {
		if a.ValidLft < 1 || a.ValidLft > 1 {
			t.Errorf("%s lives for %d s, want 1", cidr, a.ValidLft)
		}
		if v6 := a.IP.To4() == nil; v6 && (a.PreferedLft != 0 || a.Flags&unix.IFA_F_TENTATIVE != 0) {
			t.Errorf("%s is preferred for %d s with flags %#x, want 0 and not tentative", cidr, a.PreferedLft, a.Flags)
		}
	}
}

func TestSetAfterTheDeadlineAddsNothing(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	for _, late := range []time.Duration{0, time.Millisecond, time.Hour} {
		change, err := m.Set(t.Context(), on("eth0", "192.0.2.10"), at(clock.Now().Add(-late)))
		if !errors.Is(err, ErrDeadline) || len(change.Added) > 0 {
			t.Errorf("%s late: Set = %v, %v; want ErrDeadline", late, change, err)
		}
		expectAssigned(t, h, "eth0")
	}
}

// The clock of this test is the number of times it was read, so that the
// deadline can be put between any two readings.
func TestSetThatEndsTooLateRemovesAgain(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	h.assign("eth0", "192.0.2.1/24")
	var reading clock.Instant
	m := manager(t, 2*time.Second, func() clock.Instant { reading++; return reading })
	want := many(batchSize + 10)
	for deadline := clock.Instant(1); deadline <= 4; deadline++ {
		reading = 0
		change, err := m.Set(t.Context(), want, at(deadline))
		if !errors.Is(err, ErrDeadline) || len(change.Added) > 0 {
			t.Errorf("deadline at reading %d: Set = %v, %v; want ErrDeadline", deadline, change, err)
		}
		expectAssigned(t, h, "eth0", "192.0.2.1/24")
	}
	reading = 0
	if change, err := m.Set(t.Context(), want, at(5)); err != nil || len(change.Added) != len(want) {
		t.Errorf("deadline after the last reading: Set added %d of %d, %v", len(change.Added), len(want), err)
	}
}

// A lease that is renewed while very many addresses are set, or that ends.
func TestSetGoesByTheDeadlineAsItMoves(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	for _, c := range []struct {
		name string
		move clock.Instant // what each reading of the clock adds to the deadline
		ok   bool
	}{{"renewed", 1, true}, {"ended", -1, false}} {
		reading, deadline := clock.Instant(0), clock.Instant(2)
		m := manager(t, 2*time.Second, func() clock.Instant {
			reading++
			deadline += c.move
			return reading
		})
		want := many(batchSize + 10)
		change, err := m.Set(t.Context(), want, func() clock.Instant { return deadline })
		if c.ok != (err == nil) || c.ok != (len(change.Added) == len(want)) {
			t.Errorf("%s meanwhile: Set added %d of %d, %v", c.name, len(change.Added), len(want), err)
		}
		if err := m.Remove(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		expectAssigned(t, h, "eth0")
	}
}

func TestUnwantedAddressesGoWhateverTheTimeIs(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	if _, err := m.Set(t.Context(), on("eth0", "192.0.2.10", "192.0.2.11"), soon()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Set(t.Context(), on("eth0", "192.0.2.11"), at(0)); !errors.Is(err, ErrDeadline) {
		t.Fatal(err)
	}
	if p, err := presence(m, "192.0.2.10"); p != Inactive || err != nil {
		t.Errorf("the unwanted address is %s, %v", p, err)
	}
	if _, err := m.Set(t.Context(), nil, at(0)); err != nil {
		t.Fatal(err)
	}
	expectAssigned(t, h, "eth0")
}

func TestOneBadAddressDoesNotKeepTheOthersDown(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	want := slices.Concat(on("eth7", "192.0.2.8"), on("eth0", "192.0.2.9", "255.255.255.255", "192.0.2.10"))
	change, err := m.Set(t.Context(), want, soon())
	if err == nil || !strings.Contains(err.Error(), `interface "eth7" doesn't exist on this host: it has eth0, lo`) {
		t.Errorf("error doesn't name the missing interface and those there are: %v", err)
	}
	if diff := cmp.Diff(Change{Added: on("eth0", "192.0.2.9", "192.0.2.10")}, change, addrsByValue()); diff != "" {
		t.Errorf("change (-want +got):\n%s", diff)
	}
	expectAssigned(t, h, "eth0", "192.0.2.9/32", "192.0.2.10/32")
}

// The kernel's refusal of one request in a batch comes back with its reason.
func TestTheKernelsReasonIsInTheError(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	index := h.get("eth0").Attrs().Index
	good := placed{netip.MustParseAddr("192.0.2.10"), index, 32}
	bad := placed{netip.MustParseAddr("192.0.2.11"), index, 33}
	set, err := m.renew([]placed{good, bad}, soon())
	if !slices.Equal(set, []placed{good}) || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "192.0.2.11 on eth0: invalid argument (ipv4: Invalid prefix") {
		t.Errorf("renew = %v, %v", set, err)
	}
}

func TestRemoveFindsTheAddressOnEveryInterface(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	h.assign("lo", "192.0.2.10/32") // left by an earlier run with another policy
	h.assign("eth0", "192.0.2.10/32")
	h.assign("lo", "2001:db8::10/128")
	m := manager(t, 2*time.Second, clock.Now)
	// A context that ended is how a process is told to stop: it must still
	// let go.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Remove(ctx, on("eth0", "192.0.2.10", "2001:db8::10")); err != nil {
		t.Fatal(err)
	}
	expectAssigned(t, h, "eth0")
	expectAssigned(t, h, "lo", "127.0.0.1/8", "::1/128")
	if err := m.Remove(t.Context(), on("eth9", "192.0.2.10")); err != nil {
		t.Errorf("nothing to remove, on an interface that isn't there: %v", err)
	}
}

func TestRemoveLeavesTheHostsConfigurationAndSaysSo(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	h.assign("eth0", "192.0.2.10/24")
	m := manager(t, 2*time.Second, clock.Now)
	if _, err := m.Set(t.Context(), on("eth0", "192.0.2.10", "192.0.2.11"), soon()); err != nil {
		t.Fatal(err)
	}
	err := m.Remove(t.Context(), on("eth0", "192.0.2.10", "192.0.2.11"))
	if err == nil || !strings.Contains(err.Error(), "192.0.2.10 is on eth0 as 192.0.2.10/24, in the host's own configuration") {
		t.Errorf("Remove = %v", err)
	}
	expectAssigned(t, h, "eth0", "192.0.2.10/24")
}

// presence is that of one address.
func presence(m *Manager, addr string) (Presence, error) {
	a := netip.MustParseAddr(addr)
	at, err := m.Presence([]netip.Addr{a})
	return at[a], err
}

func TestOneLookTellsManyAddressesApart(t *testing.T) {
	t.Parallel()
	newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	held, absent := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")
	if _, err := m.Set(t.Context(), on("eth0", held.String()), soon()); err != nil {
		t.Fatal(err)
	}
	looks, list := 0, m.kernel.list
	m.kernel.list = func(l netlink.Link, family int) ([]netlink.Addr, error) {
		looks++
		return list(l, family)
	}
	at, err := m.Presence([]netip.Addr{held, absent})
	if err != nil || len(at) != 2 || at[held] != Active || at[absent] != Inactive || looks != 1 {
		t.Errorf("Presence = %v, %v after %d looks", at, err, looks)
	}
	// Of a look that fails half way, what was seen is there and the rest unknown.
	m.kernel.list = func(l netlink.Link, family int) ([]netlink.Addr, error) {
		addrs, err := list(l, family)
		return addrs, errors.Join(err, unix.ENOBUFS)
	}
	at, err = m.Presence([]netip.Addr{held, absent})
	if !errors.Is(err, unix.ENOBUFS) || at[held] != Active || at[absent] != Unknown {
		t.Errorf("a look that failed half way: %v, %v", at, err)
	}
}

func TestAFailedLookIsNeverInactive(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	a := on("eth0", "192.0.2.10")[0]
	if p, err := presence(m, "192.0.2.10"); p != Inactive || err != nil {
		t.Fatalf("before: %s, %v", p, err)
	}
	if _, err := m.Set(t.Context(), []Address{a}, soon()); err != nil {
		t.Fatal(err)
	}
	if p, err := presence(m, "192.0.2.10"); p != Active || err != nil {
		t.Fatalf("held: %s, %v", p, err)
	}

	list := m.kernel.list
	m.kernel.list = func(netlink.Link, int) ([]netlink.Addr, error) { return nil, unix.ENOBUFS }
	if p, err := presence(m, "192.0.2.10"); p != Unknown || !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("the look failed: %s, %v; want unknown", p, err)
	}
	m.Changed()
	if _, err := m.Set(t.Context(), []Address{a}, soon()); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("Set: %v", err)
	}
	if err := m.Remove(t.Context(), []Address{a}); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("Remove that can't verify: %v, want an error", err)
	}
	expectAssigned(t, h, "eth0") // removed all the same
	m.kernel.list = func(l netlink.Link, family int) ([]netlink.Addr, error) {
		addrs, err := list(l, family)
		return addrs, errors.Join(err, netlink.ErrDumpInterrupted)
	}
	if p, err := presence(m, "192.0.2.10"); p != Unknown || !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("the look may have missed it: %s, %v; want unknown", p, err)
	}
}

func TestAThousandAddresses(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	m := manager(t, 60*time.Second, clock.Now)
	want := many(1000)
	timed := func(what string, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s %d addresses: %s", what, len(want), time.Since(start))
	}
	set := func() error { _, err := m.Set(t.Context(), want, soon()); return err }
	timed("add", set)
	if got := len(h.assigned("eth0")); got != len(want) {
		t.Fatalf("the kernel has %d of %d", got, len(want))
	}
	timed("renew", set)
	timed("announce", func() error { return m.Announce(t.Context(), want) })
	timed("probe", func() error {
		found, err := m.Conflicts(t.Context(), want, 30*time.Millisecond, nil)
		if len(found) > 0 {
			return fmt.Errorf("conflicts with nobody: %v", found)
		}
		return err
	})
	timed("remove", func() error { return m.Remove(t.Context(), want) })
	expectAssigned(t, h, "eth0")
}

func TestSequenceNumbersWrap(t *testing.T) {
	t.Parallel()
	newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	m.kernel.batch.seq = math.MaxUint32 - 3
	for range 3 {
		if _, err := m.Set(t.Context(), many(3), soon()); err != nil {
			t.Fatal(err)
		}
	}
}

// many returns n addresses on eth0, half of each family.
func many(n int) []Address {
	list := make([]Address, n)
	v4, v6 := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("2001:db8::")
	for i := range list {
		if i%2 == 0 {
			v4 = v4.Next()
			list[i] = Address{v4, "eth0"}
		} else {
			v6 = v6.Next()
			list[i] = Address{v6, "eth0"}
		}
	}
	return list
}

func addrsByValue() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}) }

func expectAssigned(t *testing.T, h *host, iface string, want ...string) {
	t.Helper()
	var got []string
	for cidr := range h.assigned(iface) {
		got = append(got, cidr)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has %v, want %v", iface, got, want)
	}
}
