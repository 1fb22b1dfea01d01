package failover

import (
	"context"
	"time"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// tokenFlush is how long a release waits for the log to take what a service
// has changed just before it was stopped. Its clients connect anew otherwise.
const tokenFlush = time.Second

// equip puts what the services need in place. With before there are no volumes
// that a token's place could be on, so the tokens need not wait for it: clients
// would.
func (x *executor) equip(ctx context.Context, epoch uint64, t *turn, before func(ctx context.Context, epoch uint64) error) error {
	place := func() error { return x.placeTokens(ctx, epoch, t) }
	if before != nil {
		if err := place(); err != nil {
			return err
		}
		if err := before(ctx, epoch); err != nil {
			return err
		}
		place = func() error { return nil }
	}
	if err := x.mountAll(ctx, epoch, t); err != nil {
		return err
	}
	return place()
}

// placeTokens puts what clients reconnect with in place, before PreAcq starts
// the services. ctx ends with the lease.
func (x *executor) placeTokens(ctx context.Context, epoch uint64, t *turn) error {
	if x.tokens == nil {
		return nil
	}
	if len(t.policy.Tokens) == 0 {
		return x.tokens.Place(ctx, ctx, epoch, t.policy) // it takes nothing any more
	}
	_, leased := x.current()
	return t.timeline.Run("tokens", func() error { return x.tokens.Place(ctx, leased, epoch, t.policy) })
}

// flushTokens takes what the services have changed last, once PreRel has stopped
// them. It never stops a release.
func (x *executor) flushTokens(ctx context.Context, epoch uint64) {
	if x.tokens == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tokenFlush)
	defer cancel()
	if err := x.tokens.Flush(ctx, epoch); err != nil {
		x.logger.Warn("the last change of a reconnect token may be lost", "epoch", epoch, "error", err)
	}
}

// tokensNow are a policy's tokens as the log has them now.
func (x *executor) tokensNow(p *policy.Policy) []*hadv1.HeldToken {
	if len(p.Tokens) == 0 {
		return nil
	}
	view, _ := x.log.View()
	return heldTokens(p.Tokens, view)
}

// heldTokens are tokens as the log and the journal name them.
func heldTokens(tokens []policy.Token, view cluster.View) []*hadv1.HeldToken {
	var out []*hadv1.HeldToken
	for _, t := range tokens {
		out = append(out, &hadv1.HeldToken{
			Name: t.Name, Location: t.Location, Replicated: t.Replicate, Version: view.Token(t.Name).GetCurrent().GetVersion(),
		})
	}
	return out
}

// tokenPlaces are what scripts are told.
func tokenPlaces(tokens []policy.Token) map[string]string {
	out := map[string]string{}
	for _, t := range tokens {
		out[t.Name] = t.Location
	}
	return out
}

// tokenTrouble says why this node could not put a policy's tokens in place.
func (c *Controller) tokenTrouble(p *policy.Policy) []string {
	if c.cfg.Tokens == nil || c.self.GetWitness() {
		return nil
	}
	return c.cfg.Tokens.Trouble(p)
}

// tokenHealth adds what this node has of a policy's tokens.
func (c *Controller) tokenHealth(h *hadv1.HealthResponse, p *policy.Policy) {
	if c.cfg.Tokens == nil || c.self.GetWitness() {
		return
	}
	tokens, problems := c.cfg.Tokens.Health(p)
	h.Tokens, h.Problems = tokens, append(h.Problems, problems...)
}
