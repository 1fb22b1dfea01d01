package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/hook"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// turn is one attempt to own: what it is made from and how long it took.
type turn struct {
	policy   *policy.Policy
	version  uint64
	vips     []policy.VIP // with this node's interfaces
	addrs    []vip.Address
	volumes  []storage.Volume
	watchdog time.Duration // that the epoch's terms promise; 0: none
	previous string
	keep     bool // by the limits, a PostAcq that fails doesn't hand over
	timeline steps.Timeline
}

func (x *executor) newTurn(p *policy.Policy, version uint64, previous string) (*turn, error) {
	t := &turn{policy: p, version: version, volumes: StorageVolumes(p), previous: previous}
	err := t.timeline.Run("resolve_interfaces", func() (err error) {
		t.vips, t.addrs, err = x.resolve(p)
		return err
	})
	return t, err
}

// test asks the Test scripts, and meanwhile the network, whether this node may
// take the addresses: veto is what the scripts say, conflict what the network
// does. It changes nothing.
func (x *executor) test(ctx context.Context, t *turn, epoch uint64, cause string, known []net.HardwareAddr) (veto, conflict error) {
	var probing sync.WaitGroup
	probing.Go(func() { conflict = x.probe(ctx, t, known) })
	veto = t.timeline.Run("test", func() error {
		return x.stage(ctx, t.policy.Hooks, t.vips, stageRun{stage: hook.Test, event: hook.Acquire, epoch: epoch, cause: cause, previous: t.previous, volumes: t.volumes, tokens: t.policy.Tokens})
	})
	probing.Wait()
	return veto, conflict
}

// probe asks the network whether somebody else answers for the addresses.
func (x *executor) probe(ctx context.Context, t *turn, known []net.HardwareAddr) error {
	return t.timeline.Run("probe", func() error {
		conflicts, err := x.network.Conflicts(ctx, t.addrs, conflictWindow, known)
		if err != nil {
			// Only a reply is a veto; that none could be heard is no proof of
			// anything.
			x.logger.Warn("couldn't ask the network whether somebody else has the addresses", "error", err)
			return nil
		}
		for _, c := range conflicts {
			return fmt.Errorf("%s is answered by %s: another host has it; find that host, or the old owner has not let go yet", c.Address.Addr, c.MAC)
		}
		return nil
	})
}

// acquire takes a turn: Test, the Acquire in the log, volumes, PreAcq, addresses,
// PostAcq. The error is only for the caller's backoff; what happened has been
// reported.
func (x *executor) acquire(ctx context.Context, in Inputs, step Step) error {
	t, err := x.ready(ctx, in, step)
	if err != nil {
		return x.vetoed(ctx, in, t, err)
	}
	t.keep = in.kept()
	return x.own(ctx, t, x.claim(in, t, step.Cause, step.Evidence...), nil)
}

// vetoed reports that a turn didn't begin because of err, unless it is none of
// this node's any more. It returns err.
func (x *executor) vetoed(ctx context.Context, in Inputs, t *turn, err error) error {
	if l := x.log.Leadership(); !l.Leading || l.Term != in.Leadership.Term {
		// Another may have the addresses now: what the network says of that is
		// no veto.
		return fmt.Errorf("%w any more: %w", cluster.ErrNotLeader, err)
	}
	if ctx.Err() == nil {
		x.progress(ctx, &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_VETOED, Reason: err.Error(), Steps: t.timeline.List()})
	}
	return err
}

// claim is the Acquire of a turn.
func (x *executor) claim(in Inputs, t *turn, cause string, evidence ...*hadv1.Evidence) *hadv1.Acquire {
	terms := x.terms(t.policy, t.volumes)
	t.watchdog = time.Duration(terms.GetWatchdogTimeoutNs())
	a := &hadv1.Acquire{
		Term: in.Leadership.Term, Instance: x.instance, Terms: terms,
		PolicyVersion: t.version, Addresses: heldAddresses(t.vips), Evidence: evidence, Cause: cause,
		Volumes: heldVolumes(t.volumes), Tokens: heldTokens(t.policy.Tokens, in.View),
	}
	if m := in.View.Move.GetOrder(); m.GetTarget() == x.instance.GetNode() {
		a.MoveOperation = m.GetOperation()
	}
	return a
}

