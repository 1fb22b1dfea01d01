package failover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// MaxLag is how many log entries a node may be behind, by its latest answer,
// and still count as up to date: some seconds' worth of lease renewals.
const MaxLag = 64

// ErrRefused marks a request that the present state doesn't allow. Nothing
// has changed.
var ErrRefused = errors.New("refused")

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// Move checks that the target could take over and that this owner may let go,
// then orders the move in the log. It must be called on the owner, which is
// the leader. The target's Test scripts run before anything is released.
func (c *Controller) Move(ctx context.Context, req *hadv1.MoveRequest) (*hadv1.MoveResponse, error) {
	self := c.self.GetName()
	if v, _ := c.cfg.Log.View(); v.LastMove != nil && v.LastMove.GetOrder().GetOperation() == req.GetOperation() {
		// A retry of one whose answer was lost: history says how it ended.
		o := v.LastMove.GetOrder()
		return &hadv1.MoveResponse{Operation: o.GetOperation(), Target: o.GetTarget(), Index: v.LastMove.GetIndex(), FromEpoch: o.GetFromEpoch()}, nil
	}
	h := c.executor.held()
	if h.Phase != PhaseServing {
		return nil, refused("%s leads and doesn't own at present (%s): there is nothing to move yet", self, c.Why())
	}
	in, _ := c.gather()
	target := req.GetTarget()
	if target == "" && req.GetPreferred() {
		var err error
		if target, err = c.preferredTarget(in); err != nil {
			return nil, err
		}
	}
	if target == "" {
		best := candidates(in)
		if len(best) == 0 {
			return nil, refused("no other node can own%s", othersCant(in))
		}
		target = best[0]
	}
	to := c.member(target)
	switch {
	case to == nil:
		return nil, refused("%q is not a node of this cluster", target)
	case to.GetWitness():
		return nil, refused("%s is a witness and never owns", target)
	case target == self:
		return nil, refused("%s owns already", target)
	case !in.Peers[target].Fresh:
		return nil, refused("%s doesn't answer", target)
	case in.Peers[target].Applied+MaxLag < in.View.Applied:
		return nil, refused("%s is still catching up, %d log entries behind: try again soon", target, in.View.Applied-in.Peers[target].Applied)
	}
	if err := c.ready(ctx, target, h.Epoch); err != nil {
		return nil, err
	}
	o, leased := c.executor.current()
	if leased == nil || leased.Err() != nil {
		return nil, refused("%s has just stopped owning", self)
	}
	run := stageRun{stage: hook.Test, event: hook.Release, epoch: h.Epoch, cause: "a move is being prepared"}
	if err := c.executor.stage(leased, o.hooks, o.vips, run); err != nil {
		return nil, refused("the owner's own Test objects: %v", err)
	}
	index, err := c.order(ctx, &hadv1.MoveOrder{
		Operation: req.GetOperation(), FromEpoch: h.Epoch, Target: target, By: req.GetBy(), Reason: req.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	return &hadv1.MoveResponse{Operation: req.GetOperation(), From: self, Target: target, Index: index, FromEpoch: h.Epoch}, nil
}

// ready asks a node whether it could take an epoch over now; it runs its Test
// scripts for that.
func (c *Controller) ready(ctx context.Context, target string, epoch uint64) error {
	macs, err := c.macs()
	if err != nil {
		return err
	}
	ready, err := c.cfg.Peers.Prepare(ctx, target, &hadv1.PrepareRequest{Epoch: epoch, OwnerMacs: macs})
	if err != nil {
		return refused("%s could not be asked whether it is ready: %v", target, err)
	}
	if !ready.GetReady() {
		return refused("%s can't take over: %s", target, strings.Join(ready.GetReasons(), "; "))
	}
	return nil
}

func (c *Controller) order(ctx context.Context, o *hadv1.MoveOrder) (index uint64, err error) {
	v, err := c.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_MoveOrder{MoveOrder: o}})
	return v.Index, err
}

// retireLimit is how long an owner that wants to give up asks the node that is
// to follow. Then it releases without it.
const retireLimit = 10 * time.Second

// retire orders the move away from an owner that gives up of its own accord.
func (c *Controller) retire(ctx context.Context, s Step) error {
	_, leased := c.executor.current()
	ctx, end := both(leased, ctx) // past the lease there is nothing to move
	defer end()
	ctx, cancel := context.WithTimeout(ctx, retireLimit)
	defer cancel()
	err := c.ready(ctx, s.Target, s.Epoch)
	if err == nil {
		_, err = c.order(ctx, &hadv1.MoveOrder{
			Operation: c.operation(s.Epoch), FromEpoch: s.Epoch, Target: s.Target, By: "had on " + c.self.GetName(), Reason: s.Cause,
		})
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.noMove = s.Epoch
	}
	return err
}

// operation names the one move by which this run of had may leave an epoch of
// its own accord.
func (c *Controller) operation(epoch uint64) string {
	return fmt.Sprintf("%s-%d", c.cfg.Instance.GetNonce(), epoch)
}

// HandOver takes the addresses of an epoch down for the node that the log
// names as its next owner.
func (c *Controller) HandOver(ctx context.Context, req *hadv1.HandOverRequest) *hadv1.HandOverResponse {
	defer c.Wake()
	if err := c.executor.handOver(ctx, req.GetFromEpoch()); err != nil {
		return &hadv1.HandOverResponse{Why: err.Error()}
	}
	return &hadv1.HandOverResponse{Released: true}
}

func (c *Controller) macs() ([]string, error) {
	addrs, err := c.cfg.Network.HardwareAddrs()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out, nil
}
