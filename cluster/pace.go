package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// longestStall is how long a leader may be held up, on a busy or virtual
// machine, without a follower missing it.
const longestStall = 150 * time.Millisecond

// quietFor is how long a follower with this detect may be left without a
// message. Renewals (Timing.Renew) keep within it while all is well; what
// is left of detect is for a renewal that takes its time and for the heartbeat
// that goes out then.
func quietFor(detect time.Duration) time.Duration {
	return max(0, min(7*detect/10, detect-longestStall))
}

// pace holds back raft's heartbeats while other messages do their work. To a
// follower's clocks, raft's and the detector's, any message of the leader is a
// sign of life, and most of the time a lease renewal has just been one. So a
// heartbeat leaves when the latest message that the follower answered is as
// old as that follower may be left without one, and no later. One whose detect
// isn't known gets all that raft sends.
//
// Nothing of the lease rests on heartbeats: their pace decides when an election
// is held, and no more than that.
type pace struct {
	detect time.Duration // this node's
	met    chan struct{} // capacity 1: somebody answers whose detect isn't known
	news   chan struct{} // capacity 1: what is known of a detect has changed
	beats  sync.WaitGroup

	mu    sync.Mutex
	peers map[raft.ServerID]*paced
}

// paced is what is known of one follower.
type paced struct {
	detect time.Duration // 0: not known
	absent bool          // the latest message failed
	term   uint64        // of the latest message that it answered
	sent   time.Time     // when that left
	held   *time.Timer   // ends when the heartbeat held back is due; nil: none was
}

func newPace(detect time.Duration) *pace {
	return &pace{detect: detect, met: make(chan struct{}, 1), news: make(chan struct{}, 1), peers: map[raft.ServerID]*paced{}}
}

// of returns what is known of a follower. mu is held.
func (p *pace) of(id raft.ServerID) *paced {
	f := p.peers[id]
	if f == nil {
		f = &paced{absent: true}
		p.peers[id] = f
	}
	return f
}

// left returns how long a heartbeat of a term is to be held back. mu is held.
func (p *pace) left(f *paced, term uint64) time.Duration {
	if f.detect == 0 || f.term != term {
		return 0
	}
	return quietFor(min(p.detect, f.detect)) - time.Since(f.sent)
}

// answered notes that a follower has answered a message of a term.
func (p *pace) answered(id raft.ServerID, term uint64, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.of(id)
	if f.absent {
		f.absent = false
		poke(p.met)
	}
	if f.term == term && f.sent.After(sent) {
		return // heartbeats and entries go different ways
	}
	again := f.held != nil && f.term == term
	f.term, f.sent = term, sent
	if left := p.left(f, term); again && left > 0 {
		f.held.Reset(left)
	}
}

// failed notes that a follower didn't answer. Its next run may have another
// detect.
func (p *pace) failed(id raft.ServerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.of(id)
	f.absent, f.detect = true, 0
}

// stranger reports whether a follower answers whose detect isn't known.
func (p *pace) stranger(id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.peers[id]
	return f != nil && !f.absent && f.detect == 0
}

// learn notes what a node says of its detect.
func (p *pace) learn(id raft.ServerID, detect time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.of(id)
	if detect = max(0, detect); f.detect != detect {
		f.detect = detect
		poke(p.news)
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// hold returns once a heartbeat of a term is due: true, unless meanwhile the
// node has lost its office in that term or was closed.
func (p *pace) hold(id raft.ServerID, term uint64, inOffice func(term uint64) bool, closed <-chan struct{}) bool {
	for {
		p.mu.Lock()
		f := p.of(id)
		left := p.left(f, term)
		if left <= 0 {
			p.mu.Unlock()
			return true
		}
		due := time.NewTimer(left)
		f.held = due
		p.mu.Unlock()
		select {
		case <-due.C:
		case <-closed:
			due.Stop()
			return false
		}
		if !inOffice(term) {
			return false
		}
	}
}

// impatient returns the followers whose detect is shorter than this node's, whose
// raft has only one pace for all, and how often the shortest calls for a
// heartbeat: a fifth of it is what a leader of its own kind would let pass.
func (p *pace) impatient() (followers []raft.ServerID, every time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := p.detect
	for id, f := range p.peers {
		if f.detect > 0 && f.detect < p.detect {
			followers, least = append(followers, id), min(least, f.detect)
		}
	}
	return followers, least / 5
}

// run has the leader send heartbeats to impatient followers until ctx ends. All
// nodes should have the same detect, and don't while an operator changes it on
// one after the other. beat returns when the follower has answered, or failed to;
// wait joins those that are still under way then.
func (p *pace) run(ctx context.Context, beat func(raft.ServerID)) {
	waiting := map[raft.ServerID]chan struct{}{} // for an answer, until it is closed
	for {
		var next <-chan time.Time // never, while raft's own pace is enough
		followers, every := p.impatient()
		if len(followers) > 0 {
			next = time.After(every)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.news:
			continue
		case <-next:
		}
		for _, id := range followers {
			select {
			case <-waiting[id]:
			default:
				if waiting[id] != nil {
					continue
				}
			}
			answered := make(chan struct{})
			waiting[id] = answered
			p.beats.Go(func() { beat(id); close(answered) })
		}
	}
}

// wait returns when no heartbeat of run's is under way any more. run has ended.
func (p *pace) wait() { p.beats.Wait() }
