package failover

import (
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Parts of Health for those who need no more: they read no script and no kernel.

// Drained says who has taken this node out of ownership; empty: nobody.
func (c *Controller) Drained() string {
	view, _ := c.cfg.Log.View()
	if d := view.Drained[c.self.GetName()]; d != nil {
		return drainedBy(d)
	}
	return ""
}

// Checks is what the checks that run here say.
func (c *Controller) Checks() []*hadv1.CheckStatus { return checkStatus(c.checkResults()) }

// Syncs is how a policy's syncs are on this node, and why it should not own with
// the data it has.
func (c *Controller) Syncs(p *policy.Policy) (all []*hadv1.SyncStatus, trouble []string) {
	if c.cfg.Mirror == nil || p == nil {
		return nil, nil
	}
	if c.executor.held().Epoch == 0 {
		view, _ := c.cfg.Log.View()
		trouble = c.cfg.Mirror.Trouble(p, view)
	}
	return c.cfg.Mirror.Status(p), trouble
}

// Tokens is what this node has of a policy's tokens, and why it could not put
// them in place.
func (c *Controller) Tokens(p *policy.Policy) (all *hadv1.TokenHealth, trouble []string) {
	if c.cfg.Tokens == nil || c.self.GetWitness() || p == nil {
		return nil, nil
	}
	all, _ = c.cfg.Tokens.Health(p)
	return all, c.tokenTrouble(p)
}
