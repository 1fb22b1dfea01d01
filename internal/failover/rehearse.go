package failover

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"had/internal/hook"
	"had/internal/journal"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// RunTests runs the Test scripts of this node as an acquisition would, and nothing
// else: a Test looks and changes nothing, so it may run at any time. The others
// belong to a turn of ownership. vips limits it to some addresses; nil is all. The
// error is about what could not be run; that a script says no is in its result.
func (c *Controller) RunTests(ctx context.Context, vips []netip.Addr) ([]hook.Result, error) {
	view, _ := c.cfg.Log.View()
	p, err := c.parsed.of(view.Policy)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, refused("there is no policy yet, so there are no hooks")
	case p.Hooks.Dir == "":
		return nil, nil
	}
	wantedVIPs, _, err := c.executor.resolve(p)
	if err != nil {
		return nil, err
	}
	runner, err := c.cfg.Hooks(p.Hooks.Dir, p.Hooks.Timeout)
	if err != nil {
		return nil, err
	}
	var results []hook.Result
	var errs []error
	for _, v := range wantedVIPs {
		if vips != nil && !slices.Contains(vips, v.Address) {
			continue
		}
		done, err := runner.Stage(ctx, c.executor.rehearsal(view.LastOwner, p, v))
		if errors.Is(err, hook.ErrStillRunning) {
			c.executor.lingers(err, done)
		}
		results, errs = append(results, done...), append(errs, err)
	}
	return results, errors.Join(errs...)
}

func (x *executor) rehearsal(previous string, p *policy.Policy, v policy.VIP) hook.Run {
	self := x.instance.GetNode()
	return hook.Run{
		Stage: hook.Test, Event: hook.Acquire, VIP: v.Address,
		Env: hook.Env{
			Cluster: x.cluster, Reason: "somebody asks whether it would pass", Interface: v.InterfaceOn(self),
			Node: self, PreviousOwner: previous, Volumes: mountPoints(StorageVolumes(p)), Tokens: tokenPlaces(p.Tokens),
		},
	}
}

// HookResults are results as they go over the wire.
func HookResults(all []hook.Result) []*hadv1.HookResult {
	out := make([]*hadv1.HookResult, len(all))
	for i, r := range all {
		out[i] = journal.HookResult(0, r)
	}
	return out
}

// OwnerMACs are the hardware addresses with which this host answers for what it
// holds.
func (c *Controller) OwnerMACs() ([]string, error) { return c.macs() }
