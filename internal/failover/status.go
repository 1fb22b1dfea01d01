package failover

import (
	"had/internal/clock"
	"had/internal/evidence"
)

// Status is this node's own view of the ring, for the API.
type Status struct {
	Holding    Holding
	Why        string        // why nothing happens, or what is waited for
	Again      clock.Instant // when the wait is over; 0: not a wait for time
	LeaseUntil clock.Instant // 0: no lease
	Answers
	Fencing  map[uint64]evidence.Tried // of silent owners of volumes, by epoch
	Failback string                    // what becomes of the policy's failback; empty: nothing
}

// Answers are what the other nodes have answered this one, by name; while another
// leads they are old.
type Answers struct {
	Peers map[string]PeerHealth // the latest of each
	Fresh map[string]bool       // which of the members have answered lately
}

// Answers returns what the other nodes have answered.
func (c *Controller) Answers() Answers {
	a := Answers{Peers: c.poller.health(), Fresh: map[string]bool{}}
	for n, p := range c.poller.view() {
		a.Fresh[n] = p.Fresh
	}
	return a
}

// Status returns what the ring knows at present.
func (c *Controller) Status() Status {
	c.mu.Lock()
	plan := c.plan
	c.mu.Unlock()
	_, until, _ := c.lease.Held()
	s := Status{Holding: c.executor.held(), Why: plan.Why, Again: plan.Again, LeaseUntil: until, Answers: c.Answers(), Fencing: c.evidence.Tries()}
	if s.Holding.Phase == PhaseServing {
		view, _ := c.cfg.Log.View()
		p, _ := c.parsed.of(view.Policy)
		s.Failback = c.steering.comesBack(p, view)
	}
	if s.Why == "" {
		s.Why = c.executor.busyWith()
	}
	return s
}

// Why returns why nothing happens at present.
func (c *Controller) Why() string { return c.Status().Why }

// KernelChanged tells that something was changed in the kernel that may be
// one of the addresses, or a link: they are looked after at once.
func (c *Controller) KernelChanged() {
	c.mu.Lock()
	c.changes++
	c.mu.Unlock()
	c.keeper.nudge()
	if c.checks != nil {
		c.checks.KernelChanged()
	}
	c.Wake()
}
