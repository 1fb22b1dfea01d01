package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

// holder is the one place that puts addresses into the kernel and takes them
// out. Its mutex orders a renewal against a removal: once dropped, nothing of
// the epoch can come back, however late a renewal wakes up.
//
// The guard hears of an address, and the gate is closed around it, before the
// kernel does; they forget it after it is proven gone.
type holder struct {
	kernel Addresses
	gate   Gate  // nil: this host has none
	guard  Guard // nil: this host has none
	mounts *mounts
	lease  *cluster.Lease
	now    clock.Source
	logger hclog.Logger
	margin time.Duration // see lead and ahead
	pace   pace

	mu    sync.Mutex
	epoch uint64
	// held is what is renewed and announced. It is changed under mu, and read
	// without by those who mustn't wait for the kernel.
	held atomic.Pointer[[]vip.Address]
	// noted is all that may be in the kernel for epoch or an earlier one. It
	// holds every address from before it is asked for until after it is seen
	// to be gone: what drop doesn't know it can't take away.
	noted []vip.Address

	// admitted is the epoch that the gate knows; 0: none yet. It is not under
	// mu: a renewal must not wait for the kernel, which may take longer than a
	// lease.
	admitted atomic.Uint64
}

var errLeaseOver = errors.New("the lease is over")

// lead is how long before the end of what an epoch may hold the guard takes the
// addresses away: a renewal that came after it would bring them back.
func (h *holder) lead(epoch uint64) time.Duration {
	if len(h.mounts.of(epoch)) > 0 {
		return h.margin
	}
	return h.margin / 2
}

// ahead is how long before the end had itself gives up: before the guard does,
// which is there for a had that can't.
func (h *holder) ahead(epoch uint64) time.Duration { return h.lead(epoch) + h.margin/2 }

// layers names what ends an epoch's hold on this host without had, as an
// Acquire promises it to successors.
func (h *holder) layers() []string {
	layers := []string{cluster.LayerLifetime}
	if h.guard != nil {
		layers = append(layers, cluster.LayerGuard)
	}
	if h.gate != nil && h.gate.Problem() == nil {
		layers = append(layers, cluster.LayerGate)
	}
	return layers
}

// admit makes ready for addrs of epoch: after nil the guard would take them
// away, the gate is around them, and they are noted. It touches no address.
// It may be called again, for the same addresses or others.
func (h *holder) admit(ctx context.Context, epoch uint64, addrs []vip.Address) error {
	h.mu.Lock()
	h.epoch = epoch
	for _, a := range addrs {
		if !slices.Contains(h.noted, a) {
			h.noted = append(h.noted, a)
		}
	}
	all := slices.Clone(h.noted)
	h.mu.Unlock()
	// Without the mutex: a stopped guard must not keep a drop waiting.
	_, over, ok := h.lease.Over()
	if !ok {
		return errLeaseOver
	}
	if h.guard != nil {
		h.guard.Extend(epoch, over)
		if err := h.guard.Hold(ctx, epoch, all, h.mounts.of(epoch)); err != nil {
			return err
		}
	}
	if h.gate == nil {
		return nil
	}
	// Also where the terms don't promise it: half a gate is better than none.
	if err := h.gate.Admit(epoch, vip.Addrs(all)); err != nil {
		return err
	}
	h.admitted.Store(epoch)
	return h.extend(epoch)
}

// extend tells the gate and the guard until when epoch may be held. It waits for
// nobody.
func (h *holder) extend(epoch uint64) error {
	held, over, ok := h.lease.Over()
	if !ok || held != epoch {
		return errLeaseOver
	}
	// A guard that is gone ends nothing: the ring sees to it that the epoch
	// goes to a node that has one.
	if h.guard != nil && !h.guard.Extend(epoch, over) && h.guard.Alive() == nil {
		return fmt.Errorf("%w: the guard has ended epoch %d", errLeaseOver, epoch)
	}
	if h.admitted.Load() != epoch {
		return nil
	}
	return h.gate.Extend(epoch, over)
}

// raise puts exactly addrs, which must have been admitted, into the kernel for
// epoch, under its lease.
func (h *holder) raise(ctx context.Context, epoch uint64, addrs []vip.Address) error {
	gone, err := h.put(ctx, epoch, addrs)
	if err != nil || len(gone) == 0 {
		return err
	}
	// The gate first: nobody else knows of these any more, whatever the guard
	// says. That one may go on removing what isn't there.
	if err := h.forget(epoch, gone); err != nil {
		return err
	}
	if h.guard == nil {
		return nil
	}
	return h.guard.Hold(ctx, epoch, addrs, h.mounts.of(epoch))
}

// put sets the addresses and returns those that are on no interface any more.
func (h *holder) put(ctx context.Context, epoch uint64, addrs []vip.Address) (gone []vip.Address, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held, _, ok := h.lease.Held(); !ok || held != epoch {
		return nil, errLeaseOver // what was admitted has been dropped since
	}
	for _, a := range addrs {
		if h.epoch != epoch || !slices.Contains(h.noted, a) {
			return nil, fmt.Errorf("set %s: it was not admitted for epoch %d", a, epoch)
		}
	}
	told := h.announceAhead(ctx, addrs)
	_, err = h.set(ctx, addrs, h.lease.Held) // nothing new after the lease
	told()
	if err != nil {
		return nil, err
	}
	gone = slices.DeleteFunc(slices.Clone(h.noted), func(old vip.Address) bool {
		return slices.ContainsFunc(addrs, func(a vip.Address) bool { return a.Addr == old.Addr })
	})
	h.held.Store(&addrs)
	h.noted = slices.Clone(addrs)
	return gone, nil
}

