package failover

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/storage"
	"had/vip"
)

// countingKernel counts announcements and holds whatever it is told to.
type countingKernel struct {
	Addresses
	announced int // calls
	told      map[netip.Addr]bool
	also      func() // at the end of each Announce; nil: nothing
}

func (k *countingKernel) Set(context.Context, []vip.Address, func() clock.Instant) (vip.Change, error) {
	return vip.Change{}, nil
}

func (*countingKernel) Remove(context.Context, []vip.Address) error { return nil }

func (k *countingKernel) Announce(_ context.Context, addrs []vip.Address) error {
	k.announced++
	for _, a := range addrs {
		if k.told != nil {
			k.told[a.Addr] = true
		}
	}
	if k.also != nil {
		k.also()
	}
	return nil
}

func TestNothingIsAnnouncedAfterTheLease(t *testing.T) {
	now := clock.Instant(0).Add(time.Hour)
	kernel := &countingKernel{}
	lease := new(cluster.Lease)
	h := &holder{kernel: kernel, lease: lease, now: func() clock.Instant { return now }}
	lease.Grant(7, now, time.Second)
	if err := bringUp(t.Context(), h, 7, []vip.Address{{Interface: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	if kernel.announced != 1 {
		t.Errorf("while they were put into the kernel the addresses were announced %d times, want once", kernel.announced)
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 2}, {time.Second - 1, 3}, {1, 3}, {time.Minute, 3}} {
		now = now.Add(step.after)
		if err := h.announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kernel.announced != step.want {
			t.Errorf("%v later the addresses had been announced %d times, want %d", step.after, kernel.announced, step.want)
		}
	}
}

// A daemon that was stopped on its way to the kernel tells nobody of addresses
// that it may not have any more.
func TestNothingIsAnnouncedAheadAfterTheLease(t *testing.T) {
	start := clock.Instant(0).Add(time.Hour)
	for after, want := range map[time.Duration]int{0: 1, time.Second - 2: 1, time.Second - 1: 0, time.Minute: 0} {
		now := start
		kernel := &countingKernel{}
		lease := new(cluster.Lease)
		h := &holder{kernel: kernel, lease: lease, now: func() clock.Instant { return now }, margin: 2}
		lease.Grant(7, now, time.Second)
		addrs := []vip.Address{{Interface: "eth0"}}
		if err := h.admit(t.Context(), 7, addrs); err != nil {
			t.Fatal(err)
		}
		now = start.Add(after)
		if err := h.raise(t.Context(), 7, addrs); err != nil {
			t.Fatal(err)
		}
		if kernel.announced != want {
			t.Errorf("%v after the lease had begun the addresses were announced %d times, want %d", after, kernel.announced, want)
		}
	}
}

// A thousand announcements take their time; a release in between doesn't wait
// for them, and ends them.
func TestAReleaseEndsAnnouncementsUnderWay(t *testing.T) {
	for _, released := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			kernel := &countingKernel{told: map[netip.Addr]bool{}}
			h := &holder{kernel: kernel, lease: new(cluster.Lease), now: bubbleClock, logger: hclog.NewNullLogger()}
			h.lease.Grant(7, h.now(), time.Second)
			addrs := make([]vip.Address, 3*announceBatch+1)
			for i := range addrs {
				addrs[i] = vip.Address{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Interface: "eth0"}
			}
			if err := bringUp(t.Context(), h, 7, addrs); err != nil {
				t.Fatal(err)
			}
			dropped := make(chan error, 1)
			if released {
				kernel.also = func() {
					kernel.also = nil
					go func() { dropped <- h.drop(t.Context(), 7) }()
				}
			} else {
				dropped <- nil
			}
			if err := h.announce(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-dropped; err != nil {
				t.Error(err)
			}
			if all := len(kernel.told) == len(addrs); all == released {
				t.Errorf("released meanwhile: %v; %d of %d addresses were announced", released, len(kernel.told), len(addrs))
			}
		})
	}
}

// bringUp is what a turn does to have addresses up.
func bringUp(ctx context.Context, h *holder, epoch uint64, addrs []vip.Address) error {
	if err := h.admit(ctx, epoch, addrs); err != nil {
		return err
	}
	return h.raise(ctx, epoch, addrs)
}

// The guard begins earlier where it has volumes: an address that it has taken
// away by then must not come back.
func TestAddressesEndEarlierBesideVolumes(t *testing.T) {
	m := new(mounts)
	h := &holder{mounts: m, margin: 40 * time.Millisecond, epoch: 7}
	if h.lead(7) != 20*time.Millisecond || h.ahead(7) != 40*time.Millisecond {
		t.Errorf("without volumes the guard's lead is taken for %v, and had begins %v before the end", h.lead(7), h.ahead(7))
	}
	m.admit(7, []storage.Volume{{Name: "web"}})
	if h.lead(7) != 40*time.Millisecond || h.ahead(7) != 60*time.Millisecond {
		t.Errorf("with volumes the guard's lead is taken for %v, and had begins %v before the end", h.lead(7), h.ahead(7))
	}
}
