package guard

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/clock"
	"had/internal/hook"
)

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
		h.sleep(retryEvery)
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
		if h.client.Hold(t.Context(), 7, vips(), nil) == nil {
			t.Error("the epoch was held again")
		}
		h.sleep(0)
		h.add()
		h.sleep(retryEvery)
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
		if h.page.extend(h.now().Add(testTTL)) {
			t.Error("the page of a dropped epoch was extended")
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
		if err := h.client.Hold(t.Context(), 8, vips(), nil); err == nil {
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

// The addresses are looked at again when everything that could add them is dead.
func TestScriptAddsUntilItDies(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.hold(7)
		h.lives["RUN1"], h.busy["RUN1"] = true, true
		if err := h.client.Script(t.Context(), hook.Running{ID: "RUN1"}); err != nil {
			t.Fatal(err)
		}
		h.die()
		h.sleep(0)
		h.farewells(7)
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
		if !held && len(h.kernel) > 0 && now.Sub(max(touched, until.Add(-testLead))) >= retryEvery {
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
