package api

import (
	"sync"

	"had/cluster"
	"had/internal/policy"
)

// parsedPolicy keeps the policy that was asked for last: with a thousand addresses
// to parse it takes longer than the rest of an answer.
type parsedPolicy struct {
	mu      sync.Mutex
	version uint64 // 0: none yet
	policy  *policy.Policy
}

// of returns the policy of the log; nil when there is none, or none that this
// version can read: its nodes say so in their problems. Nobody may change it.
func (c *parsedPolicy) of(view cluster.View) *policy.Policy {
	if view.Policy == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := view.Policy.GetVersion(); c.version != v {
		c.version = v
		c.policy, _ = policy.ParsePolicy("policy.hcl", []byte(view.Policy.GetText()))
	}
	return c.policy
}
