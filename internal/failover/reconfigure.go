package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// reconfigure makes the held epoch match a new policy without touching what
// is in both: the hooks of addresses that go or come are run, volumes that go or
// come are unmounted or mounted, the others stay all the time. After a failure what
// is up is neither the old policy nor the new one, and the epoch is given up. It is
// not before the log has named further volumes, nor for one that can't be unmounted:
// that one is released in order, with the rest.
func (x *executor) reconfigure(ctx context.Context, in Inputs, step Step) error {
	t, err := x.newTurn(in.Policy, in.View.Policy.GetVersion(), x.instance.GetNode())
	if err == nil {
		ch, why := x.volumeChange(in.View.Claim(step.Epoch), in.Policy, t.version)
		if why != "" {
			return x.refuse(step.Epoch, t.version, errors.New(why))
		}
		if err := x.extend(ctx, in, step, t, ch.come); err != nil {
			return err
		}
		err = x.change(t, step, ch)
	}
	if errors.Is(err, errRemount) {
		return err
	}
	if err != nil {
		x.progress(ctx, &hadv1.Progress{Epoch: step.Epoch, Outcome: hadv1.Progress_OUTCOME_FAILED, Reason: err.Error(), Steps: t.timeline.List()})
		h := x.held()
		h.Phase = PhaseAcquiring
		x.setHolding(h)
		return err
	}
	x.serve(ctx, step.Epoch, t)
	return nil
}

func (x *executor) change(t *turn, step Step, ch volumeChange) error {
	old, leased := x.current()
	gone, come := difference(old.vips, t.vips), difference(t.vips, old.vips)
	run := stageRun{epoch: step.Epoch, cause: step.Cause, previous: x.instance.GetNode(), volumes: t.volumes, tokens: t.policy.Tokens, leased: true}

	// Both lists until the change is through: whoever must clean up, this run
	// or the next one, then knows of all.
	all := append(slices.Clone(t.vips), gone...)
	both := t.owned()
	both.vips, both.volumes = all, append(slices.Clone(old.volumes), ch.come...)
	x.setOwned(both)
	if err := x.journal.SetTenure(x.tenure(step.Epoch, both, t.version)); err != nil {
		return err
	}
	if err := t.timeline.Run("arm", func() error { return x.holder.admit(leased, step.Epoch, t.addrs) }); err != nil {
		return fmt.Errorf("arm guard and gate: %w", err)
	}
	x.releaseStage(leased, owned{hooks: old.hooks, vips: gone, tokens: old.tokens}, &t.timeline, run, hook.PreRel)
	both.stopped = map[netip.Addr]bool{}
	for _, v := range gone {
		both.stopped[v.Address] = true
	}
	x.setOwned(both)
	if err := x.unmountGone(leased, step.Epoch, t, ch.gone); err != nil {
		return err
	}
	if err := x.mountMore(leased, step.Epoch, t, ch.come); err != nil {
		return because(leased, err)
	}
	if err := x.placeTokens(leased, step.Epoch, t); err != nil {
		return err
	}
	err := t.timeline.Run("pre_acq", func() error {
		return x.stage(leased, t.policy.Hooks, come, run.of(hook.PreAcq, hook.Acquire))
	})
	if err != nil && (leased.Err() != nil || t.policy.Hooks.OnFailure[policy.PreAcq] != policy.Continue) {
		return err
	}
	if err := t.timeline.Run("addresses_up", func() error { return x.holder.raise(leased, step.Epoch, t.addrs) }); err != nil {
		return err
	}
	x.keeper.tell(leased)
	x.releaseStage(leased, owned{hooks: old.hooks, vips: gone, tokens: old.tokens}, &t.timeline, run, hook.PostRel)
	x.setOwned(t.owned())
	if err := x.journal.SetTenure(x.tenure(step.Epoch, t.owned(), t.version)); err != nil {
		x.logger.Warn("the journal still names what the policy has given up", "epoch", step.Epoch, "error", err)
	}
	err = t.timeline.Run("post_acq", func() error {
		run.goOn = true
		return x.stage(leased, t.policy.Hooks, come, run.of(hook.PostAcq, hook.Acquire))
	})
	if err != nil && (leased.Err() != nil || t.policy.Hooks.OnFailure[policy.PostAcq] == policy.HandOver) {
		return err
	}
	return nil
}

// difference returns the addresses of a that are not in b.
func difference(a, b []policy.VIP) []policy.VIP {
	return slices.DeleteFunc(slices.Clone(a), func(v policy.VIP) bool {
		return slices.ContainsFunc(b, func(w policy.VIP) bool { return v.Address == w.Address && v.Interface == w.Interface })
	})
}
