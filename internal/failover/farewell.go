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
	"google.golang.org/protobuf/proto"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// farewells carries into the log what guards have said of their daemons: those
// of other nodes, which this node heard, and that of this node's own earlier run.
// Every node that heard one passes it on; State.Apply takes it once.
type farewells struct {
	log    Log
	peers  Peers
	logger hclog.Logger

	mu      sync.Mutex
	pending []*word       // oldest epoch first, each once
	changed chan struct{} // capacity 1
}

// word is one thing a guard has said: that its daemon has died and all of the
// epoch is given back, or that the daemon lives and the volumes are safe.
type word struct {
	of       *hadv1.Instance // the guarded run of had
	epoch    uint64
	farewell *hadv1.Farewell // nil: it is secured
	secured  *hadv1.Secured  // nil: it is a farewell
	taken    func() error    // what this node's earlier run has kept is in the log; nil: nothing is kept
}

// command is the record that puts the word into the log.
func (w *word) command() *hadv1.Command {
	if w.farewell != nil {
		return &hadv1.Command{Record: &hadv1.Command_Farewell{Farewell: w.farewell}}
	}
	return &hadv1.Command{Record: &hadv1.Command_Secured{Secured: w.secured}}
}

// compareWords puts the older epoch first and, in one epoch, what a guard says
// while had lives before what it says at its death.
func compareWords(a, b *word) int {
	last := func(w *word) int {
		if w.farewell != nil {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(last(a), last(b)))
}

// add takes a farewell, unless it waits already. taken, if there is one, is called
// when the log has it.
func (f *farewells) add(fw *hadv1.Farewell, taken func() error) {
	f.take(&word{of: fw.GetReleased().GetReporter(), epoch: fw.GetReleased().GetEpoch(), farewell: fw, taken: taken})
}

// addSecured takes what a guard says of volumes likewise.
func (f *farewells) addSecured(s *hadv1.Secured, taken func() error) {
	f.take(&word{of: s.GetInstance(), epoch: s.GetEpoch(), secured: s, taken: taken})
}

func (f *farewells) take(w *word) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := func(p *word) bool {
		return p.of.GetNodeId() == w.of.GetNodeId() && compareWords(p, w) == 0
	}
	if slices.ContainsFunc(f.pending, known) {
		return
	}
	f.pending = append(f.pending, w)
	slices.SortStableFunc(f.pending, compareWords)
	poke(f.changed)
}

// waits reports whether a farewell of a node is not in the log yet.
func (f *farewells) waits(nodeID string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.pending, func(p *word) bool { return p.farewell.GetNodeId() == nodeID })
}

func (f *farewells) first() *word {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) == 0 {
		return nil
	}
	return f.pending[0]
}

// done forgets a word that the log has taken, or will never take.
func (f *farewells) done(w *word) {
	if w.taken != nil {
		if err := w.taken(); err != nil {
			f.logger.Warn("what the guard said is told again at the next start, to no effect", "error", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = slices.DeleteFunc(f.pending, func(p *word) bool { return p == w })
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

// courtesy is how long a node that doesn't lead leaves a farewell to the leader,
// who was told as well and needs the log for the takeover.
const courtesy = 25 * time.Millisecond

// deliver passes on what waits and reports whether nothing is left.
func (f *farewells) deliver(ctx context.Context) bool {
	for w := f.first(); w != nil; w = f.first() {
		if w.farewell != nil {
			f.letLeader(ctx)
		}
		err := carry(ctx, f.log, f.peers, w.command())
		refused, isRefused := errors.AsType[*cluster.RefusedError](err)
		switch {
		case err == nil:
			f.logger.Info("passed on what a guard said of its daemon", "node", w.of.GetNode(), "epoch", w.epoch)
		case isRefused && f.closed(w.epoch):
			f.logger.Info("what a guard said of its daemon is known: the epoch is closed", "node", w.of.GetNode(), "epoch", w.epoch)
		case isRefused:
			f.logger.Warn("the log doesn't take what a guard said of its daemon", "node", w.of.GetNode(), "epoch", w.epoch, "reason", refused.Reason)
		default:
			return false
		}
		f.done(w)
	}
	return true
}

// closed reports whether an epoch isn't open here: a guard says that its volumes are
// safe even if had has said so itself, for it can't know who is heard first.
func (f *farewells) closed(epoch uint64) bool {
	view, _ := f.log.View()
	return view.Claim(epoch) == nil
}

// letLeader waits until this node leads, for courtesy at the most.
func (f *farewells) letLeader(ctx context.Context) {
	timer := time.NewTimer(courtesy)
	defer timer.Stop()
	for changed := f.log.LeadershipChanged(); !f.log.Leadership().Leading; changed = f.log.LeadershipChanged() {
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
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
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { deposed(ctx, log, l.Leader, cancel) })
	resp, err := peers.Propose(ctx, l.Leader, cmd)
	if err != nil {
		return err
	}
	if resp.GetRefused() != "" {
		return fmt.Errorf("pass a command on: %w", &cluster.RefusedError{Reason: resp.GetRefused(), Index: resp.GetIndex()})
	}
	return nil
}

// deposed calls then once a node doesn't lead any more, unless ctx ends before: its
// successor waits for what it was told, and may be this node.
func deposed(ctx context.Context, log Log, leader string, then func()) {
	for {
		changed := log.LeadershipChanged()
		if log.Leadership().Leader != leader {
			then()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// TakeFarewell takes what another node's guard says of its dead daemon. If
// that daemon led, nobody need wait until its silence is noticed.
func (c *Controller) TakeFarewell(fw *hadv1.Farewell) {
	c.cfg.Logger.Info("a guard says that its daemon has died", "node", fw.GetReleased().GetReporter().GetNode(), "epoch", fw.GetReleased().GetEpoch())
	c.farewells.add(fw, nil)
	// A later run of that daemon that led would have closed the epoch first.
	view, _ := c.cfg.Log.View()
	dead := fw.GetReleased().GetReporter()
	certain := proto.Equal(view.Claim(fw.GetReleased().GetEpoch()).GetInstance(), dead)
	c.cfg.Log.LeaderGone(dead.GetNode(), certain)
}

// TakeSecured takes what another node's guard says of volumes that it has made
// safe while its daemon lives. That daemon may lead, and be well enough to do so:
// nobody stands for election because of it.
func (c *Controller) TakeSecured(s *hadv1.Secured) {
	c.cfg.Logger.Info("a guard says that it has made the volumes of its daemon's epoch safe", "node", s.GetInstance().GetNode(), "epoch", s.GetEpoch())
	c.farewells.addSecured(s, nil)
}
