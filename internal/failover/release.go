package failover

import (
	"context"
	"fmt"
	"time"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// release gives the epoch up in order, while its lease lasts: PreRel, then
// the addresses, then the report that lets a successor act at once. Should
// the lease end on the way, the keeper takes the addresses and what remains
// is done as a forced release.
func (x *executor) release(ctx context.Context, step Step) error {
	p, leased := x.current()
	t := new(timeline)
	vips := x.vipsOf(p)
	forced := leased.Err() != nil
	if !forced {
		run := stageRun{epoch: step.Epoch, cause: step.Cause}
		x.goTogether(leased, p, vips, t, run, hook.PreRel)
		forced = leased.Err() != nil
	}
	return x.letGo(ctx, step, t, forced)
}

// force gives the epoch up at once: the addresses first, hooks afterwards.
func (x *executor) force(ctx context.Context, step Step) error {
	return x.letGo(ctx, step, new(timeline), true)
}

// letGo takes the addresses down and, once they are gone for certain, reports
// the epoch released. After an error nothing is reported: the epoch stays
// open, and the successor waits.
func (x *executor) letGo(ctx context.Context, step Step, t *timeline, forced bool) error {
	x.keeper.end(step.Epoch, errLeaseOver)
	if err := t.run("addresses_down", func() error { return x.holder.drop(ctx) }); err != nil {
		return err
	}
	h := x.held()
	h.Phase, h.Forced, h.Cause = PhaseLeaving, forced, step.Cause
	x.setHolding(h)
	x.reportReleased(ctx, &hadv1.Released{Epoch: step.Epoch, Forced: forced, Cause: step.Cause, Steps: t.list()})
	x.logger.Info("released", "epoch", step.Epoch, "cause", step.Cause, "forced", forced)
	if err := x.courier.flush(ctx, flushLimit); err != nil {
		x.logger.Warn("the release is not in the log yet; it is delivered when a leader can be reached", "epoch", step.Epoch, "error", err)
	}
	return nil
}

// flushLimit is how long a release waits for its report to be committed
// before it goes on; the courier keeps trying.
const flushLimit = 2 * time.Second

// finish runs the hooks that remain after a release and forgets the epoch.
func (x *executor) finish(ctx context.Context, step Step) error {
	p, _ := x.current()
	h := x.held()
	if h.Phase != PhaseLeaving {
		return fmt.Errorf("finish epoch %d: it is not released yet", step.Epoch)
	}
	vips := x.vipsOf(p)
	t := new(timeline)
	run := stageRun{epoch: step.Epoch, cause: h.Cause, forced: h.Forced}
	if h.Forced {
		x.goTogether(ctx, p, vips, t, run, hook.PreRel)
	}
	x.goTogether(ctx, p, vips, t, run, hook.PostRel)
	if err := x.journal.ClearTenure(); err != nil {
		x.logger.Error("the journal still names the epoch; the next start cleans up once more", "epoch", step.Epoch, "error", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.holding, x.serving, x.leased = Holding{}, nil, nil
	return nil
}

// reportClean closes an epoch of this instance that was committed after the
// instance had given up on it. Nothing of it was ever touched: effects come
// after the commit is known.
func (x *executor) reportClean(ctx context.Context, step Step) error {
	x.keeper.end(step.Epoch, errLeaseOver)
	if err := x.holder.drop(ctx); err != nil {
		return err
	}
	x.reportReleased(ctx, &hadv1.Released{Epoch: step.Epoch, Cause: step.Cause})
	return x.courier.flush(ctx, flushLimit)
}

func (x *executor) current() (*policy.Policy, context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.serving, x.leased
}

// vipsOf returns a policy's addresses with this node's interfaces, where they
// can still be found.
func (x *executor) vipsOf(p *policy.Policy) []policy.VIP {
	vips, _, err := x.resolve(p)
	if err != nil {
		return p.VIPs
	}
	return vips
}
