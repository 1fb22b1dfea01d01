package simtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"had/cluster"
)

// disk holds raft's files of a host. What was written before a crash is there
// after it; a dead process writes nothing any more.
type disk struct {
	h   *host
	log *raft.InmemStore

	mu        sync.Mutex
	votes     map[string][]byte
	snapshots []*snapshot   // newest first
	sync      time.Duration // how long a write of the log takes, up to
	least     time.Duration // and at least
	full      bool
}

func newDisk(h *host) *disk {
	return &disk{h: h, log: raft.NewInmemStore(), votes: map[string][]byte{}}
}

// slow makes each write of the log take from least to most.
func (d *disk) slow(least, most time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.least, d.sync = least, most
}

// fill leaves no room on the disk, or makes some.
func (d *disk) fill(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// write does a write of a process: it takes its time, and a crash on the way
// finds it done, or not.
func (d *disk) write(l *life, do func() error) error {
	if err := l.pass(); err != nil {
		return err
	}
	d.mu.Lock()
	least, most, full := d.least, d.sync, d.full
	d.mu.Unlock()
	if full {
		return syscall.ENOSPC
	}
	took := least + d.h.draw(most-least)
	before := d.h.draw(took)
	if err := wait(context.Background(), before, l.dead); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return errors.Join(wait(context.Background(), took-before, l.dead), l.pass())
}

func (d *disk) open(p *process) *cluster.Storage {
	return &cluster.Storage{
		Log: &diskLog{InmemStore: d.log, d: d, p: p}, Stable: &diskVotes{d: d, p: p}, Snapshots: &diskSnapshots{d: d, p: p},
	}
}

type diskLog struct {
	*raft.InmemStore
	d *disk
	p *process
}

func (l *diskLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l *diskLog) StoreLogs(entries []*raft.Log) error {
	return l.d.write(l.p.life, func() error { return l.InmemStore.StoreLogs(entries) })
}

func (l *diskLog) DeleteRange(from, to uint64) error {
	if err := l.p.pass(); err != nil {
		return err
	}
	return l.InmemStore.DeleteRange(from, to)
}

// diskVotes is raft's stable store. Like the daemon's own it writes the term
// and the candidate of a vote together.
type diskVotes struct {
	d       *disk
	p       *process
	mu      sync.Mutex
	pending []byte
}

func (v *diskVotes) Set(key, val []byte) error {
	if err := v.p.pass(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	if string(key) == "LastVoteCand" && v.pending != nil {
		v.d.votes["LastVoteTerm"] = v.pending
		v.pending = nil
	}
	v.d.votes[string(key)] = bytes.Clone(val)
	return nil
}

func (v *diskVotes) Get(key []byte) ([]byte, error) {
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	val, ok := v.d.votes[string(key)]
	if !ok {
		return nil, errors.New("not found") // raft compares the text
	}
	return bytes.Clone(val), nil
}

func (v *diskVotes) SetUint64(key []byte, val uint64) error {
	data := binary.BigEndian.AppendUint64(nil, val)
	if string(key) == "LastVoteTerm" {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.pending = data
		return nil
	}
	return v.Set(key, data)
}

func (v *diskVotes) GetUint64(key []byte) (uint64, error) {
	data, err := v.Get(key)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(data), nil
}

type snapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

// diskSnapshots keeps the two newest whole snapshots.
type diskSnapshots struct {
	d *disk
	p *process
}

func (s *diskSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if err := s.p.pass(); err != nil {
		return nil, err
	}
	return &sink{s: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term,
		Configuration: c, ConfigurationIndex: at,
	}}, nil
}

func (s *diskSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	var out []*raft.SnapshotMeta
	for _, snap := range s.d.snapshots {
		meta := snap.meta
		out = append(out, &meta)
	}
	return out, nil
}

func (s *diskSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	for _, snap := range s.d.snapshots {
		if snap.meta.ID == id {
			meta := snap.meta
			return &meta, io.NopCloser(bytes.NewReader(snap.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("simulation: no snapshot %s", id)
}

type sink struct {
	s    *diskSnapshots
	meta raft.SnapshotMeta
	data []byte
}

func (k *sink) Write(b []byte) (int, error) {
	k.data = append(k.data, b...)
	return len(b), nil
}

func (k *sink) Close() error {
	if err := k.s.p.pass(); err != nil {
		return err
	}
	d := k.s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	k.meta.Size = int64(len(k.data))
	d.snapshots = append(d.snapshots, &snapshot{meta: k.meta, data: k.data})
	slices.SortFunc(d.snapshots, func(a, b *snapshot) int { return cmp.Compare(b.meta.Index, a.meta.Index) })
	d.snapshots = d.snapshots[:min(2, len(d.snapshots))]
	return nil
}

func (k *sink) ID() string    { return k.meta.ID }
func (k *sink) Cancel() error { return nil }
