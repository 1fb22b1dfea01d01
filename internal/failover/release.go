package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"had/internal/hook"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// release gives the epoch up in order, while it may be held: PreRel, then
// the addresses, then the report that lets a successor act at once. Should
// its time end on the way, the keeper takes the addresses and what remains
// is done as a forced release.
func (x *executor) release(ctx context.Context, step Step) error {
	o, lasting := x.remaining()
	t := new(steps.Timeline)
	x.releaseStage(lasting, o, t, stageRun{epoch: step.Epoch, cause: step.Cause, leased: true}, hook.PreRel)
	return x.letGo(ctx, step, t, lasting.Err() != nil || !x.keeper.mayHold(step.Epoch))
}

// force gives the epoch up at once: the addresses first, hooks afterwards.
func (x *executor) force(ctx context.Context, step Step) error {
	return x.letGo(ctx, step, new(steps.Timeline), true)
}

// letGo takes the addresses down and, once they are gone for certain, reports
// the epoch released. After an error nothing is reported: the epoch stays
// open, and the successor waits.
func (x *executor) letGo(ctx context.Context, step Step, t *steps.Timeline, forced bool) error {
	x.keeper.end(step.Epoch, errLeaseOver)
	if err := t.Run("addresses_down", func() error { return x.holder.drop(ctx, step.Epoch) }); err != nil {
		return err
	}
	x.leave(step.Epoch, forced, step.Cause)
	x.holder.settle(ctx, step.Epoch)
	err := x.reportReleased(ctx, &hadv1.Released{Epoch: step.Epoch, Forced: forced, Cause: step.Cause, Steps: t.List()})
	if err != nil {
		x.logger.Error("the release is not reported; the successor waits until the lease is over", "epoch", step.Epoch, "error", err)
		return nil
	}
	if err := x.courier.flush(ctx, flushLimit); err != nil {
		x.logger.Warn("the release is not in the log yet; it is delivered when a leader can be reached", "epoch", step.Epoch, "error", err)
	}
	return nil
}

// leave notes that nothing of the held epoch is in the kernel any more. The
// first to say so says why: the ring and a successor's request may meet.
func (x *executor) leave(epoch uint64, forced bool, cause string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.holding.Epoch != epoch || x.holding.Phase == PhaseLeaving {
		return
	}
	x.holding.Phase, x.holding.Forced, x.holding.Cause = PhaseLeaving, forced, cause
	x.logger.Info("released", "epoch", epoch, "cause", cause, "forced", forced)
}

// flushLimit is how long a release waits for its report to be committed
// before it goes on; the courier keeps trying.
const flushLimit = 2 * time.Second

// finish runs the hooks that remain after a release and forgets the epoch.
func (x *executor) finish(ctx context.Context, step Step) error {
	o, _ := x.current()
	h := x.held()
	if h.Phase != PhaseLeaving {
		return fmt.Errorf("finish epoch %d: it is not released yet", step.Epoch)
	}
	x.holder.settle(ctx, step.Epoch)
	// Nothing to say if letGo has said it.
	if err := x.reportReleased(ctx, &hadv1.Released{Epoch: step.Epoch, Forced: h.Forced, Cause: h.Cause}); err != nil {
		x.logger.Error("the release is not reported; the successor waits until the lease is over", "epoch", step.Epoch, "error", err)
	}
	t := new(steps.Timeline)
	run := stageRun{epoch: step.Epoch, cause: h.Cause, forced: h.Forced}
	if h.Forced {
		x.releaseStage(ctx, o, t, run, hook.PreRel)
	}
	x.releaseStage(ctx, o, t, run, hook.PostRel)
	if ctx.Err() != nil {
		return context.Cause(ctx) // the next start runs what is left: the record stays
	}
	if err := x.journal.ClearTenure(); err != nil {
		x.logger.Error("the journal still names the epoch; the next start cleans up once more", "epoch", step.Epoch, "error", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.holding, x.owned, x.leased, x.lasting = Holding{}, owned{}, nil, nil
	return nil
}

// reportClean closes an epoch of this instance that was committed after the
// instance had given up on it. Nothing of it was ever touched: effects come
// after the commit is known.
func (x *executor) reportClean(ctx context.Context, step Step) error {
	x.keeper.end(step.Epoch, errLeaseOver)
	if err := x.holder.drop(ctx, step.Epoch); err != nil {
		return err
	}
	x.holder.settle(ctx, step.Epoch)
	if err := x.reportReleased(ctx, &hadv1.Released{Epoch: step.Epoch, Cause: step.Cause}); err != nil {
		return err
	}
	return x.courier.flush(ctx, flushLimit)
}

// releaseStage runs PreRel or PostRel, last address first; its failure never
// stops a release.
func (x *executor) releaseStage(ctx context.Context, o owned, t *steps.Timeline, run stageRun, s hook.Stage) {
	vips := slices.Clone(o.vips)
	slices.Reverse(vips)
	name := "post_rel"
	if s == hook.PreRel {
		name = "pre_rel"
		vips = slices.DeleteFunc(vips, func(v policy.VIP) bool { return o.stopped[v.Address] })
	}
	if len(vips) == 0 {
		return
	}
	run.goOn = true
	if err := t.Run(name, func() error { return x.stage(ctx, o.hooks, vips, run.of(s, hook.Release)) }); err != nil {
		x.logger.Warn("a release script failed; the release goes on", "epoch", run.epoch, "error", err)
	}
}

func (r stageRun) of(s hook.Stage, e hook.Event) stageRun {
	r.stage, r.event = s, e
	return r
}

func (x *executor) current() (owned, context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.owned, x.leased
}

// remaining is current with the context that ends with the grace.
func (x *executor) remaining() (owned, context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.owned, x.lasting
}

func (x *executor) setOwned(o owned) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.owned = o
}
