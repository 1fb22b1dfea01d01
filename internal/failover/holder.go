package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

// holder is the one place that puts addresses into the kernel and takes them
// out. Its mutex orders a renewal against a removal: once dropped, nothing of
// the epoch can come back, however late a renewal wakes up.
type holder struct {
	kernel Addresses
	lease  *cluster.Lease
	now    clock.Source

	mu    sync.Mutex
	epoch uint64
	held  []vip.Address // what is renewed and announced
	// noted is all that may be in the kernel for epoch or an earlier one. It
	// holds every address from before it is asked for until after it is seen
	// to be gone: what drop doesn't know it can't take away.
	noted []vip.Address
}

var errLeaseOver = errors.New("the lease is over")

// raise puts exactly addrs into the kernel for epoch, under its lease.
func (h *holder) raise(ctx context.Context, epoch uint64, addrs []vip.Address) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch = epoch
	for _, a := range addrs {
		if !slices.Contains(h.noted, a) {
			h.noted = append(h.noted, a)
		}
	}
	if _, err := h.set(ctx, addrs); err != nil {
		return err
	}
	h.held, h.noted = addrs, slices.Clone(addrs)
	return nil
}

// refresh gives what is held a new lifetime and puts back what something else
// has removed. It returns what it had to put back.
func (h *holder) refresh(ctx context.Context) ([]vip.Address, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.held) == 0 {
		return nil, nil
	}
	c, err := h.set(ctx, h.held)
	return c.Reasserted, err
}

func (h *holder) set(ctx context.Context, addrs []vip.Address) (vip.Change, error) {
	epoch, until, ok := h.lease.Held()
	if !ok || epoch != h.epoch {
		return vip.Change{}, errLeaseOver
	}
	return h.kernel.Set(ctx, addrs, until)
}

// announce tells the neighbours of what is held, unless the lease is over. A
// daemon that was stopped and wakes up much later still believes that it
// holds its addresses: telling so would take the clients away from the owner.
func (h *holder) announce(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	epoch, until, ok := h.lease.Held()
	if !ok || epoch != h.epoch || !h.now().Before(until) || len(h.held) == 0 {
		return nil
	}
	return h.kernel.Announce(ctx, h.held)
}

// drop takes everything of epoch out of the kernel. After a nil error nothing
// of it is there; after another it is still noted, for the next attempt. A
// drop that comes so late that a newer epoch has begun leaves that alone.
func (h *holder) drop(ctx context.Context, epoch uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch > epoch {
		return nil
	}
	h.held = nil
	if len(h.noted) == 0 {
		return nil
	}
	if err := h.kernel.Remove(ctx, h.noted); err != nil {
		return fmt.Errorf("take the addresses down: %w", err)
	}
	h.noted = nil
	return nil
}

// addresses returns what is held.
func (h *holder) addresses() []vip.Address {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}
