package api

import (
	"sync"

	"had/cluster"
	"had/internal/policy"
)

// parsedPolicy keeps the policy that was asked for last: with a thousand addresses
// to parse it takes longer than the rest of an answer.
type parsedPolicy struct {
	mu     sync.Mutex
	text   string
	policy *policy.Policy
}

// of returns the policy of the log; nil when there is none, or none that this
// version can read: its nodes say so in their problems. Nobody may change it.
func (c *parsedPolicy) of(view cluster.View) *policy.Policy {
	if view.Policy == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if text := view.Policy.GetText(); c.text != text {
		c.text = text
		c.policy, _ = policy.ParsePolicy("policy.hcl", []byte(text))
	}
	return c.policy
}
