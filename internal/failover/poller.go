package failover

import (
	"context"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// poller asks the other nodes for their health while this node leads.
type poller struct {
	peers   Peers
	log     Log
	members func() []*hadv1.Member // the others
	every   time.Duration          // while all is well; twice as often otherwise
	now     clock.Source
	changed func() // somebody's health is different
	joined  func() // somebody answers who didn't

	// news: a policy is in force of which no answer says anything yet.
	news chan struct{} // capacity 1

	mu     sync.Mutex
	last   map[string]PeerHealth
	policy uint64 // log index of the policy in force; an older answer is about another
}

// PeerHealth is the latest answer of a node.
type PeerHealth struct {
	At     clock.Instant // when it was asked; 0: it never answered
	Health *hadv1.HealthResponse
	Err    string // why the latest question got no answer; empty: it did
}

// catchUp is how soon a node is asked again that has not applied the policy in
// force: a moment later it has.
const catchUp = 100 * time.Millisecond

// expect says which policy is in force.
func (p *poller) expect(policy uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if policy > p.policy {
		p.policy = policy
		poke(p.news)
	}
}

// wait returns when to ask again: on a beat, or sooner while a node is missing or
// can't own.
func (p *poller) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := p.every
	for _, m := range p.members() {
		l := p.last[m.GetName()]
		missing := l.Health == nil || l.Err != ""
		switch {
		case !missing && l.Health.GetAppliedIndex() < p.policy:
			wait = min(wait, catchUp)
		case missing || !m.GetWitness() && !l.Health.GetEligible():
			wait = min(wait, p.every/2)
		}
	}
	if wait == p.every {
		return clock.UntilBeat(wait)
	}
	return wait
}

// Run polls until ctx ends.
func (p *poller) Run(ctx context.Context) error {
	timer := time.NewTimer(p.every)
	defer timer.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	asking := map[string]chan struct{}{}
	for {
		leadership := p.log.LeadershipChanged()
		var next <-chan time.Time // never, while another leads
		if p.log.Leadership().Leading {
			next = timer.C
			timer.Reset(p.wait())
			for _, m := range p.members() {
				done := asking[m.GetName()]
				select {
				case <-done: // nil: never asked, blocks
				default:
					if done != nil {
						continue // the last question is still out
					}
				}
				done = make(chan struct{})
				asking[m.GetName()] = done
				wg.Go(func() {
					defer close(done)
					p.ask(ctx, m.GetName())
				})
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		case <-p.news:
		case <-leadership:
		}
	}
}

func (p *poller) ask(ctx context.Context, node string) {
	ctx, cancel := context.WithTimeout(ctx, p.every)
	defer cancel()
	t0 := p.now()
	h, err := p.peers.Health(ctx, node)

	p.mu.Lock()
	was := p.last[node]
	is := PeerHealth{At: t0, Health: h}
	if err != nil {
		is = PeerHealth{At: was.At, Health: was.Health, Err: err.Error()}
	}
	p.last[node] = is
	p.mu.Unlock()

	if err == nil && was.Err != "" {
		p.joined()
	}
	if (err == nil) != (was.Err == "" && was.Health != nil) || !sameEligibility(was.Health, h) {
		p.changed()
	}
}

func sameEligibility(a, b *hadv1.HealthResponse) bool {
	return b == nil || a.GetEligible() == b.GetEligible() && proto.Equal(a.GetInstance(), b.GetInstance())
}

// freshFor is how many polls may go without an answer before a node counts as
// silent.
const freshFor = 2

// peers returns what Decide needs to know.
func (p *poller) view() map[string]Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]Peer{}
	for _, m := range p.members() {
		l := p.last[m.GetName()]
		out[m.GetName()] = Peer{
			Witness:  m.GetWitness(),
			Fresh:    l.Health != nil && p.now().Sub(l.At) < freshFor*p.every,
			Eligible: l.Health.GetEligible(), Reasons: l.Health.GetReasons(), Applied: l.Health.GetAppliedIndex(),
		}
	}
	return out
}

// health returns the latest answers, for status.
func (p *poller) health() map[string]PeerHealth {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.last)
}
