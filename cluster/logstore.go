package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// checkedLog wraps raft's log store. It adds a CRC to what is written, for the
// store checks its files when it opens them, not what it reads later, and tells when a lease entry has been
// appended: from then on this node's wait starts again (`s` in
// docs/protocol.md). The call comes before StoreLogs returns, so before the
// entry is acknowledged.
type checkedLog struct {
	raft.LogStore
	leaseAppended func()
	halt          halt
	failure       atomic.Pointer[error]     // of the latest StoreLogs; nil: it succeeded
	writing       atomic.Pointer[time.Time] // since when StoreLogs is under way; nil: it isn't
	shortened     atomic.Bool               // the log's end was removed, and nothing was written since
}

// GetLog implements raft.LogStore.
func (c *checkedLog) GetLog(index uint64, l *raft.Log) error {
	err := c.LogStore.GetLog(index, l)
	if errors.Is(err, raft.ErrLogNotFound) {
		return err // raft asks for entries that a snapshot has replaced
	}
	if err != nil {
		return c.halt.with(fmt.Errorf("read log entry %d: %w: %w", index, ErrDamagedCommand, err))
	}
	if l.Index != index || !intact(l) {
		return c.halt.with(fmt.Errorf("read log entry %d: %w on this disk; this node has lost what it agreed to: see \"A node that lost its data folder\" in docs/operations.md", index, ErrDamagedCommand))
	}
	l.Extensions = nil
	return nil
}

// StoreLog implements raft.LogStore.
func (c *checkedLog) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (c *checkedLog) StoreLogs(logs []*raft.Log) error {
	lease := false
	out := make([]*raft.Log, len(logs))
	for i, l := range logs {
		lease = lease || l.Type == raft.LogCommand && carriesLease(l.Data)
		checked := *l
		checked.Extensions = binary.BigEndian.AppendUint32(nil, logCRC(l))
		out[i] = &checked
	}
	now := time.Now()
	c.writing.Store(&now)
	err := c.LogStore.StoreLogs(out)
	c.writing.Store(nil)
	if err != nil {
		c.failure.Store(&err)
		if c.shortened.Load() {
			// raft would go on as if the removed entries were still the log's end:
			// it misses them whenever a leader sends what follows them, and
			// never catches up (a TODO in its appendEntries).
			return c.halt.with(fmt.Errorf("replace the end of the log by another leader's: %w; had has to start again", err))
		}
		return err
	}
	c.failure.Store(nil)
	c.shortened.Store(false)
	if lease {
		c.leaseAppended()
	}
	return nil
}

// DeleteRange implements raft.LogStore.
func (c *checkedLog) DeleteRange(from, to uint64) error {
	last, err := c.LogStore.LastIndex()
	if err != nil {
		return err
	}
	if to >= last {
		c.shortened.Store(true)
	}
	return c.LogStore.DeleteRange(from, to)
}

// stuck reports whether the disk has been busy with entries for longer than
// patience.
func (c *checkedLog) stuck(patience time.Duration) bool {
	since := c.writing.Load()
	return since != nil && time.Since(*since) > patience
}

// problem says, for people, that the log can't be written at present, or not
// for much longer. raft goes on without a word: a leader steps down, a follower
// tries again until the disk takes the entry.
func (c *checkedLog) problem() string {
	if err := c.failure.Load(); err != nil {
		return fmt.Sprintf("the log can't be written (%v): this node counts for no decision until it can; is its disk full?", *err)
	}
	if s, ok := c.LogStore.(interface{ Problem() error }); ok && s.Problem() != nil {
		return fmt.Sprintf("the log has no room to go on for more than some minutes (%v); then this node counts for no decision; is its disk full?", s.Problem())
	}
	return ""
}

// haltingStable wraps raft's stable store: raft panics when it can't write its
// term.
type haltingStable struct {
	raft.StableStore
	halt halt
}

// SetUint64 implements raft.StableStore.
func (h *haltingStable) SetUint64(key []byte, val uint64) error {
	if err := h.StableStore.SetUint64(key, val); err != nil {
		return h.halt.with(fmt.Errorf("write raft's %s: %w", key, err))
	}
	return nil
}

// halt keeps raft from panicking over an error of its disk: once armed, it
// reports the error, so that the daemon releases what it holds and exits with
// a sentence, and never returns to raft. Until then the error goes back to
// the one who opens the node.
type halt struct {
	armed  *atomic.Bool
	report func(error)
	closed <-chan struct{}
}

func (h halt) with(err error) error {
	if !h.armed.Load() {
		return err
	}
	h.report(err)
	<-h.closed
	runtime.Goexit()
	return err
}

// intact tells whether an entry is what StoreLogs has written.
func intact(l *raft.Log) bool {
	return len(l.Extensions) == 4 && binary.BigEndian.Uint32(l.Extensions) == logCRC(l)
}

func logCRC(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crcOf(head[:], l.Data)
}
