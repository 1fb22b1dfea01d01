package guard

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/clock"
)

// dog is a watchdog in a bubble.
type dog struct {
	h     *host
	armed bool
	fed   clock.Instant
	times int
	slow  time.Duration // feeding takes so long
}

const dogTimeout = 2 * time.Second

func (d *dog) Arm() (time.Duration, error) {
	d.h.turns.Add(1)
	d.armed, d.fed = true, d.h.now()
	return dogTimeout, nil
}

func (d *dog) Feed() error {
	d.h.turns.Add(1)
	time.Sleep(d.slow)
	d.h.turns.Add(1)
	d.fed = d.h.now()
	d.times++
	return nil
}

func (d *dog) Disarm() error {
	d.h.turns.Add(1)
	d.armed = false
	return nil
}

// hungry is for how long the watchdog was not fed.
func (d *dog) hungry() time.Duration {
	synctest.Wait()
	d.h.turns.Add(1)
	return d.h.now().Sub(d.fed)
}

func TestTheWatchdogIsFedWhileNothingIsMounted(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.sleep(time.Minute)
		if h.dog.armed || h.dog.times > 0 || h.client.Armed() != 0 {
			t.Fatal("a watchdog that nobody wants is armed")
		}
		for range 2 {
			if err := h.client.Arm(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if h.client.Armed() != dogTimeout {
			t.Errorf("the page says that it is armed with %s", h.client.Armed())
		}
		for range 100 {
			h.sleep(lookEvery)
			if d := h.dog.hungry(); d > lookEvery {
				t.Fatalf("not fed for %s", d)
			}
		}
		h.dog.slow = time.Minute
		h.sleep(10 * time.Minute)
		if h.client.Awake() != nil {
			t.Error("a watchdog that doesn't answer holds the guard")
		}
		h.dog.slow = 0
		h.sleep(time.Minute)
		if err := h.client.Disarm(t.Context()); err != nil || h.dog.armed || h.client.Armed() != 0 {
			t.Errorf("stopped: %v, armed %v, %s", err, h.dog.armed, h.client.Armed())
		}
		h.die()
		h.sleep(0)
		h.ended(nil)
	})
}

// A farewell that waits for its disk isn't cut short by the watchdog.
func TestTheWatchdogIsStoppedBeforeTheFarewell(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		if err := h.client.Arm(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.hold(7)
		h.add()
		h.disk = make(chan struct{})
		h.die()
		h.sleep(0)
		h.turns.Add(1)
		if h.dog.armed || len(h.kernel) > 0 {
			t.Errorf("armed: %v, in the kernel: %v", h.dog.armed, h.kernel)
		}
		h.sleep(spoolPatience)
		h.farewells(7)
		close(h.disk)
	})
}

// Once the lease is over it is fed only when the volumes are proven unmounted,
// whoever lives.
func TestTheWatchdogIsNotFedBesideWhatMayBeMounted(t *testing.T) {
	for _, died := range []bool{false, true} {
		bubble(t, func(t *testing.T, h *host) {
			if err := h.client.Arm(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.holdVolumes(7)
			if err := h.client.Mount(t.Context(), 7, "data", false); err != nil {
				t.Fatal(err)
			}
			h.refused("disarm", h.client.Disarm(t.Context()), "epoch 7 has volumes")
			h.busyDisk = errors.New("busy")
			end := h.now().Add(testTTL)
			if died {
				h.die()
			}
			h.sleep(time.Minute)
			synctest.Wait()
			if h.dog.fed > end || !h.dog.armed {
				t.Errorf("fed %s after the lease's end, armed: %v", h.dog.fed.Sub(end), h.dog.armed)
			}
			h.busyDisk = nil
			h.sleep(2 * secureEvery)
			if !died {
				if d := h.dog.hungry(); d > lookEvery {
					t.Errorf("all is unmounted, and it was not fed for %s", d)
				}
				h.die()
				h.sleep(time.Second)
			}
			h.farewells(7)
		})
	}
}

// A guard that takes an epoch over neither arms a watchdog, which would feed it, nor
// mounts anything: the epoch's terms may promise what only the first guard did.
func TestAnAdoptedEpochIsOnlyGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.mounted = []string{"data"}
		r := Request{Op: OpHold, Epoch: 7, Until: h.now().Add(time.Minute), Addresses: vips(), Volumes: twoVolumes(), Adopted: true, Mounted: []string{"data"}}
		if err := h.ask(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		h.refused("arm", h.client.Arm(t.Context()), "epoch 7 has volumes")
		h.refused("mount", h.client.Mount(t.Context(), 7, "logs", false), "being given up")
		if err := h.client.Unmount(t.Context(), 7, "data"); err != nil {
			t.Error(err)
		}
		if err := h.ask(t.Context(), Request{Op: OpDrop, Epoch: 7}); err != nil {
			t.Error(err)
		}
		if err := h.client.Arm(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
