package failover

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// keeper keeps an epoch alive while it should live, and ends it when it must
// end, whatever the Executor is busy with. It takes the addresses away some
// time before the lease ends (see holder.ahead); the guard does when had can't.
type keeper struct {
	log      Log
	lease    *cluster.Lease
	holder   *holder
	instance *hadv1.Instance
	timing   cluster.Timing
	now      clock.Source
	logger   hclog.Logger
	wake     func() // tells the controller to look again

	nudged   chan struct{} // capacity 1
	returned chan struct{} // capacity 1
	begun    chan struct{} // capacity 1: renewals have something to renew
	awake    chan struct{} // capacity 1: a renewal has begun

	mu       sync.Mutex
	epoch    uint64 // 0: none is kept
	ended    bool   // the lease of epoch has ended, and the grace is used to give it up
	endLease context.CancelCauseFunc
	endHold  context.CancelCauseFunc
	lost     lostLease
}

// lostLease is the latest lease that was ended before its time.
type lostLease struct {
	epoch uint64
	why   string
}

// whyLost says why the lease of an epoch was ended before its time; empty: it
// was not.
func (k *keeper) whyLost(epoch uint64) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost.epoch != epoch {
		return ""
	}
	return k.lost.why
}

// keep begins to renew epoch, whose lease has just been granted. held is done
// when nothing of it may be held any more, or when end was called; leased before
// that, by the grace, when its lease has ended.
func (k *keeper) keep(ctx context.Context, epoch uint64) (leased, held context.Context) {
	held, endHold := context.WithCancelCause(ctx)
	leased, endLease := context.WithCancelCause(held)
	k.mu.Lock()
	k.epoch, k.ended, k.endLease, k.endHold = epoch, false, endLease, endHold
	k.mu.Unlock()
	poke(k.begun)
	k.nudge()
	k.reannounce()
	return leased, held
}

// current returns the epoch that is kept, 0 for none.
func (k *keeper) current() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.epoch
}

// holds reports whether the lease of epoch lasts, by the clock.
func (k *keeper) holds(epoch uint64) bool {
	held, until, ok := k.lease.Held()
	return ok && held == epoch && k.now().Before(until)
}

// mayHold reports whether what epoch has may still be held, by the clock: its
// lease lasts, or the grace after it.
func (k *keeper) mayHold(epoch uint64) bool {
	held, over, ok := k.lease.Over()
	return ok && held == epoch && k.now().Before(over)
}

// inGrace reports whether the lease of epoch has ended and it is to be given up
// in the grace. A renewal that comes after all only lengthens that: services are
// being stopped.
func (k *keeper) inGrace(epoch uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ended && k.epoch == epoch
}

// beginGrace notes that the lease of epoch has ended.
func (k *keeper) beginGrace(epoch uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch != epoch || k.ended {
		return
	}
	k.logger.Warn("the lease has ended; giving up what is held within the grace", "epoch", epoch)
	k.ended = true
	k.endLease(errLeaseOver)
	k.wake()
}

// end stops the renewals of epoch for good.
func (k *keeper) end(epoch uint64, cause error) {
	k.lease.End(epoch)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.epoch == epoch {
		k.endHold(cause)
		k.endLease(cause)
		k.epoch, k.ended, k.endHold, k.endLease = 0, false, nil, nil
	}
}

// nudge asks for a refresh now: the kernel reported a change.
func (k *keeper) nudge() { poke(k.nudged) }

// reannounce begins the announcements again: a node or a network is back.
func (k *keeper) reannounce() { poke(k.returned) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (k *keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { k.renew(ctx); return nil })
	g.Go(func() error { k.hold(ctx); return nil })
	g.Go(func() error { k.announce(ctx); return nil })
	return g.Wait()
}

// renewalsAtOnce is how many renewals may wait for their commit. With one, a
// log that takes longer than half a lease to commit could never keep one; the
// grants may come in any order, for t0 belongs to the entry.
const renewalsAtOnce = 4

// renew proposes the next lease entry every Renew while an epoch is kept.
func (k *keeper) renew(ctx context.Context) {
	tick := time.NewTicker(k.timing.Renew)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, renewalsAtOnce)
	for {
		epoch := k.current()
		next := tick.C
		if epoch == 0 {
			next = nil // it costs nothing to wait for nothing
		}
		select {
		case <-ctx.Done():
			return
		case <-k.begun: // an Acquire has just been what a renewal is
			tick.Reset(k.timing.Renew)
			continue
		case <-next:
		}
		poke(k.awake)
		l := k.log.Leadership()
		if !l.Ready {
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			continue // the log is slow enough; the next tick asks again
		}
		wg.Go(func() {
			defer func() { <-places }()
			k.renewOnce(ctx, epoch, l.Term)
		})
	}
}

func (k *keeper) renewOnce(ctx context.Context, epoch, term uint64) {
	// An answer after the lease is of no use.
	ctx, cancel := context.WithTimeout(ctx, k.timing.TTL)
	defer cancel()
	t0 := k.now()
	_, err := k.log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_LeaseRenew{LeaseRenew: &hadv1.LeaseRenew{
		Term: term, Epoch: epoch, Instance: k.instance,
	}}})
	if err == nil {
		k.grant(epoch, t0)
		return
	}
	if refused, ok := errors.AsType[*cluster.RefusedError](err); ok && k.current() == epoch {
		k.logger.Warn("the lease was not renewed", "epoch", epoch, "reason", refused.Reason)
		k.wake()
	}
}

