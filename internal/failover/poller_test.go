package failover

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// patient answers for its health as the test says.
type patient struct {
	Peers

	mu     sync.Mutex
	asked  int
	health *hadv1.HealthResponse // nil: it doesn't answer
}

func (p *patient) Health(ctx context.Context, _ string) (*hadv1.HealthResponse, error) {
	p.mu.Lock()
	p.asked++
	h := p.health
	p.mu.Unlock()
	if h == nil {
		<-ctx.Done()
		return nil, errors.New("no answer")
	}
	return h, nil
}

func (p *patient) is(h *hadv1.HealthResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health = h
}

func (p *patient) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// health as beta tells it.
func health(run string, eligible bool) *hadv1.HealthResponse {
	return &hadv1.HealthResponse{Instance: &hadv1.Instance{Node: "beta", Nonce: run}, Eligible: eligible, AppliedIndex: 9}
}

func TestPoller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		beta, changed, joined := &patient{}, 0, 0
		log := &steeredLog{diary: &diary{}, state: cluster.NewState(), changed: make(chan struct{}), leads: make(chan struct{})}
		p := &poller{
			peers: beta, log: log, members: func() []*hadv1.Member { return []*hadv1.Member{{Name: "beta"}} }, every: 2 * time.Second, now: bubbleClock,
			changed: func() { changed++ }, joined: func() { joined++ }, last: map[string]PeerHealth{}, news: make(chan struct{}, 1),
		}
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() { cancel(); <-done }()
		is := func(what string, want Peer, changes, joins int) {
			t.Helper()
			synctest.Wait()
			got := p.view()["beta"]
			if got.Fresh != want.Fresh || got.Eligible != want.Eligible || got.Applied != want.Applied {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
			if changed != changes || joined != joins {
				t.Errorf("%s: %d changes and %d returns were told, want %d and %d", what, changed, joined, changes, joins)
			}
		}

		time.Sleep(10 * time.Second)
		if beta.times() != 0 {
			t.Error("a follower asks for health")
		}
		beta.is(health("1", true))
		log.lead()
		time.Sleep(time.Millisecond)
		is("asked at once by a new leader", Peer{Fresh: true, Eligible: true, Applied: 9}, 1, 0)
		time.Sleep(10 * time.Second)
		is("nothing new", Peer{Fresh: true, Eligible: true, Applied: 9}, 1, 0)
		beta.is(health("1", false))
		time.Sleep(2 * time.Second)
		is("no longer eligible", Peer{Fresh: true, Applied: 9}, 2, 0)
		beta.is(health("2", false))
		time.Sleep(2 * time.Second)
		is("started again", Peer{Fresh: true, Applied: 9}, 3, 0)

		// A policy is applied: what beta says is about the one before until it
		// has that, too.
		before := beta.times()
		p.expect(12)
		time.Sleep(50 * time.Millisecond)
		if beta.times() != before+1 {
			t.Errorf("%d questions when a new policy is in force, want one at once", beta.times()-before)
		}
		h := health("2", false)
		h.AppliedIndex = 12
		beta.is(h)
		time.Sleep(catchUp)
		is("has the new policy", Peer{Fresh: true, Applied: 12}, 3, 0)
		before = beta.times()
		p.expect(12)
		time.Sleep(900 * time.Millisecond)
		if n := beta.times() - before; n > 1 {
			t.Errorf("%d questions about a policy that everybody has", n)
		}
		p.expect(9)

		beta.is(nil)
		before = beta.times()
		time.Sleep(6 * time.Second)
		is("silent", Peer{Applied: 12}, 4, 0)
		if n := beta.times() - before; n > 4 {
			t.Errorf("%d questions in 6 s to a node that lets each wait for 2 s", n)
		}
		h.Eligible = true
		beta.is(h)
		time.Sleep(4 * time.Second)
		is("back", Peer{Fresh: true, Eligible: true, Applied: 12}, 5, 1)
	})
}
