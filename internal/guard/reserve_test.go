package guard

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The disks are taken before the first volume is mounted, and not again while one
// may be.
func TestDisksAreReservedBeforeTheFirstMount(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		h.holdVolumes(7)
		if err := h.client.Reserve(t.Context(), 7, 14); err != nil || h.reserved != "2 with 0xe" {
			t.Fatalf("reserved %s: %v", h.reserved, err)
		}
		if err := h.client.Mount(t.Context(), 7, "data", false); err != nil {
			t.Fatal(err)
		}
		h.refused("a reservation while one is mounted", h.client.Reserve(t.Context(), 7, 14), "[data] may be mounted here")
		h.refused("an eviction while one is mounted", h.client.Evict(t.Context(), twoVolumes(), 13), "[data] may be mounted here")
		if err := errors.Join(h.client.Unmount(t.Context(), 7, "data"), h.client.Secure(t.Context(), 7)); err != nil {
			t.Fatal(err)
		}
		h.refused("a reservation of an epoch that is given up", h.client.Reserve(t.Context(), 7, 14), "being given up")
		h.refused("one of another epoch", h.client.Reserve(t.Context(), 8, 16), "isn't held")
	})
}

// A node takes another's disks while it holds nothing, or waits with an epoch of its
// own for just that; the guard goes on meanwhile.
func TestDisksAreTakenFromAnother(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		if err := h.client.Evict(t.Context(), twoVolumes(), 13); err != nil || h.reserved != "2 with 0xd" || h.rests != 1 {
			t.Fatalf("%s, %d rests: %v", h.reserved, h.rests, err)
		}
		h.holdVolumes(7)
		if err := h.client.Evict(t.Context(), twoVolumes()[:1], 13); err != nil || h.reserved != "1 with 0xd" {
			t.Fatalf("%s: %v", h.reserved, err)
		}
		h.hangs["evict"] = true
		ended := make(chan error, 1)
		go func() { ended <- h.client.Evict(t.Context(), twoVolumes(), 13) }()
		synctest.Wait()
		h.hangs["evict"] = false
		if err := h.client.Mount(t.Context(), 7, "data", false); err != nil {
			t.Error(err)
		}
		if err := h.client.Secure(t.Context(), 7); err != nil {
			t.Error(err)
		}
		began := h.now()
		if err := <-ended; err == nil || h.now().Sub(began) > reservePatience {
			t.Errorf("one that hangs ended after %s: %v", h.now().Sub(began), err)
		}
	})
}

// A reservation that hangs ends with the lease, and when had wants the epoch gone.
func TestAReservationThatHangsIsEnded(t *testing.T) {
	for name, end := range map[string]func(h *host){
		"the lease": func(h *host) { h.sleep(testTTL) },
		"a drop": func(h *host) {
			h.refused("the first drop", h.client.Drop(h.t.Context(), 7), "reserving the disks is under way")
			synctest.Wait()
			if err := h.client.Drop(h.t.Context(), 7); err != nil {
				h.t.Error(err)
			}
		},
		"time": func(h *host) {
			for range int(reservePatience / testTTL * 2) {
				h.client.Extend(7, h.now().Add(testTTL))
				h.sleep(testTTL / 2)
			}
			h.sleep(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				h.holdVolumes(7)
				h.hangs["reserve"] = true
				ended := make(chan error, 1)
				go func() { ended <- h.client.Reserve(t.Context(), 7, 14) }()
				synctest.Wait()
				end(h)
				select {
				case err := <-ended:
					if err == nil {
						t.Error("it succeeded")
					}
				default:
					t.Error("it goes on")
				}
			})
		})
	}
}
