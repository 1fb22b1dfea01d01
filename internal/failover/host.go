package failover

import (
	"fmt"
	"slices"

	"had/cluster"
	hadv1 "had/proto/had/v1"
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

// linkLost says which interface of a held address has lost its carrier. It looks
// once in detect, and when the kernel reports a change.
func (c *Controller) linkLost() string {
	now := c.cfg.Clock()
	c.mu.Lock()
	seen, changes := c.linksUp, c.changes
	c.mu.Unlock()
	if seen != 0 && now.Sub(seen) < c.cfg.Timing.Detect {
		return ""
	}
	why := c.linkDown()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linksUp = 0; why == "" && c.changes == changes {
		c.linksUp = now
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
