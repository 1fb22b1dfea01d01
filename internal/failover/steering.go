package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/check"
	"had/internal/clock"
	"had/internal/policy"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
)

// steering is what a node keeps track of by its own clock to decide by steer.go.
type steering struct {
	now clock.Source

	mu       sync.Mutex
	freeze   uint64        // log index of the freeze seen last
	seen     clock.Instant // when
	epoch    uint64        // for which back was seen
	back     string        // who would get a failback
	since    clock.Instant // from when on it could have, all the time
	orders   int           // of moves that this run has tried to order for checks, drains or failback
	declined map[string]declined
}

// declined is a node that could not take over when it was asked.
type declined struct {
	why   string
	until clock.Instant
	times int
}

// A node that declined isn't asked again for so long, and longer each time.
const (
	declinedFirst = 10 * time.Second
	declinedMost  = 10 * time.Minute
)

// complete adds to the inputs what they need for steered.
func (s *steering) complete(in *Inputs, results []check.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wall := time.Now()
	if f := in.View.Frozen; f != nil {
		if s.freeze != f.GetIndex() {
			s.freeze, s.seen = f.GetIndex(), in.Now
		}
		in.FreezeOver = !wall.Before(f.GetFreeze().GetUntil().AsTime()) || in.Now.Sub(s.seen) >= time.Duration(f.GetFreeze().GetForNs())
	}
	in.Flapping = flapping(in.View.Failovers, in.Policy, wall)
	in.Declined = map[string]string{}
	for node, d := range s.declined {
		if in.Now.Before(d.until) {
			in.Declined[node] = d.why
		}
	}
	if in.Holding.Phase != PhaseServing {
		s.back = ""
		return
	}
	in.Failing = failing(results)
	if at := s.failbackAt(*in); at != 0 && !in.Now.Before(at) {
		in.FailBack = s.back
	}
}

// failbackAt returns when the preferred node will have been able to own for long
// enough; 0: nobody is preferred, or failback is a person's. mu is held.
func (s *steering) failbackAt(in Inputs) clock.Instant {
	to := preferredNow(in)
	if in.Policy == nil || !in.Policy.Failback.Auto {
		to = ""
	}
	if to != s.back || in.Holding.Epoch != s.epoch {
		s.back, s.epoch, s.since = to, in.Holding.Epoch, in.Now
	}
	if to == "" {
		return 0
	}
	return s.since.Add(in.Policy.Failback.Delay)
}

// next numbers the orders.
func (s *steering) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.orders++
	return s.orders
}

// decline notes that a node could not take over.
func (s *steering) decline(node string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.declined[node]
	d.times++
	d.why, d.until = err.Error(), s.now().Add(doubling(d.times, declinedFirst, declinedMost))
	if s.declined == nil {
		s.declined = map[string]declined{}
	}
	s.declined[node] = d
}

// accept forgets that a node had declined.
func (s *steering) accept(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.declined, node)
}

// comesBack says what becomes of a failback, for status; empty: nothing.
func (s *steering) comesBack(p *policy.Policy, v cluster.View) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.back == "" || p == nil || !p.Failback.Auto:
		return ""
	case v.Frozen != nil:
		return fmt.Sprintf("failback to %s waits for the end of the freeze", s.back)
	case v.Held != nil:
		return fmt.Sprintf("failback to %s waits for hactl resume", s.back)
	}
	left := max(s.since.Add(p.Failback.Delay).Sub(s.now()), 0)
	return fmt.Sprintf("failback to %s in %s, unless something speaks against it until then", s.back, left.Round(time.Second))
}

// watchChecks has those checks run that are for this node's present place.
func (c *Controller) watchChecks(in Inputs, serving uint64) {
	switch {
	case c.checks == nil:
	case in.Witness || in.Policy == nil:
		c.checks.Watch(nil, 0)
	default:
		c.checks.Watch(in.Policy.Checks, serving)
	}
}

// serving is the epoch that this node serves; 0: none.
func (in Inputs) serving() uint64 {
	if in.Holding.Phase == PhaseServing {
		return in.Holding.Epoch
	}
	return 0
}

func (c *Controller) checkResults() []check.Result {
	if c.checks == nil {
		return nil
	}
	return c.checks.Results()
}

