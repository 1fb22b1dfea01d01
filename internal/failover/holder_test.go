package failover

import (
	"context"
	"testing"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

// countingKernel counts announcements and holds whatever it is told to.
type countingKernel struct {
	Addresses
	announced int
}

func (k *countingKernel) Set(context.Context, []vip.Address, clock.Instant) (vip.Change, error) {
	return vip.Change{}, nil
}

func (k *countingKernel) Announce(context.Context, []vip.Address) error {
	k.announced++
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
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {time.Second - 1, 2}, {1, 2}, {time.Minute, 2}} {
		now = now.Add(step.after)
		if err := h.announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kernel.announced != step.want {
			t.Errorf("%v later the addresses had been announced %d times, want %d", step.after, kernel.announced, step.want)
		}
	}
}

// bringUp is what a turn does to have addresses up.
func bringUp(ctx context.Context, h *holder, epoch uint64, addrs []vip.Address) error {
	if err := h.admit(ctx, epoch, addrs); err != nil {
		return err
	}
	return h.raise(ctx, epoch, addrs)
}
