package cluster

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	hadv1 "had/proto/had/v1"
)

// fsm adapts State to raft. It decides nothing.
type fsm struct {
	mu      sync.Mutex
	state   *State
	changed chan struct{} // closed and replaced at every change but a renewal's
	plain   records       // in which nothing can be newer

	restored func()      // a snapshot has replaced the state
	fatal    func(error) // the node must stop: its state can't be trusted
	broken   error       // set once; the state no longer follows the log
}

func newFSM(restored func(), fatal func(error)) *fsm {
	return &fsm{state: NewState(), changed: make(chan struct{}), plain: recordsWithout(isEnum), restored: restored, fatal: fatal}
}

// Apply implements raft.FSM; it returns a Verdict.
func (f *fsm) Apply(l *raft.Log) any {
	cmd, err := decodeCommand(l.Data)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.broken != nil:
	case err != nil:
		f.broken = fmt.Errorf("apply log entry %d: %w; see \"A node that lost its data folder\" in docs/operations.md", l.Index, err)
		f.fatal(f.broken)
	case !f.plain.has(cmd) && newer(cmd):
		// Passing it over would let this node's state drift away from the
		// others' without a sign.
		f.broken = fmt.Errorf("apply log entry %d: it is of a kind that this version of had doesn't know; update had on this node", l.Index)
		f.fatal(f.broken)
	case tooOld(cmd.GetLevelRise()) != nil:
		f.broken = fmt.Errorf("apply log entry %d: %w", l.Index, tooOld(cmd.GetLevelRise()))
		f.fatal(f.broken)
	}
	if f.broken != nil {
		return Verdict{Index: l.Index, Refused: f.broken.Error()}
	}
	v := f.state.Apply(Entry{Index: l.Index, Term: l.Term}, cmd)
	// A lease that goes on is no news, and comes several times a second: whoever
	// waits for its end has a clock for that.
	if cmd.GetLeaseRenew() == nil {
		f.tell()
	}
	return v
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	data, err := f.state.Encode()
	if err != nil {
		return nil, err
	}
	return snapshotBytes(data), nil
}

// Restore implements raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read the snapshot: %w", err)
	}
	s, err := DecodeState(data)
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(err, errTooOld) {
		f.broken = err // neither another try nor another snapshot helps
		f.fatal(err)
	}
	if err != nil {
		return err
	}
	f.state = s
	f.restored()
	f.tell()
	return nil
}

// tell wakes whoever waits for a change. mu is held.
func (f *fsm) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// view returns the state and a channel that is closed when it changes by more
// than a lease's renewal.
func (f *fsm) view() (View, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.View(), f.changed
}

// roster returns who belongs to the cluster; nil: it isn't born in the log yet.
func (f *fsm) roster() *hadv1.Roster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.roster
}

func (f *fsm) levelInForce() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.levelInForce()
}

func (f *fsm) history(after uint64) ([]*hadv1.Event, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.History(after)
}

// saved returns the state as a snapshot holds it, to be read only.
func (f *fsm) saved() *hadv1.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.message()
}

type snapshotBytes []byte

// Persist implements raft.FSMSnapshot.
func (b snapshotBytes) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(b); err != nil {
		_ = sink.Cancel() // the write's error is the one that counts
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshotBytes) Release() {}