// own opens the epoch and takes its things on. before, if there is one, must
// return nil before any of them may be touched.
func (x *executor) own(ctx context.Context, t *turn, a *hadv1.Acquire, before func(ctx context.Context, epoch uint64) error) error {
	resume, err := x.cease(ctx, t)
	if err != nil {
		return err
	}
	defer resume() // by then the held epoch keeps them from beginning
	var epoch uint64
	err = t.timeline.Run("acquire_lease", func() error {
		t0 := x.now()
		v, err := x.log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: a}})
		if err != nil {
			return fmt.Errorf("open an epoch: %w", err)
		}
		epoch = v.Index
		x.keeper.lease.Allow(epoch, time.Duration(a.GetTerms().GetReleaseGraceNs()))
		x.keeper.grant(epoch, t0)
		return nil
	})
	if err != nil {
		// If it is committed after all, Decide sees an open epoch of this
		// instance that it doesn't hold, and reports it clean.
		return err
	}
	leased := x.begin(epoch, t)
	x.logger.Info("taking over "+subject(t.addrs, t.volumes), "epoch", epoch, "cause", a.GetCause())
	taking, cancel := both(leased, ctx)
	defer cancel()
	if err := x.takeOn(taking, epoch, t, a.GetCause(), before); err != nil {
		if ctx.Err() != nil && leased.Err() == nil {
			return err // told to stop: that is no failure of this node
		}
		x.logger.Error("the turn failed", "epoch", epoch, "error", err)
		if errors.Is(err, errLeaseOver) {
			// A busy machine, disk or network let the lease end. The release
			// says so; counted as a failure it would keep every node of a busy
			// cluster from trying again, for longer each time.
			return err
		}
		x.progress(ctx, &hadv1.Progress{Epoch: epoch, Outcome: hadv1.Progress_OUTCOME_FAILED, Reason: err.Error(), Steps: t.timeline.List()})
		return err
	}
	x.serve(ctx, epoch, t)
	return nil
}

// armed is the watchdog that a policy counts on.
func (x *executor) armed(p *policy.Policy) time.Duration {
	if x.watchdog == nil || !slices.Contains(p.Fence.Methods, policy.MethodWatchdog) {
		return 0
	}
	return x.watchdog()
}

func (t *turn) owned() owned {
	return owned{hooks: t.policy.Hooks, vips: t.vips, volumes: t.volumes, tokens: t.policy.Tokens}
}

func (x *executor) begin(epoch uint64, t *turn) context.Context {
	leased, lasting := x.keeper.keep(x.life, epoch)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.holding = Holding{Epoch: epoch, Phase: PhaseAcquiring, PolicyVersion: t.version}
	x.owned, x.leased, x.lasting = t.owned(), leased, lasting
	return leased
}

// because puts the reason why ctx ended, if it has, before what that did.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// both returns a context that ends with either.
func both(a, b context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(a)
	stop := context.AfterFunc(b, func() { cancel(context.Cause(b)) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// serve notes that all of the epoch is up.
func (x *executor) serve(ctx context.Context, epoch uint64, t *turn) {
	h := x.held()
	h.Phase, h.PolicyVersion = PhaseServing, t.version
	for _, s := range t.timeline.List() {
		if s.GetError() != "" {
			h.Failed, h.Kept = s.GetError(), t.keep
		}
	}
	x.setHolding(h)
	x.progress(ctx, &hadv1.Progress{
		Epoch: epoch, Outcome: hadv1.Progress_OUTCOME_SERVING, Steps: t.timeline.List(),
		Addresses: heldAddresses(t.vips), PolicyVersion: t.version, Tokens: x.tokensNow(t.policy),
	})
	x.logger.Info("serving "+subject(t.addrs, t.volumes), "epoch", epoch)
}

// takeOn makes the epoch's things be there. ctx ends with the lease.
func (x *executor) takeOn(ctx context.Context, epoch uint64, t *turn, cause string, before func(ctx context.Context, epoch uint64) error) error {
	run := stageRun{event: hook.Acquire, epoch: epoch, cause: cause, previous: t.previous, volumes: t.volumes, tokens: t.policy.Tokens, leased: true}
	x.mounts.admit(epoch, t.volumes)
	// Arming puts nothing there that a later run would have to know of.
	var arming errgroup.Group
	arming.Go(func() error {
		err := t.timeline.Run("arm", func() error { return x.holder.admit(ctx, epoch, t.addrs) })
		if err != nil {
			return because(ctx, fmt.Errorf("arm guard and gate: %w", err))
		}
		return nil
	})
	err := t.timeline.Run("record_tenure", func() error { return x.journal.SetTenure(x.tenure(epoch, t.owned(), t.version)) })
	if err := errors.Join(arming.Wait(), err); err != nil {
		return err
	}
	// By now the guard that feeds the watchdog is the one that mounts: another one
	// would only unmount what this one leaves.
	if armed := x.armed(t.policy); armed != t.watchdog && len(t.volumes) > 0 {
		return fmt.Errorf("the epoch was opened with a watchdog of %s, which is %s now: the guard was replaced", t.watchdog, armed)
	}
	if err := x.equip(ctx, epoch, t, before); err != nil {
		return because(ctx, err)
	}
	err = t.timeline.Run("pre_acq", func() error {
		run.stage = hook.PreAcq
		return x.stage(ctx, t.policy.Hooks, t.vips, run)
	})
	if err != nil && (ctx.Err() != nil || t.policy.Hooks.OnFailure[policy.PreAcq] != policy.Continue) {
		return because(ctx, err)
	}
	if err := t.timeline.Run("addresses_up", func() error { return x.holder.raise(ctx, epoch, t.addrs) }); err != nil {
		return err
	}
	x.keeper.tell(ctx)
	x.keeper.reannounce()
	err = t.timeline.Run("post_acq", func() error {
		run.stage, run.goOn = hook.PostAcq, true
		return x.stage(ctx, t.policy.Hooks, t.vips, run)
	})
	if err != nil && (ctx.Err() != nil || t.policy.Hooks.OnFailure[policy.PostAcq] == policy.HandOver && !t.keep) {
		return because(ctx, err)
	}
	return nil
}
