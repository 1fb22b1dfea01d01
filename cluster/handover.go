package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// errHandingOn is what a leader says to commands while it hands on its office:
// a successor that lacked one could not win.
var errHandingOn = fmt.Errorf("%w any longer: it is handing leadership on", ErrNotLeader)

// entrance is where commands go into raft. Once it is shut and the last one
// inside has left, no other comes.
type entrance struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // nil: open; closed when it is shut and nobody is inside
}

// enter lets one in, who leaves as soon as raft has taken the command.
func (e *entrance) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.empty != nil {
		return errHandingOn
	}
	e.inside++
	return nil
}

func (e *entrance) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inside--; e.inside == 0 && e.empty != nil {
		close(e.empty)
	}
}

// shut lets nobody in until open. The channel is closed when nobody is inside;
// it is nil if somebody else has shut it.
func (e *entrance) shut() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.empty != nil {
		return nil
	}
	e.empty = make(chan struct{})
	if e.inside == 0 {
		close(e.empty)
	}
	return e.empty
}

func (e *entrance) open() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.empty = nil
}

// replicated is what the followers are known to have of a leader's log.
type replicated struct {
	mu    sync.Mutex
	term  uint64
	upTo  map[raft.ServerID]uint64
	grown chan struct{} // closed and replaced when it is more
}

func newReplicated() *replicated { return &replicated{grown: make(chan struct{})} }

// acknowledged notes that a follower has taken a message of a term.
func (r *replicated) acknowledged(id raft.ServerID, args *raft.AppendEntriesRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if args.Term < r.term {
		return
	}
	if args.Term > r.term {
		r.term, r.upTo = args.Term, map[raft.ServerID]uint64{}
	}
	if last := args.PrevLogEntry + uint64(len(args.Entries)); last > r.upTo[id] {
		r.upTo[id] = last
		close(r.grown)
		r.grown = make(chan struct{})
	}
}

// by returns up to which entry a follower has the log of a term, and a channel
// that is closed when somebody has more.
func (r *replicated) by(id raft.ServerID, term uint64) (uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.term != term {
		return 0, r.grown
	}
	return r.upTo[id], r.grown
}

// errTooLong is the cause of a wait that was given up.
var errTooLong = errors.New("it took too long")

// Transfer hands leadership to a node and waits until this one doesn't lead
// any more (Raft dissertation, §3.10): it takes no more commands, waits until
// that node has all it took before, and has it stand for election at once. raft
// has a transfer of its own, which may never end (raft#696).
//
// ctx bounds it: who serves on meanwhile, and so has a lease to renew, leaves it
// Timing.HandOver. Otherwise it takes as long as an election may last until that node
// has been asked, and as long again from then on. That one stands now, and a command
// that came into this log could keep it from being elected.
func (n *Node) Transfer(ctx context.Context, to string) error {
	id, ok := n.voterNamed(to)
	if !ok {
		return fmt.Errorf("hand leadership to %q: no node of that name votes", to)
	}
	if to == n.cfg.Instance.GetNode() {
		return fmt.Errorf("hand leadership to %s: that is this node", to)
	}
	empty := n.entrance.shut()
	if empty == nil {
		return fmt.Errorf("hand leadership to %s: it is being handed on already", to)
	}
	defer n.entrance.open()
	term := n.raft.CurrentTerm()
	err := n.complete(ctx, id, term, empty)
	if err == nil {
		err = n.succeedBy(ctx, id, raft.ServerAddress(to), term)
	}
	if err != nil {
		return fmt.Errorf("hand leadership to %s: %w", to, err)
	}
	return nil
}

// complete returns once nobody is inside the entrance and a follower has the whole
// log of this term.
func (n *Node) complete(ctx context.Context, id raft.ServerID, term uint64, empty <-chan struct{}) error {
	limit := n.cfg.Timing.Election
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooLong)
	defer cancel()
	if !n.inOffice(term) {
		return ErrNotLeader
	}
	if err := n.wait(ctx, empty); err != nil {
		return fmt.Errorf("wait until raft has taken the last command: %w", err)
	}
	// What raft has taken is in its log only after its disk's answer. A barrier
	// comes after all of it.
	if err := n.await(ctx, n.raft.Barrier(limit), limit); err != nil {
		return fmt.Errorf("commit the last command: %w", err)
	}
	for {
		if !n.inOffice(term) {
			return ErrNotLeader
		}
		has, more := n.replicated.by(id, term)
		if has >= n.raft.LastIndex() {
			return nil
		}
		if err := n.wait(ctx, more); err != nil {
			return fmt.Errorf("wait until it has the whole log: %w", err)
		}
	}
}

// succeedBy has a node that has the whole log stand for election, and returns when
// this one doesn't lead in the term any more.
func (n *Node) succeedBy(ctx context.Context, id raft.ServerID, to raft.ServerAddress, term uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, n.cfg.Timing.Election, errTooLong)
	defer cancel()
	asked := make(chan error, 1)
	go func() { // ends with the transport's own patience
		request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
		asked <- n.transport.TimeoutNow(id, to, request, &raft.TimeoutNowResponse{})
	}()
	select {
	case err := <-asked:
		if err != nil {
			return fmt.Errorf("ask it to stand for election: %w", err)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: ask it to stand for election: %w", ErrOutcomeUnknown, context.Cause(ctx))
	}
	defer n.signal()
	for {
		changed := n.LeadershipChanged()
		if !n.inOffice(term) {
			return nil
		}
		if err := n.wait(ctx, changed); err != nil {
			return fmt.Errorf("%w: wait until it is elected: %w", ErrOutcomeUnknown, err)
		}
	}
}

// wait returns when a channel delivers, and with an error when ctx or this node
// ends before.
func (n *Node) wait(ctx context.Context, news <-chan struct{}) error {
	select {
	case <-news:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.stopped:
		return errors.New("the node is stopping")
	}
}
