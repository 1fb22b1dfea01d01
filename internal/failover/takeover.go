package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// takeOver takes a turn from an owner that moves to this node. The new epoch
// is opened and everything prepared while the old owner serves; only then is
// it asked to let go, so that the clients miss no more than "delete there, add
// here".
func (x *executor) takeOver(ctx context.Context, in Inputs, step Step) error {
	old := in.View.Claim(step.Epoch)
	// Of the term that this node leads, only it proposes lease entries; those
	// of earlier terms had all been appended when LastLease was read.
	over := cluster.TakeoverAt(in.LastLease, []*hadv1.Claim{old})
	t, err := x.newTurn(in.Policy, in.View.Policy.GetVersion(), in.View.LastOwner)
	if err != nil {
		return x.vetoed(ctx, in, t, err)
	}
	t.keep = in.kept()
	a := x.claim(in, t, step.Cause, &hadv1.Evidence{Epoch: old.GetEpoch(), Kind: hadv1.Evidence_KIND_HANDED_OVER})
	return x.own(ctx, t, a, func(ctx context.Context, epoch uint64) error {
		return t.timeline.Run("old_owner_lets_go", func() error {
			waited, err := x.oldOwnerGone(ctx, old, epoch, over)
			if err != nil {
				return err
			}
			left := Predecessor{Epoch: old.GetEpoch(), Lease: in.LastLease, CloseAt: over}
			if !waited {
				left.CloseAt = over.Add(flushLimit) // its own report is on its way, and says more
			}
			h := x.held()
			h.Left = left
			x.setHolding(h)
			return nil
		})
	})
}

// closeLeft closes the epoch that was taken over and whose owner never
// reported: its lease has been waited out since.
func (x *executor) closeLeft(ctx context.Context, in Inputs, step Step) error {
	old := in.View.Claim(step.Epoch)
	_, err := x.log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Waited{Waited: &hadv1.Waited{
		Term: in.Leadership.Term, Evidence: &hadv1.Evidence{
			Epoch: step.Epoch, Kind: hadv1.Evidence_KIND_WAITED,
			LeaseIndex: old.GetLastLeaseIndex(), WaitedNs: int64(in.Now.Sub(in.Holding.Left.Lease)),
		},
	}}})
	return err
}

// askAgain is how soon an old owner that could not be asked is asked again.
const askAgain = 25 * time.Millisecond

// oldOwnerGone returns once nothing of the old claim can be in its owner's
// kernel any more: the owner says so, here or in the log, or its lease has
// been waited out.
func (x *executor) oldOwnerGone(ctx context.Context, old *hadv1.Claim, to uint64, over clock.Instant) (waited bool, err error) {
	asking, enough := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer enough()
	letGo := make(chan struct{})
	wg.Go(func() {
		if x.askToLetGo(asking, old, to) {
			close(letGo)
		}
	})
	timer := time.NewTimer(max(over.Sub(x.now()), 0))
	defer timer.Stop()
	for {
		view, changed := x.log.View()
		switch {
		case ctx.Err() != nil:
			return false, fmt.Errorf("wait for %s to let go of epoch %d: %w", old.GetInstance().GetNode(), old.GetEpoch(), context.Cause(ctx))
		case view.Claim(old.GetEpoch()) == nil:
			return false, nil
		case !x.now().Before(over):
			return true, nil
		}
		select {
		case <-letGo:
			return false, nil
		case <-changed:
		case <-timer.C:
			timer.Reset(max(over.Sub(x.now()), time.Millisecond))
		case <-ctx.Done():
		}
	}
}

// askToLetGo asks the old owner until it says that it holds nothing of its
// epoch. It reports false when ctx ends first.
func (x *executor) askToLetGo(ctx context.Context, old *hadv1.Claim, to uint64) bool {
	owner := old.GetInstance().GetNode()
	for {
		resp, err := x.peers.HandOver(ctx, owner, &hadv1.HandOverRequest{FromEpoch: old.GetEpoch(), ToEpoch: to})
		if err == nil && resp.GetReleased() {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		x.logger.Debug("the old owner has not let go", "owner", owner, "epoch", old.GetEpoch(), "why", resp.GetWhy(), "error", err)
		timer := time.NewTimer(askAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// yield stops the services on this node and hands leadership to the node that
// takes over; the addresses stay up, under the lease, until that node asks for
// them or the lease ends.
func (x *executor) yield(ctx context.Context, step Step) error {
	o, leased := x.current()
	x.releaseStage(leased, o, new(steps.Timeline), stageRun{epoch: step.Epoch, cause: step.Cause, leased: true}, hook.PreRel)
	x.flushTokens(leased, step.Epoch)
	if leased.Err() != nil || !x.keeper.holds(step.Epoch) {
		return fmt.Errorf("hand epoch %d over: %w", step.Epoch, errLeaseOver)
	}
	o.stopped = map[netip.Addr]bool{}
	for _, v := range o.vips {
		o.stopped[v.Address] = true
	}
	x.setOwned(o)
	h := x.held()
	h.Phase, h.Target, h.Cause = PhaseYielding, step.Target, step.Cause
	x.setHolding(h)
	// From here on nothing is renewed; the successor gets all of a lease to
	// prepare in.
	x.keeper.renewOnce(ctx, step.Epoch, x.log.Leadership().Term)
	ctx, cancel := context.WithTimeout(ctx, x.timing.HandOver()) // it still serves
	defer cancel()
	return x.log.Transfer(ctx, step.Target)
}

// successorFirst is how long an old owner leaves the rest of a release after it
// has let go. The guard, the report and the scripts would compete with the
// answer, for which the clients wait, and the clients don't wait for them.
const successorFirst = 20 * time.Millisecond

// handOver is the old owner's answer to askToLetGo. After a nil error nothing
// of the epoch is in the kernel, and nothing of it comes back; nor is a script
// of it left that can't be ended.
func (x *executor) handOver(ctx context.Context, from uint64) error {
	h := x.held()
	reported, stuck := x.reports()
	switch {
	case h.Epoch != from && reported >= from:
		return nil
	case stuck != "":
		return errors.New(stuck) // as in reportReleased
	case h.Epoch == from && h.Phase == PhaseLeaving:
		return nil
	case h.Epoch != from || h.Phase != PhaseYielding:
		return fmt.Errorf("epoch %d is not being handed over by %s", from, x.instance.GetNode())
	}
	// The ring would take an ended lease for one that ran out, so it ends
	// last: what has been dropped doesn't come back, lease or no lease.
	if err := x.holder.drop(ctx, from); err != nil {
		return err
	}
	x.leave(from, false, h.Cause, x.now().Add(successorFirst))
	x.keeper.end(from, errLeaseOver)
	return nil
}
