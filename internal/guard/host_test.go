package guard

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// host is a machine in a bubble: its kernel, a had that a test plays, and the
// guard, which is the real Warden. It checks what must always hold.
type host struct {
	t      *testing.T
	born   time.Time
	page   *Page
	client *Client
	calls  chan Call
	died   chan struct{}
	over   chan error // the guard's end
	crash  context.CancelFunc

	// turns says to the race detector what the bubble guarantees: the test and
	// the guard take turns with all below, the test when everything else waits.
	turns atomic.Uint64

	dead                 bool
	kernel               map[netip.Addr]bool
	stuck                bool // the kernel refuses to remove
	lives                map[string]bool
	busy                 map[string]bool // scripts that add the addresses until they die
	immune               bool            // scripts don't die
	shut                 uint64
	guarded              map[netip.Addr]bool // in the gate
	told                 []*hadv1.Farewell
	kept                 []*hadv1.Farewell
	slow                 time.Duration // telling takes so long
	secured, keptSecured []*hadv1.Secured

	mounted  []string        // volumes, in the order in which they were mounted
	reserved string          // the disks taken last, and with which key
	hangs    map[string]bool // calls that never return by themselves: "mount", "unmount", "secure"
	unkilled bool            // nor when they are killed: the next one fails
	late     bool            // a mount that was killed is done nevertheless
	services map[uint64]bool // epochs that have some
	busyDisk error           // Secure fails with it
	rests    int
	deeds    []string // what was done to volumes and services

	dog     dog
	disk    chan struct{} // closed: the disk answers; nil: it does
	removed int
}

const (
	testLead  = 10 * time.Millisecond
	testTTL   = 300 * time.Millisecond
	testNonce = "00ff00ff00ff00ff"
)

func vips() []vip.Address {
	return []vip.Address{
		{Addr: netip.MustParseAddr("192.0.2.10"), Interface: "eth0"},
		{Addr: netip.MustParseAddr("2001:db8::10"), Interface: "eth0"},
	}
}

