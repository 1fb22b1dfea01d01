package cluster

import (
	"sync"
	"time"
)

// support is a node's consent that somebody stands against a leader. Like a
// vote it goes to one at a time, another node or this one, for two that stand
// in one term split the votes. Unlike a vote it lapses.
type support struct {
	mu   sync.Mutex
	turn contact   // of the leader; its time doesn't matter
	rank int       // of who has it
	self bool      // that is this node
	at   time.Time // since when; asking again buys nobody more time
}

// give supports another node for a while, and reports whether it may stand.
func (s *support) give(turn contact, rank int, hold time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.turn.sameTurn(turn) && time.Since(s.at) < hold
	switch {
	case taken && !s.self && s.rank == rank:
	case taken:
		return false
	default:
		s.turn, s.rank, s.self, s.at = turn, rank, false, time.Now()
	}
	return true
}

// take has this node support itself, and reports whether it may stand: not
// when it has supported a better one since it began to ask.
func (s *support) take(turn contact, rank int, asked time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn.sameTurn(turn) && !s.self && s.at.After(asked) && s.rank < rank {
		return false
	}
	s.turn, s.rank, s.self, s.at = turn, rank, true, time.Now()
	return true
}

// leave ends this node's support of itself.
func (s *support) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn, s.self, s.at = contact{}, false, time.Time{}
}

// given returns since when another node is supported; the zero time: none is.
func (s *support) given(turn contact) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.self || !s.turn.sameTurn(turn) {
		return time.Time{}
	}
	return s.at
}
