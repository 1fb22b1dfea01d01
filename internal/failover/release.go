package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// release gives the epoch up in order, while it may be held: PreRel, the volumes,
// the addresses, then the report that lets a successor act at once. Should
// its time end on the way, the keeper takes the addresses and what remains
// is done as a forced release.
func (x *executor) release(ctx context.Context, step Step) error {
	o, lasting := x.remaining()
	g := x.givesUp(step)
	x.flushAhead(lasting, step.Epoch, g.timeline)
	x.releaseStage(lasting, o, g.timeline, stageRun{epoch: step.Epoch, cause: g.cause, leased: true}, hook.PreRel)
	x.flushTokens(lasting, step.Epoch)
	err := x.unmountAll(lasting, step.Epoch, g.timeline)
	if err != nil {
		x.logger.Warn("the volumes could not be unmounted in order", "epoch", step.Epoch, "error", err)
	}
	return x.letGo(ctx, g, err != nil || lasting.Err() != nil || !x.keeper.mayHold(step.Epoch))
}

// force gives the epoch up at once: the addresses first, then the volumes, hooks
// afterwards.
func (x *executor) force(ctx context.Context, step Step) error {
	return x.letGo(ctx, x.givesUp(step), true)
}

// givingUp is what there is to say of a release. One that fails on the way goes
// on in the ring's next round, and keeps its cause and what it did.
type givingUp struct {
	epoch    uint64
	cause    string
	forced   bool
	timeline *steps.Timeline
	unproven string // why it isn't proven that nothing of this host can write to the volumes; empty: it is, or wasn't asked yet
}

// longestTimeline keeps a release that fails for hours from filling the log.
const longestTimeline = 50

func (x *executor) givesUp(step Step) givingUp {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.giving.epoch != step.Epoch {
		x.giving = givingUp{epoch: step.Epoch, cause: step.Cause, timeline: new(steps.Timeline)}
	}
	if len(x.giving.timeline.List()) > longestTimeline {
		x.giving.timeline = new(steps.Timeline) // what came first is in this node's own log
	}
	return x.giving
}

func (x *executor) gave(epoch uint64, forced bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.giving.epoch == epoch {
		x.giving.forced = forced
	}
}

// letGo takes the addresses down, makes sure of the volumes and, once all are
// gone for certain, reports the epoch released. After an error nothing is
// reported: the epoch stays open, and the successor waits.
func (x *executor) letGo(ctx context.Context, g givingUp, forced bool) error {
	x.keeper.end(g.epoch, errLeaseOver)
	if err := g.timeline.Run("addresses_down", func() error { return x.holder.drop(ctx, g.epoch) }); err != nil {
		return err
	}
	if err := x.secure(ctx, g.epoch, g.timeline); err != nil {
		return err
	}
	x.leave(g.epoch, forced, g.cause, 0)
	x.gave(g.epoch, forced)
	x.holder.settle(ctx, g.epoch)
	err := x.reportReleased(ctx, &hadv1.Released{Epoch: g.epoch, Forced: forced, Cause: g.cause, Steps: g.timeline.List()})
	if err != nil {
		x.logger.Error("the release is not reported; the successor waits until the lease is over", "epoch", g.epoch, "error", err)
		return nil
	}
	if err := x.courier.flush(ctx, flushLimit); err != nil {
		x.logger.Warn("the release is not in the log yet; it is delivered when a leader can be reached", "epoch", g.epoch, "error", err)
	}
	return nil
}

// leave notes that nothing of the held epoch is in the kernel any more, and
// from when on the rest may be done. The first to say so says why: the ring and
// a successor's request may meet.
func (x *executor) leave(epoch uint64, forced bool, cause string, finishAt clock.Instant) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.holding.Epoch != epoch || x.holding.Phase == PhaseLeaving {
		return
	}
	x.holding.Phase, x.holding.Forced, x.holding.Cause, x.holding.FinishAt = PhaseLeaving, forced, cause, finishAt
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

// reportClean closes an open epoch of which this node has nothing: one of this
// instance that was committed after the instance had given up on it, or that it has
// given back without being able to report it; or one of an earlier run that died
// before it could note it. Effects come after the commit is known, and after the
// note.
func (x *executor) reportClean(ctx context.Context, step Step) error {
	x.keeper.end(step.Epoch, errLeaseOver)
	if err := x.holder.drop(ctx, step.Epoch); err != nil {
		return err
	}
	x.holder.settle(ctx, step.Epoch)
	kind := hadv1.Evidence_KIND_RELEASED
	if view, _ := x.log.View(); view.Claim(step.Epoch).GetInstance().GetBootId() != x.instance.GetBootId() {
		kind = hadv1.Evidence_KIND_REBOOTED
	}
	r := &hadv1.Released{Epoch: step.Epoch, Kind: kind, Cause: step.Cause}
	x.mu.Lock()
	g := x.giving
	x.mu.Unlock()
	if g.epoch == step.Epoch { // given back in time; only the report had to wait
		r.Cause, r.Forced, r.Steps = g.cause, g.forced, g.timeline.List()
	}
	if err := x.reportReleased(ctx, r); err != nil {
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
	run.goOn, run.volumes, run.tokens = true, o.volumes, o.tokens
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
