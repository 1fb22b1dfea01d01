package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// hearing stands between the transport and raft. It passes on everything that
// arrives, and notes what that says about who leads: when it arrived, not when
// raft, which may be waiting for its disk, came round to it.
type hearing struct {
	from   <-chan raft.RPC
	decode func([]byte) raft.ServerAddress
	toRaft chan raft.RPC
	asked  chan struct{} // capacity 1: somebody has asked for this node's vote
	spoke  chan struct{} // capacity 1: a leader is heard

	mu    sync.Mutex
	last  contact
	rival campaign
}

// contact is the latest sign of life of a leader, by this node's clock.
type contact struct {
	leader string // empty: none since the start of this node
	term   uint64
	at     time.Time // when it arrived; the start of this node if none has
}

// sameTurn reports whether two contacts are with one leader in one term.
func (c contact) sameTurn(o contact) bool { return c.leader == o.leader && c.term == o.term }

// campaign is the latest request for this node's vote.
type campaign struct {
	term   uint64
	at     time.Time
	behind bool // the candidate's log is shorter than this node's, which refuses it
}

func newHearing(t raft.Transport) *hearing {
	return &hearing{
		from: t.Consumer(), decode: t.DecodePeer, toRaft: make(chan raft.RPC),
		asked: make(chan struct{}, 1), spoke: make(chan struct{}, 1),
		last: contact{at: time.Now()},
	}
}

// passOn works until ctx ends. Nothing reaches raft before or after.
func (h *hearing) passOn(ctx context.Context, r *raft.Raft) {
	for {
		select {
		case rpc := <-h.from:
			if h.greeted(rpc) {
				continue
			}
			h.note(rpc, r)
			select {
			case h.toRaft <- rpc:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// greeting is a message of no term: a node sends it to keep a connection open
// on which it may ask for a vote some day. raft would answer alike.
func greeting() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
}

// greeted answers a greeting, which is none of raft's business.
func (h *hearing) greeted(rpc raft.RPC) bool {
	m, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || m.Term != 0 {
		return false
	}
	rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: greeting().RPCHeader}, nil)
	return true
}

func (h *hearing) note(rpc raft.RPC, r *raft.Raft) {
	now, term := time.Now(), r.CurrentTerm()
	h.mu.Lock()
	defer h.mu.Unlock()
	hear := func(addr []byte, of uint64) {
		if of >= term && of >= h.last.term { // a deposed leader is none
			h.last = contact{leader: string(h.decode(addr)), term: of, at: now}
			poke(h.spoke)
		}
	}
	switch m := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		hear(m.Addr, m.Term)
	case *raft.InstallSnapshotRequest:
		hear(m.Addr, m.Term)
	case *raft.RequestVoteRequest:
		if m.Term > h.last.term {
			h.rival = campaign{term: m.Term, at: now, behind: m.LastLogIndex < r.LastIndex()}
			poke(h.asked)
		}
	}
}

// heard returns the latest contact.
func (h *hearing) heard() contact {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// rivalAfter returns the latest campaign for a term later than that of a
// contact; false: there was none.
func (h *hearing) rivalAfter(c contact) (campaign, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rival, h.rival.term > c.term
}

// timeoutNow hands raft the message with which a leader hands on its office:
// a follower that gets it stands for election at once, without a pre-vote, and
// is voted for even by those who know a leader (raft's timeoutNow and
// requestVote). raft takes a message only when it works on it at once. One that
// it is too busy for is dropped, for it may be wrong a moment later, and so is
// one that somebody else's request for a vote overtakes.
func (h *hearing) timeoutNow(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	rpc := raft.RPC{
		Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
		RespChan: make(chan raft.RPCResponse, 1), // raft answers into it; nobody needs to know
	}
	select {
	case h.toRaft <- rpc:
		return true
	case <-h.asked:
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
