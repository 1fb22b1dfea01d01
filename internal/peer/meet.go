package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// How often a node that isn't born dials each member: fast at first and after
// every step, then slower.
const (
	meetSoonest = 100 * time.Millisecond
	meetLatest  = time.Second
)

// Meet returns the cluster's birth certificate. Unless the cluster was born
// before, it dials every member until all have agreed; Run must be serving
// meanwhile, and Meet is called once at a time. It returns an error matching
// ErrRefusedForGood when this node can't become part of the cluster, the
// context's error, or that of recording a step on disk.
func (p *Port) Meet(ctx context.Context) (Birth, error) {
	if b, ok := p.id.Birth(); ok {
		return b, nil
	}
	defer func() { // once nobody is being met any more
		if p.id.phase() == born {
			p.ledger.joined()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, m := range p.id.others() {
		wg.Go(func() { p.court(ctx, m) })
	}
	for {
		now, moved, err := p.id.advance()
		switch {
		case err != nil:
			return Birth{}, fmt.Errorf("meet the members: %w", err)
		case now == born:
			b, _ := p.id.Birth()
			what := "the cluster is born"
			if m, ok := b.member(p.self); !ok || m.NodeID != p.id.NodeID() {
				what = "this node has been added to the cluster"
			}
			p.log.Info(what, "cluster", b.Cluster, "cluster_id", b.ID)
			return b, nil
		case moved:
			p.log.Info("all members have met; waiting until all have recorded the birth certificate")
			p.kick()
			continue
		}
		if err := p.ledger.hopeless(now); err != nil {
			return Birth{}, fmt.Errorf("meet the members: %w", err)
		}
		select {
		case <-p.news:
		case <-ctx.Done():
			return Birth{}, ctx.Err()
		}
	}
}

// court meets m again and again, so that both learn of each other's progress.
func (p *Port) court(ctx context.Context, m Member) {
	wait := meetSoonest
	for {
		c, err := p.dial(ctx, kindMeet, m.Name)
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // the meeting is over
			}
			return
		}
		if err == nil {
			_ = c.Close() // all has been said
		}
		p.met(m, err)

		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, meetLatest)
		case <-p.kicks[m.Name]:
			wait = meetSoonest
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// met notes how the latest meeting with m went, and logs a change.
func (p *Port) met(m Member, err error) {
	p.mu.Lock()
	before := p.dialError[m.Name]
	p.dialError[m.Name] = err
	p.mu.Unlock()
	if err != nil && (before == nil || plainly(before) != plainly(err)) {
		p.log.Info("can't meet a member yet", "node", m.Name, "address", m.Address, "reason", plainly(err))
	}
	p.tell()
}

// kick makes every courtship dial now: there is something to tell.
func (p *Port) kick() {
	for _, k := range p.kicks {
		select {
		case k <- struct{}{}:
		default:
		}
	}
}

// Next is what a person does for a node that isn't part of its cluster yet.
func (p *Port) Next() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, err := range p.dialError {
		var no *RefusedError
		if errors.As(err, &no) && no.ToAdd {
			m, _ := p.id.member(p.self)
			return fmt.Sprintf("on a node of the cluster: hactl node add %s --address %s", p.self, m.Address)
		}
	}
	return "start had on the nodes that are missing"
}

// Waiting returns a sentence for each member the cluster's birth waits for,
// and nothing once it is born.
func (p *Port) Waiting() []string {
	now := p.id.phase()
	if now == born {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.id.others() {
		err := p.dialError[m.Name]
		if err == nil && p.id.confirmed(m.Name) {
			continue
		}
		what, why := "waiting to meet", "not tried yet"
		if now == locked {
			what, why = "waiting for the birth to be recorded by", "it still waits to meet others"
		}
		if err != nil {
			why = plainly(err)
		}
		out = append(out, fmt.Sprintf("%s %s (%s): %s", what, m.Name, m.Address, why))
	}
	return out
}
