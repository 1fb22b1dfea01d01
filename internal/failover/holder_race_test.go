package failover

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

func addresses(list ...string) []vip.Address {
	var out []vip.Address
	for _, a := range list {
		out = append(out, vip.Address{Addr: netip.MustParseAddr(a), Interface: "eth0"})
	}
	return out
}

func newHolder() (*holder, *memoryKernel) {
	k := newMemoryKernel(&diary{})
	return &holder{kernel: k, lease: new(cluster.Lease), now: clock.Now}, k
}

// The keeper may have decided that an epoch is over and be delayed before it
// takes the addresses away, while the next epoch begins on the same node.
func TestLateDropLeavesTheNextEpochAlone(t *testing.T) {
	h, kernel := newHolder()
	h.lease.Grant(7, clock.Now(), time.Minute)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	h.lease.End(7)
	if err := h.drop(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	h.lease.Grant(9, clock.Now(), time.Minute)
	if err := bringUp(t.Context(), h, 9, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if err := h.drop(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if kernel.holds() != 1 || len(h.addresses()) != 1 {
		t.Error("the late drop of epoch 7 took away what epoch 9 holds")
	}
}

// A change of the addresses that fails half-way must leave nothing that drop
// doesn't know of: after drop the epoch is reported released.
func TestDropKnowsWhatAFailedChangeLeft(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(k *memoryKernel, h *holder)
	}{
		{"before anything was done", func(k *memoryKernel, _ *holder) { k.failSet, k.failAfter = errors.New("no memory"), -1 }},
		{"after one address was set", func(k *memoryKernel, _ *holder) { k.failSet, k.failAfter = errors.New("no memory"), 1 }},
		{"because the lease ended", func(_ *memoryKernel, h *holder) { h.lease.End(7) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, kernel := newHolder()
			h.lease.Grant(7, clock.Now(), time.Minute)
			if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1", "192.0.2.2")); err != nil {
				t.Fatal(err)
			}
			c.fail(kernel, h)
			if err := bringUp(t.Context(), h, 7, addresses("192.0.2.3", "192.0.2.2")); err == nil {
				t.Fatal("the change didn't fail")
			}
			h.lease.End(7)
			if err := h.drop(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			if n := kernel.holds(); n != 0 {
				t.Errorf("%d addresses are left after the drop", n)
			}
		})
	}
}

func TestFailedDropIsTriedAgain(t *testing.T) {
	h, kernel := newHolder()
	h.lease.Grant(7, clock.Now(), time.Minute)
	if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	h.lease.End(7)
	kernel.failDrop = errors.New("netlink is busy")
	if h.drop(t.Context(), 7) == nil {
		t.Fatal("the drop should have failed")
	}
	kernel.failDrop = nil
	if err := h.drop(t.Context(), 7); err != nil || kernel.holds() != 0 {
		t.Errorf("after the second drop: %v, %d addresses left", err, kernel.holds())
	}
}

// However a renewal and a drop are interleaved, nothing is there after both.
func TestRefreshNeverResurrects(t *testing.T) {
	for range 200 {
		h, kernel := newHolder()
		h.lease.Grant(7, clock.Now(), time.Minute)
		if err := bringUp(t.Context(), h, 7, addresses("192.0.2.1")); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _, _ = h.refresh(t.Context()) }) // its error says that the lease is over
		}
		wg.Go(func() {
			h.lease.End(7)
			if err := h.drop(t.Context(), 7); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		h.lease.Grant(7, clock.Now(), time.Minute) // an answer that comes too late
		_, _ = h.refresh(t.Context())
		if kernel.holds() != 0 {
			t.Fatal("a renewal brought the address back after the drop")
		}
	}
}
