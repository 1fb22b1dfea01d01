package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// tokenFlush is how long a release waits for the log to take what a service
// has changed just before it was stopped. Its clients connect anew otherwise.
const tokenFlush = time.Second

// A token's folder may be on a file system that doesn't answer. The owner, which
// renews its lease meanwhile, waits for it so long, and then gives the turn up; a
// node that only asks whether it could own doesn't wait much.
const (
	tokenLimit = 10 * time.Second
	tokenLook  = time.Second
)

var errTokensHang = errors.New("a reconnect token's folder or key hangs in the kernel: its disk or server doesn't answer")

// orLeave does what may hang, and leaves it alone when ctx ends: the goroutine is
// then the one that nobody joins.
func orLeave(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", errTokensHang, context.Cause(ctx))
	}
}

// equip puts what the services need in place. Without volumes that a token's place
// could be on, the tokens need not wait for before: clients would.
func (x *executor) equip(ctx context.Context, epoch uint64, t *turn, before func(ctx context.Context, epoch uint64) error) error {
	place := func() error { return x.placeTokens(ctx, epoch, t) }
	if before != nil && len(t.volumes) == 0 {
		if err := place(); err != nil {
			return err
		}
		place = func() error { return nil }
	}
	if before != nil {
		if err := before(ctx, epoch); err != nil {
			return err
		}
	}
	if err := x.mountAll(ctx, epoch, t, t.volumes); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	_, leased := x.current()
	place := func() error {
		return orLeave(ctx, func() error { return x.tokens.Place(ctx, leased, epoch, t.policy) })
	}
	if len(t.policy.Tokens) == 0 {
		return place() // it takes nothing any more
	}
	return t.timeline.Run("tokens", place)
}

// flushTokens takes what the services have changed last, once PreRel has stopped
// them. It never stops a release.
func (x *executor) flushTokens(ctx context.Context, epoch uint64) {
	if x.tokens == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tokenFlush)
	defer cancel()
	if err := orLeave(ctx, func() error { return x.tokens.Flush(ctx, epoch) }); err != nil {
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
	return c.tokenLooks.trouble(func() []string { return c.cfg.Tokens.Trouble(p) })
}

// tokenLooks are looks for trouble with tokens, which the ring must not hang in.
type tokenLooks struct {
	mu    sync.Mutex
	hangs int // that were given up and have not returned
}

// trouble returns what look does, or that it hangs. While one does, no other begins.
func (l *tokenLooks) trouble(look func() []string) []string {
	l.mu.Lock()
	hangs := l.hangs
	l.mu.Unlock()
	if hangs > 0 {
		return []string{errTokensHang.Error()}
	}
	found := make(chan []string, 1)
	go func() { found <- look() }()
	timer := time.NewTimer(tokenLook)
	defer timer.Stop()
	select {
	case why := <-found:
		return why
	case <-timer.C:
	}
	l.count(1)
	go func() { <-found; l.count(-1) }()
	return []string{errTokensHang.Error()}
}

func (l *tokenLooks) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hangs += n
}

// tokenHealth adds what this node has of a policy's tokens.
func (c *Controller) tokenHealth(h *hadv1.HealthResponse, p *policy.Policy) {
	if c.cfg.Tokens == nil || c.self.GetWitness() {
		return
	}
	tokens, problems := c.cfg.Tokens.Health(p)
	h.Tokens, h.Problems = tokens, append(h.Problems, problems...)
}