func newHost(t *testing.T) *host {
	h := &host{
		t: t, born: time.Now(), page: NewPage(), calls: make(chan Call), died: make(chan struct{}), over: make(chan error, 1),
		kernel: map[netip.Addr]bool{}, lives: map[string]bool{}, busy: map[string]bool{}, guarded: map[netip.Addr]bool{},
		hangs: map[string]bool{}, services: map[uint64]bool{},
	}
	h.client, h.dog.h = NewClient(h.page, h.ask, h.now), h
	w := NewWarden(WardenConfig{
		Instance: &hadv1.Instance{Node: "alpha", NodeId: "a1", BootId: "b1", Nonce: testNonce},
		Margin:   2 * testLead, Page: h.page, Now: h.now, Alarm: newTestAlarm(h.now),
		Volumes: (*testVolumes)(h), Services: (*testServices)(h), Watchdog: &h.dog,
		Kernel: (*testKernel)(h), Gate: (*testGate)(h), Kill: h.killScript, Teller: (*testTeller)(h), Spool: (*testSpool)(h),
		Logger: hclog.NewNullLogger(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	h.crash = cancel
	go func() { h.over <- w.Run(ctx, h.calls, h.died) }()
	synctest.Wait()
	return h
}

func (h *host) now() clock.Instant { return clock.Instant(time.Hour + time.Since(h.born)) }

func (h *host) ask(ctx context.Context, r Request) error {
	answered := make(chan error, 1)
	select {
	case h.calls <- Call{Request: r, Reply: func(err error) { answered <- err }}:
		return <-answered
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clean is what a report must be able to rely on.
func (h *host) clean(what string) {
	h.turns.Add(1)
	if !h.dead {
		h.t.Errorf("%s while had lives", what)
	}
	if len(h.kernel) > 0 {
		h.t.Errorf("%s while the kernel has %v", what, h.kernel)
	}
	if len(h.lives) > 0 {
		h.t.Errorf("%s while scripts live: %v", what, h.lives)
	}
	h.unmounted(what)
}

func (h *host) unmounted(what string) {
	if len(h.mounted) > 0 {
		h.t.Errorf("%s while %v are mounted", what, h.mounted)
	}
}

type (
	testKernel host
	testGate   host
	testTeller host
	testSpool  host
)

func (k *testKernel) Remove(_ context.Context, addrs []vip.Address) error {
	k.turns.Add(1)
	if k.stuck {
		return errors.New("the kernel is stuck")
	}
	k.removed++
	for _, a := range addrs {
		delete(k.kernel, a.Addr)
	}
	return nil
}

func (g *testGate) Shut(epoch uint64) {
	g.turns.Add(1)
	g.shut = max(g.shut, epoch)
}

func (g *testGate) Forget(_ uint64, addrs []netip.Addr) error {
	(*host)(g).clean("the gate is opened")
	for _, a := range addrs {
		delete(g.guarded, a)
	}
	return nil
}

func (w *testTeller) Tell(_ context.Context, f *hadv1.Farewell) {
	(*host)(w).clean("the others are told")
	time.Sleep(w.slow)
	w.told = append(w.told, f)
}

func (w *testTeller) TellSecured(ctx context.Context, s *hadv1.Secured) {
	(*host)(w).unmounted("the others are told that the volumes are safe")
	timer := time.NewTimer(w.slow)
	defer timer.Stop()
	select {
	case <-timer.C:
		w.turns.Add(1)
		w.secured = append(w.secured, s)
	case <-ctx.Done():
	}
}

func (s *testSpool) KeepSecured(w *hadv1.Secured) error {
	s.turns.Add(1)
	s.keptSecured = append(s.keptSecured, w)
	return nil
}

func (s *testSpool) Keep(f *hadv1.Farewell) error {
	(*host)(s).clean("a farewell is kept")
	if s.disk != nil {
		<-s.disk
	}
	s.kept = append(s.kept, f)
	return nil
}

func (h *host) killScript(_ context.Context, r hook.Running) (int, error) {
	h.turns.Add(1)
	if h.immune {
		return 0, errors.New("it doesn't die")
	}
	if h.busy[r.ID] {
		h.add()
	}
	delete(h.lives, r.ID)
	return 1, nil
}

// testAlarm rings by a timer of the bubble.
type testAlarm struct {
	now   clock.Source
	timer *time.Timer
	c     chan struct{}
}

func newTestAlarm(now clock.Source) *testAlarm {
	return &testAlarm{now: now, c: make(chan struct{}, 1)}
}

func (a *testAlarm) Set(at clock.Instant) {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(at.Sub(a.now()), func() {
		select {
		case a.c <- struct{}{}:
		default:
		}
	})
}

func (a *testAlarm) C() <-chan struct{} { return a.c }

// hold is what had does when it takes an epoch on.
func (h *host) hold(epoch uint64) clock.Instant {
	h.t.Helper()
	until := h.now().Add(testTTL)
	if !h.client.Extend(epoch, until) {
		h.t.Fatalf("epoch %d can't be extended", epoch)
	}
	if err := h.client.Hold(h.t.Context(), epoch, vips(), nil); err != nil {
		h.t.Fatal(err)
	}
	return until
}

// add is the system call of had, whenever had gets to it.
func (h *host) add() {
	for _, a := range vips() {
		h.kernel[a.Addr], h.guarded[a.Addr] = true, true
	}
}

func (h *host) die() {
	h.dead = true
	close(h.died)
}

// sleep lets time pass and everything settle.
func (h *host) sleep(d time.Duration) {
	h.turns.Add(1)
	time.Sleep(d)
	synctest.Wait()
}

func (h *host) farewells(epochs ...uint64) {
	h.t.Helper()
	var got []uint64
	for _, f := range h.told {
		got = append(got, f.GetReleased().GetEpoch())
		if r := f.GetReleased(); r.GetReporter().GetNonce() != testNonce || r.GetKind() != hadv1.Evidence_KIND_RELEASED || !r.GetForced() || f.GetNodeId() != "a1" {
			h.t.Errorf("the others were told %v", f)
		}
	}
	if !slices.Equal(got, epochs) {
		h.t.Errorf("the others were told of %v, want %v", got, epochs)
	}
}

func (h *host) ended(want error) {
	h.t.Helper()
	select {
	case err := <-h.over:
		if !errors.Is(err, want) {
			h.t.Errorf("the guard ended with %v, want %v", err, want)
		}
	default:
		h.t.Error("the guard goes on")
	}
}

// bubble runs f on a host of its own.
func bubble(t *testing.T, f func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		f(t, h)
		h.crash()
		synctest.Wait()
	})
}
