package guard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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

	dead    bool
	kernel  map[netip.Addr]bool
	stuck   bool // the kernel refuses to remove
	lives   map[string]bool
	immune  bool // scripts don't die
	shut    uint64
	guarded map[netip.Addr]bool // in the gate
	told    []*hadv1.Farewell
	kept    []*hadv1.Farewell
	slow    time.Duration // telling takes so long
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
		kernel: map[netip.Addr]bool{}, lives: map[string]bool{}, guarded: map[netip.Addr]bool{},
	}
	h.client = NewClient(h.page, h.ask, h.now)
	w := NewWarden(WardenConfig{
		Instance: &hadv1.Instance{Node: "alpha", NodeId: "a1", BootId: "b1", Nonce: testNonce},
		Lead:     testLead, Page: h.page, Now: h.now, Alarm: newTestAlarm(h.now),
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
	if !h.dead {
		h.t.Errorf("%s while had lives", what)
	}
	if len(h.kernel) > 0 {
		h.t.Errorf("%s while the kernel has %v", what, h.kernel)
	}
	if len(h.lives) > 0 {
		h.t.Errorf("%s while scripts live: %v", what, h.lives)
	}
}

type (
	testKernel host
	testGate   host
	testTeller host
	testSpool  host
)

func (k *testKernel) Remove(_ context.Context, addrs []vip.Address) error {
	if k.stuck {
		return errors.New("the kernel is stuck")
	}
	k.removed++
	for _, a := range addrs {
		delete(k.kernel, a.Addr)
	}
	return nil
}

func (g *testGate) Shut(epoch uint64) { g.shut = max(g.shut, epoch) }

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

func (s *testSpool) Keep(f *hadv1.Farewell) error {
	(*host)(s).clean("a farewell is kept")
	if s.disk != nil {
		<-s.disk
	}
	s.kept = append(s.kept, f)
	return nil
}

func (h *host) killScript(_ context.Context, r hook.Running) (int, error) {
	if h.immune {
		return 0, errors.New("it doesn't die")
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
	if err := h.client.Hold(h.t.Context(), epoch, vips()); err != nil {
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

// Schedule 1 of docs/protocol.md: had is stopped just before it adds; the
// lease ends; the guard finds nothing; had wakes and adds.
func TestHadIsStoppedJustBeforeItAdds(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		h.sleep(10 * testTTL)
		h.farewells() // nothing was found, and nothing proven: had lives
		if h.shut != 7 {
			t.Errorf("the gate was shut for epoch %d, want 7", h.shut)
		}
		h.add()
		h.sleep(lookEvery)
		if len(h.kernel) > 0 {
			t.Errorf("what had added late is still there: %v", h.kernel)
		}
		h.farewells()
		h.die()
		h.sleep(0)
		h.farewells(7)
		h.ended(nil)
	})
}

// Schedule 2: had dies; the guard's report is delayed; had restarts and wins.
// The report is about the dead instance, and no second guard or had works on
// the data folder before the first guard has ended.
func TestLateReportIsAboutTheDeadInstance(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.slow = 900 * time.Millisecond
		h.hold(7)
		h.add()
		h.die()
		h.sleep(800 * time.Millisecond)
		select {
		case err := <-h.over:
			t.Fatalf("the guard ended, and with it its lock, before it had told the others: %v", err)
		default:
		}
		h.sleep(200 * time.Millisecond)
		h.farewells(7)
		h.ended(nil)
	})
}

// Schedule 3: the guard releases; a had that was stopped wakes, its renewal
// commits, and it adds the address again.
func TestHadWakesAfterTheGuardHasReleased(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		until := h.hold(7)
		h.add()
		h.sleep(until.Sub(h.now()) - testLead)
		if len(h.kernel) > 0 {
			t.Fatalf("the lease's end is near and the kernel has %v", h.kernel)
		}
		h.sleep(time.Second)
		if h.client.Extend(7, h.now().Add(testTTL)) {
			t.Error("a renewal that committed late extended the epoch")
		}
		if h.client.Hold(t.Context(), 7, vips()) == nil {
			t.Error("the epoch was held again")
		}
		h.add()
		h.sleep(lookEvery)
		if len(h.kernel) > 0 {
			t.Errorf("what had added again is still there: %v", h.kernel)
		}
		if err := h.client.Drop(t.Context(), 7); err != nil {
			t.Error(err)
		}
		until = h.hold(8)
		h.add()
		h.sleep(until.Sub(h.now()) - testLead - 1)
		if len(h.kernel) == 0 {
			t.Error("the next epoch was ended before its time")
		}
		h.farewells()
	})
}

func TestRenewedEpochStaysAndEndsWithItsLastLease(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		until := h.hold(7)
		h.add()
		for range 100 {
			h.sleep(testTTL / 3)
			until = h.now().Add(testTTL)
			if !h.client.Extend(7, until) || !h.client.Extend(7, until.Add(-testTTL/2)) {
				t.Fatal("a live epoch can't be extended")
			}
		}
		if h.removed > 0 || len(h.kernel) == 0 {
			t.Fatal("the guard removed what was held")
		}
		h.sleep(until.Sub(h.now()) - testLead - 1)
		if len(h.kernel) == 0 {
			t.Error("it ended early")
		}
		h.sleep(testLead + 1)
		if len(h.kernel) > 0 {
			t.Error("it outlived its lease")
		}
	})
}

