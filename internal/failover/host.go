package failover

import (
	"fmt"
	"slices"
	"time"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// unguarded says why nothing would take the addresses down if had could not;
// empty: the guard would.
func (c *Controller) unguarded() string {
	if c.cfg.Guard == nil {
		return ""
	}
	if err := c.cfg.Guard.Alive(); err != nil {
		return "it has no guard: " + err.Error()
	}
	return ""
}

// ungated says why the gate that this owner's terms promise to its successors
// isn't there; empty: it is, or it was not promised.
func (c *Controller) ungated(own *hadv1.Claim) string {
	if c.cfg.Gate == nil || !slices.Contains(own.GetTerms().GetLayers(), cluster.LayerGate) {
		return ""
	}
	if err := c.cfg.Gate.Problem(); err != nil {
		return "its packet gate is not everywhere: " + err.Error()
	}
	return ""
}

const (
	// lateReport is how long after a report the kernel may hold back the next: its
	// link watch lets a second pass between two (vip.Watcher). After a quiet time it
	// tells at once, and nobody has to ask.
	lateReport = 2 * time.Second
	// linkAgain is when links are looked at all the same.
	linkAgain = 10 * time.Second
)

// linksSeen is what is known of the links of what is held.
type linksSeen struct {
	held    *[]vip.Address
	changes int           // of the kernel's, see Controller.changes
	changed clock.Instant // when the latest were noticed; 0: none
	up      clock.Instant // when all links were last seen to be up; 0: look again
}

// linkLost says which interface of a held address has lost its carrier. It looks
// when something has changed, once in detect for a while after it, and now and then.
func (c *Controller) linkLost() string {
	now, held := c.cfg.Clock(), c.holder.held.Load()
	c.mu.Lock()
	if c.links.changes != c.changes || c.links.held != held {
		c.links = linksSeen{held: held, changes: c.changes, changed: now}
	}
	seen := c.links
	c.mu.Unlock()
	trust := c.cfg.Timing.Detect
	if seen.up.Sub(seen.changed) > lateReport {
		trust = max(trust, linkAgain)
	}
	if seen.up != 0 && now.Sub(seen.up) < trust {
		return ""
	}
	why := c.linkDown()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.links.changes != seen.changes || c.links.held != held: // look again
	case why == "":
		c.links.up = now
	default:
		c.links.up = 0
	}
	return why
}

func (c *Controller) linkDown() string {
	looked := map[string]bool{}
	for _, a := range c.holder.addresses() {
		if looked[a.Interface] {
			continue
		}
		looked[a.Interface] = true
		up, err := c.cfg.Network.Carrier(a.Interface)
		if err != nil {
			return fmt.Sprintf("interface %s of %s can't be read: %v", a.Interface, a.Addr, err)
		}
		if !up {
			return fmt.Sprintf("interface %s of %s has lost its link", a.Interface, a.Addr)
		}
	}
	return ""
}
