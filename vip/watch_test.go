package vip

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netns"

	"had/internal/clock"
	"had/internal/thread"
)

func TestWatcherSeesWhatOthersDo(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	m := manager(t, 2*time.Second, clock.Now)
	events := watch(t, NewWatcher(hclog.NewNullLogger()))
	for _, a := range on("eth0", "192.0.2.10", "2001:db8::10") {
		if _, err := m.Set(t.Context(), []Address{a}, soon()); err != nil {
			t.Fatal(err)
		}
		expectEvent(t, events, Event{AddressAdded, a.Addr, "eth0"})
		here.take("eth0", netip.PrefixFrom(a.Addr, a.bits()).String())
		expectEvent(t, events, Event{AddressRemoved, a.Addr, "eth0"})
	}
	there.down("eth0")
	expectEvent(t, events, Event{Kind: CarrierLost, Interface: "eth0"})
	there.up("eth0")
	expectEvent(t, events, Event{Kind: CarrierUp, Interface: "eth0"})
	if err := here.link.LinkDel(here.get("eth0")); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, Event{Kind: CarrierLost, Interface: "eth0"})
}

// Renewing 1000 addresses four times a second must not become 4000 events.
func TestRenewalsAreNoEvents(t *testing.T) {
	t.Parallel()
	newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	events := watch(t, NewWatcher(hclog.NewNullLogger()))
	both := on("eth0", "192.0.2.10", "192.0.2.11")
	a, b := Event{AddressAdded, both[0].Addr, "eth0"}, Event{AddressAdded, both[1].Addr, "eth0"}
	set := func(want []Address) {
		if _, err := m.Set(t.Context(), want, soon()); err != nil {
			t.Fatal(err)
		}
	}
	set(both[:1])
	expectEvent(t, events, a)
	for range 5 {
		set(both[:1])
	}
	set(both)
	if e := nextOf(t, events, a, b); e != b {
		t.Errorf("a renewal was reported: %v", e)
	}
}

// A flood overflows the socket's buffer. The kernel then drops reports, and
// the reader must learn that it missed some.
func TestWatcherResyncsAfterAnOverflow(t *testing.T) {
	t.Parallel()
	newWired(t)
	m := manager(t, 60*time.Second, clock.Now)
	w := NewWatcher(hclog.NewNullLogger())
	w.receiveBuffer = 1 // the kernel rounds up to room for a few messages
	events := watch(t, w)
	if _, err := m.Set(t.Context(), many(1000), soon()); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, Event{Kind: Resynced})

	// It reports again, once no subscription overflows any more.
	a := many(1)
	for again := true; again; {
		if _, err := m.Set(t.Context(), a, soon()); err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		again = nextOf(t, events, Event{Kind: Resynced}, Event{AddressRemoved, a[0].Addr, "eth0"}).Kind == Resynced
	}
}

func TestASlowReaderGetsTheLatestOfEach(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	q := queue{latest: map[subject]Event{}}
	for _, e := range []Event{
		{Kind: Resynced},
		{AddressAdded, a, "eth0"},
		{Kind: CarrierUp, Interface: "eth0"},
		{AddressAdded, b, "eth0"},
		{AddressRemoved, a, "eth0"},
		{Kind: CarrierLost, Interface: "eth0"},
		{Kind: Resynced},
		{AddressAdded, a, "eth1"},
	} {
		q.put(e)
	}
	var got []Event
	for e, some := q.first(); some; e, some = q.first() {
		got = append(got, e)
		q.drop()
	}
	want := []Event{
		{Kind: Resynced},
		{AddressRemoved, a, "eth0"},
		{Kind: CarrierLost, Interface: "eth0"},
		{AddressAdded, b, "eth0"},
		{AddressAdded, a, "eth1"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("events = %v, want %v", got, want)
	}
}

// watch runs w in the test's namespace until the test ends, and returns once
// it reports.
func watch(t *testing.T, w *Watcher) <-chan Event {
	t.Helper()
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	thread.Go(func() {
		if err := netns.Set(ns); err != nil {
			ended <- err
			return
		}
		ended <- w.Run(ctx)
	})
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = ns.Close()
	})
	expectEvent(t, w.Events(), Event{Kind: Resynced})
	return w.Events()
}

// expectEvent reads events until all those wanted were there, in any order.
func expectEvent(t *testing.T, events <-chan Event, want ...Event) {
	t.Helper()
	for len(want) > 0 {
		got := nextOf(t, events, want...)
		want = slices.DeleteFunc(want, func(w Event) bool { return w == got })
	}
}

// nextOf reads events until it is one of those wanted.
func nextOf(t *testing.T, events <-chan Event, want ...Event) Event {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case e := <-events:
			if slices.Contains(want, e) {
				return e
			}
		case <-timeout:
			t.Fatalf("none of the events %v", want)
		}
	}
}
