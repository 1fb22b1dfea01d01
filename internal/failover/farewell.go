package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// farewells carries into the log what guards have said of their dead daemons:
// those of other nodes, which this node heard, and that of this node's own
// earlier run. Every node that heard one passes it on; State.Apply takes it
// once.
type farewells struct {
	log    Log
	peers  Peers
	logger hclog.Logger
	own    *hadv1.Farewell // of this node's earlier run; nil: none
	taken  func() error    // own is in the log

	mu      sync.Mutex
	pending []*hadv1.Farewell // oldest epoch first, each once
	changed chan struct{}     // capacity 1
}

// add takes a farewell, unless it waits already.
func (f *farewells) add(fw *hadv1.Farewell) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := func(p *hadv1.Farewell) bool {
		return p.GetNodeId() == fw.GetNodeId() && p.GetReleased().GetEpoch() == fw.GetReleased().GetEpoch()
	}
	if slices.ContainsFunc(f.pending, known) {
		return
	}
	f.pending = append(f.pending, fw)
	slices.SortStableFunc(f.pending, func(a, b *hadv1.Farewell) int {
		return cmp.Compare(a.GetReleased().GetEpoch(), b.GetReleased().GetEpoch())
	})
	poke(f.changed)
}

// waits reports whether a farewell of a node is not in the log yet.
func (f *farewells) waits(nodeID string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.pending, func(p *hadv1.Farewell) bool { return p.GetNodeId() == nodeID })
}

func (f *farewells) first() *hadv1.Farewell {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) == 0 {
		return nil
	}
	return f.pending[0]
}

// done forgets a farewell that the log has taken, or will never take.
func (f *farewells) done(fw *hadv1.Farewell) {
	if fw == f.own {
		if err := f.taken(); err != nil {
			f.logger.Warn("the farewell is told again at the next start, to no effect", "error", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(p *hadv1.Farewell) bool { return p == fw })
}

// Run passes on until ctx ends.
func (f *farewells) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		leadership := f.log.LeadershipChanged()
		if f.deliver(ctx) {
			retry.Stop()
		} else {
			retry.Reset(retryDelay)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		case <-leadership:
		case <-f.changed:
		}
	}
}

// deliver passes on what waits and reports whether nothing is left.
func (f *farewells) deliver(ctx context.Context) bool {
	for fw := f.first(); fw != nil; fw = f.first() {
		err := carry(ctx, f.log, f.peers, &hadv1.Command{Record: &hadv1.Command_Farewell{Farewell: fw}})
		refused, isRefused := errors.AsType[*cluster.RefusedError](err)
		switch {
		case err == nil:
			f.logger.Info("passed on what a guard said of its dead daemon", "node", fw.GetReleased().GetReporter().GetNode(), "epoch", fw.GetReleased().GetEpoch())
		case isRefused:
			f.logger.Warn("the log doesn't take what a guard said of its dead daemon", "epoch", fw.GetReleased().GetEpoch(), "reason", refused.Reason)
		default:
			return false
		}
		f.done(fw)
	}
	return true
}

// carry commits a command here or through the leader.
func carry(ctx context.Context, log Log, peers Peers, cmd *hadv1.Command) error {
	// A stopped leader's kernel still acknowledges what it will never answer,
	// and this node's own log may have lost what it was given while it was cut
	// off.
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	l := log.Leadership()
	switch {
	case l.Leading:
		_, err := log.Propose(ctx, cmd)
		return err
	case l.Leader == "":
		return errNoLeader
	}
	resp, err := peers.Propose(ctx, l.Leader, cmd)
	if err != nil {
		return err
	}
	if resp.GetRefused() != "" {
		return fmt.Errorf("pass a command on: %w", &cluster.RefusedError{Reason: resp.GetRefused(), Index: resp.GetIndex()})
	}
	return nil
}

// TakeFarewell takes what another node's guard says of its dead daemon. If
// that daemon led, nobody need wait until its silence is noticed.
func (c *Controller) TakeFarewell(fw *hadv1.Farewell) {
	c.cfg.Logger.Info("a guard says that its daemon has died", "node", fw.GetReleased().GetReporter().GetNode(), "epoch", fw.GetReleased().GetEpoch())
	c.farewells.add(fw)
	c.cfg.Log.LeaderGone(fw.GetReleased().GetReporter().GetNode())
}
