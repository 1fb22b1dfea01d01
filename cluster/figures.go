package cluster

import (
	"slices"
	"sync"
	"time"
)

// Figures are what a node measures of its part in the log.
type Figures struct {
	LastIndex, CommitIndex uint64
	Contact                time.Time // when a follower last heard from its leader; zero: it leads, or hasn't yet
	Commits                Latency   // of commands and barriers that this node proposed and a quorum accepted
}

// Latency is how long something took, in the sum and by bounds. The last of
// Counts is of what took longer than every bound.
type Latency struct {
	Bounds []time.Duration // ascending
	Counts []uint64        // not cumulative; one more than Bounds
	Sum    time.Duration
}

// commitBounds are around what commits take: a fast disk and network, the
// renewal of a lease, the end of one.
func commitBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{ms, 2 * ms, 5 * ms, 10 * ms, 20 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 5 * time.Second}
}

type latency struct {
	mu sync.Mutex
	Latency
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Counts == nil {
		l.Bounds = commitBounds()
		l.Counts = make([]uint64, len(l.Bounds)+1)
	}
	i, _ := slices.BinarySearch(l.Bounds, d)
	l.Counts[i]++
	l.Sum += d
}

func (l *latency) sofar() Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Latency{Bounds: l.Bounds, Counts: slices.Clone(l.Counts), Sum: l.Sum}
}

// Figures returns what is measured. It asks no disk and no other node.
func (n *Node) Figures() Figures {
	f := Figures{LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex(), Commits: n.commits.sofar()}
	if !n.Leadership().Leading {
		f.Contact = n.raft.LastContact()
	}
	return f
}

// AtStart is the last log index that was on this node's disk when it started.
func (n *Node) AtStart() uint64 { return n.atStart }