// refresh gives what is held a new lifetime and puts back what something else
// has removed, unless it is too soon after the last time. It returns what it had to
// put back.
func (h *holder) refresh(ctx context.Context) ([]vip.Address, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.addresses()
	if len(held) == 0 || h.now().Before(h.pace.soonest()) {
		return nil, nil
	}
	c, err := h.set(ctx, held, h.lease.Over)
	return c.Reasserted, err
}

// set puts addresses into the kernel until what end says.
func (h *holder) set(ctx context.Context, addrs []vip.Address, end func() (uint64, clock.Instant, bool)) (vip.Change, error) {
	if epoch, _, ok := h.lease.Held(); !ok || epoch != h.epoch {
		return vip.Change{}, errLeaseOver
	}
	begin := h.now()
	defer func() { h.pace.refreshed(begin, h.now()) }()
	// Very many addresses take longer than a lease, which is renewed meanwhile.
	return h.kernel.Set(ctx, addrs, func() clock.Instant {
		epoch, until, ok := end()
		if !ok || epoch != h.epoch {
			return 0
		}
		return until.Add(-h.lead(epoch))
	})
}

// announceBatch is how many addresses are announced at a time, and announcePause
// what lies between: switches and neighbours have queues, and a release must
// not wait for all of a thousand.
const (
	announceBatch = 128
	announcePause = time.Millisecond
)

// announceAhead tells the neighbours of addresses that are about to be put into
// the kernel, which takes some tenths of a millisecond: their next packets then
// come here, and nobody else answers for the addresses any more. The caller holds
// mu, and announces again when they are there. The function returned waits until
// it is done.
func (h *holder) announceAhead(ctx context.Context, addrs []vip.Address) func() {
	_, until, ok := h.lease.Held()
	if !ok || !h.now().Before(until.Add(-h.lead(h.epoch))) || len(h.addresses()) > 0 || len(addrs) > announceBatch {
		return func() {}
	}
	var telling sync.WaitGroup
	telling.Go(func() {
		if err := h.kernel.Announce(ctx, addrs); err != nil {
			h.logger.Debug("the addresses were not announced ahead", "error", err)
		}
	})
	return telling.Wait
}

// announce tells the neighbours of what is held, unless the lease is over. A
// daemon that was stopped and wakes up much later still believes that it
// holds its addresses: telling so would take the clients away from the owner.
func (h *holder) announce(ctx context.Context) error {
	var errs []error
	for from, more := 0, true; more; from += announceBatch {
		if from > 0 {
			select {
			case <-ctx.Done():
				return errors.Join(append(errs, context.Cause(ctx))...)
			case <-time.After(announcePause):
			}
		}
		var err error
		more, err = h.announceSome(ctx, from)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// announceSome announces a batch of what is held, and says whether there are
// more after it.
func (h *holder) announceSome(ctx context.Context, from int) (more bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	epoch, over, ok := h.lease.Over()
	held := h.addresses()
	if !ok || epoch != h.epoch || !h.now().Before(over) || from >= len(held) {
		return false, nil
	}
	to := min(from+announceBatch, len(held))
	return to < len(held), h.kernel.Announce(ctx, held[from:to])
}

// drop takes everything of epoch out of the kernel. After a nil error nothing
// of it is there; after another it is still noted, for the next attempt. A
// drop that comes so late that a newer epoch has begun leaves that alone.
// From the first moment on nothing of the epoch can be heard.
func (h *holder) drop(ctx context.Context, epoch uint64) error {
	if h.gate != nil {
		h.gate.Shut(epoch)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch > epoch {
		return nil
	}
	h.held.Store(nil)
	if len(h.noted) == 0 {
		return nil
	}
	if err := h.kernel.Remove(ctx, h.noted); err != nil {
		return fmt.Errorf("take the addresses down: %w", err)
	}
	if err := h.forget(epoch, h.noted); err != nil {
		h.logger.Warn("the gate stays closed around addresses that are gone", "epoch", epoch, "error", err)
	}
	h.noted = nil
	return nil
}

// settle tells the guard that nothing of epoch is left. It may wait for the
// guard, and whether it succeeds changes nothing but the guard's peace.
func (h *holder) settle(ctx context.Context, epoch uint64) {
	h.mu.Lock()
	left := h.epoch <= epoch && len(h.noted) > 0 || len(h.mounts.left(epoch)) > 0
	h.mu.Unlock()
	if h.guard == nil || left {
		return
	}
	if err := h.guard.Drop(ctx, epoch); err != nil {
		h.logger.Warn("the guard was not told that the epoch is over", "epoch", epoch, "error", err)
	}
}

func (h *holder) forget(epoch uint64, gone []vip.Address) error {
	if h.gate == nil {
		return nil
	}
	return h.gate.Forget(epoch, vip.Addrs(gone))
}

// addresses returns what is held. It waits for nobody.
func (h *holder) addresses() []vip.Address {
	if held := h.held.Load(); held != nil {
		return *held
	}
	return nil
}