// checkChanged reports a check's new state. What follows from it doesn't wait
// for the journal.
func (c *Controller) checkChanged(ch check.Change) {
	c.Wake()
	level := c.cfg.Logger.Info
	if ch.State == check.Failing {
		level = c.cfg.Logger.Warn
	}
	level("a check has changed", "check", ch.Check.Name, "state", ch.State.String(), "epoch", ch.Epoch, "detail", ch.Detail)
	r := &hadv1.Report{At: timestamppb.Now(), Node: c.self.GetName(), Body: &hadv1.Report_CheckChange{CheckChange: &hadv1.CheckChange{
		Check: ch.Check.Name, Failing: ch.State == check.Failing, Epoch: ch.Epoch,
		Times: uint32(ch.Times), Detail: steps.Printable(ch.Detail), //nolint:gosec // counted since had began
	}}}
	if _, err := c.cfg.Journal.Append(context.WithoutCancel(c.executor.life), r); err != nil {
		c.cfg.Logger.Error("a report was lost", "check", ch.Check.Name, "error", err)
	}
}

// checkStatus is what the checks say, for status.
func checkStatus(all []check.Result) (out []*hadv1.CheckStatus) {
	for _, r := range all {
		s := &hadv1.CheckStatus{
			Name: r.Check.Name, Kind: string(r.Check.Kind), On: string(r.Check.On),
			Times: uint32(r.Times), Detail: steps.Printable(r.Detail), //nolint:gosec // counted since had began
		}
		switch r.State {
		case check.Passing:
			s.State = hadv1.CheckStatus_STATE_PASSING
		case check.Failing:
			s.State = hadv1.CheckStatus_STATE_FAILING
		case check.Unknown:
		}
		out = append(out, s)
	}
	return out
}

// softOrder orders a move away from an owner that could as well stay. When it
// comes to nothing the owner does, and another node is asked.
func (c *Controller) softOrder(ctx context.Context, s Step) error {
	_, leased := c.executor.current()
	ctx, end := both(leased, ctx) // past the lease there is nothing to move
	defer end()
	ctx, cancel := context.WithTimeout(ctx, retireLimit)
	defer cancel()
	ctx, done := c.unlessPressed(ctx)
	defer done()
	err := c.ready(ctx, s.Target, s.Epoch)
	if err == nil {
		_, err = c.order(ctx, &hadv1.MoveOrder{
			Operation: fmt.Sprintf("%s-%d", c.operation(s.Epoch), c.steering.next()), FromEpoch: s.Epoch, Target: s.Target,
			By: "had on " + c.self.GetName(), Reason: steps.Printable(s.Cause), Checks: s.Checks,
		})
	}
	if err != nil {
		c.steering.decline(s.Target, err)
		return err
	}
	c.steering.accept(s.Target)
	return nil
}

// unlessPressed returns a context that ends early when this owner is to stop or has
// lost its link: another node's scripts may take long to say whether it is ready.
func (c *Controller) unlessPressed(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	c.acquiring = func() { cancel(errors.New("had is stopping")) }
	if c.stopping {
		c.acquiring()
	}
	c.mu.Unlock()
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(c.cfg.Timing.Detect)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if why := c.linkDown(); why != "" {
				cancel(errors.New(why))
			}
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		watching.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.acquiring = nil
	}
}

// Drain takes a node out of ownership. It must be called on the leader.
func (c *Controller) Drain(ctx context.Context, req *hadv1.DrainRequest) (*hadv1.DrainResponse, error) {
	in, _ := c.gather()
	owns := in.View.Newest().GetInstance().GetNode() == req.GetNode()
	if owns && c.member(req.GetNode()) != nil && req.GetNode() == c.self.GetName() && len(candidates(in)) == 0 {
		return nil, refused("%s owns, and no other node can%s", req.GetNode(), othersCant(in))
	}
	v, err := c.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{
		Node: req.GetNode(), By: req.GetBy(), Reason: req.GetReason(),
	}}})
	if err != nil {
		return nil, err
	}
	return &hadv1.DrainResponse{Index: v.Index, Owns: owns}, nil
}

// preferredTarget returns the node to which a person's failback goes.
func (c *Controller) preferredTarget(in Inputs) (string, error) {
	self := c.self.GetName()
	if in.Policy == nil || len(in.Policy.Prefer) == 0 {
		return "", refused("the policy has no prefer, so no node is preferred: hactl move --to NODE")
	}
	cant := ""
	for _, name := range in.Policy.Prefer {
		p, known := in.Peers[name]
		switch {
		case name == self:
			return "", refused("%s owns already, and no node that could own is preferred to it%s", self, cant)
		case known && p.canOwn():
			return name, nil
		default:
			cant += fmt.Sprintf("; %s: %s", name, reasonOf(p))
		}
	}
	return "", refused("no node that the policy prefers can own%s", cant)
}