// grant notes that the lease entry proposed at t0 was accepted. An epoch that
// the guard has ended stays ended.
func (k *keeper) grant(epoch uint64, t0 clock.Instant) {
	if !k.lease.Grant(epoch, t0, k.timing.TTL) {
		return
	}
	if err := k.holder.extend(epoch); err != nil {
		k.logger.Warn("the renewal has no effect", "epoch", epoch, "error", err)
		k.mu.Lock()
		k.lost = lostLease{epoch, err.Error()}
		k.mu.Unlock()
		k.end(epoch, err)
		k.wake()
	}
}

// refreshAtMost: the addresses' lifetimes, of 2 s, are renewed so often that a stall
// which lets one run out has ended the lease, too; with a long lease at this rate.
// What something else removes is noticed at once.
const refreshAtMost = 500 * time.Millisecond

// refreshEvery is the time between two renewals of the lifetimes.
func (k *keeper) refreshEvery() time.Duration {
	return min(max(refreshAtMost, k.timing.AddressLifetime-k.timing.TTL-refreshAtMost/4), refreshAtLeast)
}

// early is how long before they are due lifetimes are renewed if the process is
// awake anyway, and how much later if it isn't.
func (k *keeper) early() time.Duration { return min(k.timing.Renew/2, refreshAtMost/4) }

// hold refreshes the addresses' lifetimes and takes them out of the kernel
// when the lease ends. It never waits for the log.
func (k *keeper) hold(ctx context.Context) {
	timer := time.NewTimer(k.timing.Renew)
	defer timer.Stop()
	var due clock.Instant // when the lifetimes are to be renewed next
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.awake:
			// What is due soon is done now, while the log writes the renewal: each
			// time of its own would wake the host once more. The rest is put off
			// until after the next renewal, and so for ever.
			if !k.now().Add(k.early()).Before(due) {
				due = 0
			}
		case <-k.nudged:
			due = 0
		}
		if k.current() == 0 {
			timer.Stop() // keep nudges
			due = 0
			continue
		}
		timer.Reset(k.look(ctx, &due))
	}
}

// look does what is due now and returns when to look again.
func (k *keeper) look(ctx context.Context, due *clock.Instant) time.Duration {
	epoch := k.current()
	_, until, _ := k.lease.Held()
	held, over, ok := k.lease.Over()
	ahead := k.holder.ahead(epoch)
	until, over = until.Add(-ahead), over.Add(-ahead)
	now := k.now()
	if !ok || held != epoch || !now.Before(over) {
		k.logger.Warn("the lease has ended; taking the addresses down", "epoch", epoch)
		k.end(epoch, errLeaseOver)
		if err := k.holder.drop(ctx, epoch); err != nil {
			k.logger.Error("the addresses did not go away; their lifetime will end them", "epoch", epoch, "error", err)
		}
		k.holder.settle(ctx, epoch)
		k.wake()
		return k.timing.Renew
	}
	if !now.Before(until) {
		k.beginGrace(epoch)
		until = over
	}
	if *due = max(*due, k.holder.pace.soonest()); !now.Before(*due) {
		k.refresh(ctx, epoch)
		*due = k.holder.pace.next(k.now(), k.refreshEvery())
	}
	// Looked at again, for the refresh may have taken its time.
	return max(min(due.Add(k.early()), until).Sub(k.now()), 0)
}

func (k *keeper) refresh(ctx context.Context, epoch uint64) {
	back, err := k.holder.refresh(ctx)
	if len(back) > 0 {
		k.logger.Warn("put back addresses that something else removed", "addresses", subject(back, nil), "interface", back[0].Interface, "epoch", epoch)
		k.wake()
	}
	if err != nil && !errors.Is(err, errLeaseOver) {
		k.logger.Error("the addresses were not renewed", "epoch", epoch, "error", err)
	}
}

// announceEvery is how often neighbours are told again when nothing happened:
// one that missed it finds its way back without waiting for its ARP entry.
const announceEvery = time.Minute

// announce tells the neighbours where the addresses are: at once, after 1, 2,
// 4 … seconds, then every minute. Taking on an epoch and a node's return
// begin it again, for after a healed partition a neighbour may still hold the
// other owner's entry.
func (k *keeper) announce(ctx context.Context) {
	var epoch uint64
	wait := time.Second
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.returned:
			wait = time.Second
		}
		now := k.current()
		if now == 0 {
			timer.Stop() // keep begins them again
			continue
		}
		if now != epoch {
			epoch, wait = now, time.Second
		}
		if len(k.holder.addresses()) > 0 {
			k.tell(ctx)
			wait = min(2*wait, announceEvery)
		} else {
			wait = time.Second
		}
		timer.Reset(wait)
	}
}

// tell announces what is held once.
func (k *keeper) tell(ctx context.Context) {
	if err := k.holder.announce(ctx); err != nil && ctx.Err() == nil {
		k.logger.Warn("the addresses were not announced", "error", err)
	}
}