func TestDropIsTheEndOfIt(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		if err := h.client.Drop(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		if h.client.Extend(7, h.now().Add(testTTL)) {
			t.Error("a dropped epoch was extended")
		}
		if err := h.ask(t.Context(), Request{Op: OpHold, Epoch: 7, Until: h.now().Add(testTTL), Addresses: vips()}); err == nil {
			t.Error("a dropped epoch was held again")
		}
		h.sleep(time.Hour)
		h.die()
		h.sleep(0)
		h.farewells()
		h.ended(nil)
		if h.removed > 0 {
			t.Error("the guard removed what wasn't held")
		}
	})
}

func TestTwoEpochsAreNeverHeld(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		h.client.Extend(8, h.now().Add(testTTL))
		if err := h.client.Hold(t.Context(), 8, vips()); err == nil {
			t.Error("epoch 8 was held beside epoch 7")
		}
		h.die()
		h.sleep(0)
		h.farewells(7)
	})
}

func TestNothingIsToldBeforeAllIsGone(t *testing.T) {
	for _, c := range []struct {
		name         string
		break_, mend func(h *host)
	}{
		{"an address stays", func(h *host) { h.stuck = true }, func(h *host) { h.stuck = false }},
		{"a script lives", func(h *host) { h.immune = true }, func(h *host) { h.immune = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.hold(7)
				h.add()
				h.lives["RUN1"] = true
				if err := h.client.Script(t.Context(), hook.Running{ID: "RUN1", Script: "PreRel"}); err != nil {
					t.Fatal(err)
				}
				c.break_(h)
				h.die()
				h.sleep(time.Minute)
				h.farewells()
				if h.shut != 7 || len(h.guarded) == 0 {
					t.Error("the gate isn't kept shut")
				}
				c.mend(h)
				h.sleep(retryEvery)
				h.farewells(7)
				h.ended(nil)
				if len(h.kept) != 1 {
					t.Errorf("%d farewells were kept, want 1", len(h.kept))
				}
			})
		})
	}
}

func TestStalledDiskDelaysNobody(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.disk = make(chan struct{})
		h.hold(7)
		h.add()
		h.die()
		h.sleep(0)
		h.farewells(7)
		h.sleep(spoolPatience)
		h.ended(nil)
		close(h.disk)
	})
}

func TestScriptsEndWithHad(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		for _, id := range []string{"RUN1", "RUN2"} {
			h.lives[id] = true
			if err := h.client.Script(t.Context(), hook.Running{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.client.ScriptEnded(t.Context(), "RUN1"); err != nil {
			t.Fatal(err)
		}
		h.die()
		h.sleep(0)
		if !h.lives["RUN1"] || h.lives["RUN2"] {
			t.Errorf("alive are %v, want RUN1: what an ended script left is a service", h.lives)
		}
		h.farewells()
		h.ended(nil)
	})
}

func TestCloseOnlyWhenNothingIsHeld(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		h.add()
		if err := h.ask(t.Context(), Request{Op: OpClose}); err == nil {
			t.Fatal("the guard left an epoch alone")
		}
		if err := h.client.Drop(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		if err := h.ask(t.Context(), Request{Op: OpClose}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.ended(nil)
		if h.removed > 0 {
			t.Error("the guard did something on its way out")
		}
	})
}

func TestAwake(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.sleep(time.Minute)
		if err := h.client.Awake(); err != nil {
			t.Errorf("an idle guard: %v", err)
		}
		h.crash()
		h.sleep(patience + lookEvery)
		if h.client.Awake() == nil {
			t.Error("a guard that doesn't look passes for one")
		}
	})
}

// Whatever had does and whenever it stops, wakes and dies: nothing is in the
// kernel after the lease's end but for a moment after had put it there, nothing
// that is leased is taken away, and the others hear the truth (host.clean) once.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) { live(t, h, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func live(t *testing.T, h *host, r *rand.Rand) {
	var epoch uint64          // held; 0: none
	var until clock.Instant   // of the last accepted extension
	var touched clock.Instant // when had last added
	var next uint64 = 1 + r.Uint64N(100)
	for range 60 {
		h.sleep(time.Duration(r.Int64N(int64(testTTL))))
		now := h.now()
		held := epoch != 0 && now.Before(until.Add(-testLead))
		if held && touched > 0 && len(h.kernel) == 0 {
			t.Fatal("the guard took away what was leased")
		}
		if !held && len(h.kernel) > 0 && now.Sub(max(touched, until.Add(-testLead))) >= lookEvery {
			t.Fatalf("%s after the end the kernel has %v", now.Sub(until), h.kernel)
		}
		switch r.IntN(12) {
		case 0, 1:
			if epoch == 0 {
				next += 1 + r.Uint64N(3)
				epoch, until, touched = next, h.hold(next), 0
			}
		case 2, 3, 4, 5, 6: // a renewal, and the refresh that goes with it
			if epoch != 0 && h.client.Extend(epoch, now.Add(testTTL)) {
				until, touched = now.Add(testTTL), now
				h.add()
			}
		case 7: // a system call that began before had was stopped
			if epoch != 0 {
				touched = now
				h.add()
			}
		case 8:
			if epoch != 0 {
				clear(h.kernel)
				if err := h.client.Drop(t.Context(), epoch); err != nil {
					t.Fatal(err)
				}
				epoch = 0
			}
		case 9:
			if r.IntN(4) == 0 {
				h.die()
				h.sleep(0)
				h.ended(nil)
				if epoch != 0 {
					h.farewells(epoch)
				} else {
					h.farewells()
				}
				return
			}
		}
		h.farewells()
	}
}
