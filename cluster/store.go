package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"had/internal/boltfile"
)

// Storage is where raft keeps its log, its votes and its snapshots.
type Storage struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	closers   []io.Closer
}

// Close closes the files.
func (s *Storage) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

const boltLockTimeout = time.Second

func boltOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: boltLockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// OpenStorage opens or creates raft's files in dir: raft-vote.db, which keeps
// another had away, log/ and snapshots/. The error says what is locked, damaged
// or unwritable.
func OpenStorage(dir string, logs io.Writer) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the raft folder: %w", err)
	}
	votes, err := openVotes(filepath.Join(dir, "raft-vote.db"))
	if err != nil {
		return nil, err
	}
	s := &Storage{Stable: votes, closers: []io.Closer{votes}}
	log, err := openLogFile(dir)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Log, s.closers = log, append(s.closers, log)
	snaps, err := raft.NewFileSnapshotStore(dir, 2, logs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the snapshots in %s: %w", dir, err), s.Close())
	}
	s.Snapshots = &checkedSnapshots{snaps}
	if err := checkSnapshots(s.Snapshots, s.Log); err != nil {
		return nil, errors.Join(damagedFile(filepath.Join(dir, "snapshots"), err), s.Close())
	}
	return s, nil
}

// ErrDamagedFile is returned by OpenStorage for a file that isn't a whole
// database any more.
var ErrDamagedFile = errors.New("the file is damaged")

// openBolt opens a file that boltfile finds sound, and turns bbolt's errors
// into sentences. All keys are in the named bucket: under another name they
// would be taken for lost.
func openBolt(path, bucket string) (*bbolt.DB, error) {
	err := checkBolt(path, bucket)
	if err == nil {
		var db *bbolt.DB
		if db, err = bbolt.Open(path, 0o600, boltOptions()); err == nil {
			return db, nil
		}
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another had uses it", path)
	case errors.Is(err, errUnsound), errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, damagedFile(path, err)
	}
	return nil, fmt.Errorf("open %s: %w", path, err)
}

func damagedFile(path string, why error) error {
	return fmt.Errorf("open %s: %w (%w); keep a copy; this node has lost what it agreed to and can't go on with it: see \"A node that lost its data folder\" in docs/operations.md", path, ErrDamagedFile, why)
}

var errUnsound = errors.New("not a whole database")

// checkBolt reads a file whole before bbolt does, which for a damaged page may
// end the process with a stack trace.
func checkBolt(path, bucket string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil // bbolt makes it
	}
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() && info.Size() < int64(2*os.Getpagesize()) {
		return fmt.Errorf("%w: it has only %d bytes", errUnsound, info.Size())
	}
	opts := boltOptions()
	opts.ReadOnly = true
	lock, err := bbolt.Open(path, 0o600, opts)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // only locked
	err = boltfile.Walk(path, func(name string, _, _ []byte) error {
		if name != bucket {
			return fmt.Errorf("it has a part %q", name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errUnsound, err)
	}
	return nil
}

// voteStore is raft's StableStore. raft writes a vote as two keys, the term
// and then the candidate; a crash between them would leave an old candidate
// under a new term and let the node vote twice (raft#661). So the term waits
// in memory until the candidate comes, and both go in one transaction; the
// vote is not sent before that.
//
// Each value ends with a checksum of its key and itself: a flipped bit in a
// vote would be a second one.
//
// Invariant: Get answers from the file alone. A term whose candidate could
// not be written must not be seen beside the candidate of an earlier vote:
// raft would take that pair for a vote it has given and confirm it.
type voteStore struct {
	db *bbolt.DB

	mu          sync.Mutex
	pendingTerm []byte // LastVoteTerm not yet written; nil: none
}

const (
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyCurrentTerm  = "CurrentTerm"
	keyChecked      = "checked" // is there since the values have checksums
)

var errNotFound = errors.New("not found") // raft compares the text

func stableBucket() []byte { return []byte("stable") }

func openVotes(path string) (*voteStore, error) {
	db, err := openBolt(path, string(stableBucket()))
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(stableBucket())
		if err != nil {
			return err
		}
		return checkVotes(b)
	})
	if errors.Is(err, errUnsound) {
		err = damagedFile(path, err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the votes: %w", err), db.Close())
	}
	return &voteStore{db: db}, nil
}

// checkVotes verifies all values. Those of an earlier had get their checksums.
func checkVotes(b *bbolt.Bucket) error {
	if b.Get([]byte(keyChecked)) != nil {
		return b.ForEach(func(k, v []byte) error {
			_, err := unsealed(k, v)
			return err
		})
	}
	old := map[string][]byte{keyChecked: nil}
	err := b.ForEach(func(k, v []byte) error {
		known := (string(k) == keyCurrentTerm || string(k) == keyLastVoteTerm) && len(v) == 8
		if !known && string(k) != keyLastVoteCand {
			return fmt.Errorf("%w: %q has %d bytes", errUnsound, k, len(v))
		}
		old[string(k)] = slices.Clone(v)
		return nil
	})
	for k, v := range old {
		if err == nil {
			err = b.Put([]byte(k), sealed([]byte(k), v))
		}
	}
	return err
}

func sealed(key, val []byte) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(val), crcOf(key, val))
}

func unsealed(key, stored []byte) ([]byte, error) {
	n := len(stored) - 4
	if n < 0 || binary.BigEndian.Uint32(stored[n:]) != crcOf(key, stored[:n]) {
		return nil, fmt.Errorf("%w: %q doesn't match its checksum", errUnsound, key)
	}
	return stored[:n], nil
}

// Close closes the file.
func (v *voteStore) Close() error { return v.db.Close() }

// Set implements raft.StableStore.
func (v *voteStore) Set(key, val []byte) error {
	var term []byte
	if string(key) == keyLastVoteCand {
		term = v.takePendingTerm()
	}
	return v.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(stableBucket())
		if term != nil {
			if err := b.Put([]byte(keyLastVoteTerm), sealed([]byte(keyLastVoteTerm), term)); err != nil {
				return err
			}
		}
		return b.Put(key, sealed(key, val))
	})
}

func (v *voteStore) takePendingTerm() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	term := v.pendingTerm
	v.pendingTerm = nil
	return term
}

// Get implements raft.StableStore.
func (v *voteStore) Get(key []byte) ([]byte, error) {
	var out []byte
	err := v.db.View(func(tx *bbolt.Tx) error {
		val := tx.Bucket(stableBucket()).Get(key)
		if val == nil {
			return errNotFound
		}
		val, err := unsealed(key, val)
		out = append(out, val...)
		return err
	})
	return out, err
}

// SetUint64 implements raft.StableStore.
func (v *voteStore) SetUint64(key []byte, val uint64) error {
	data := binary.BigEndian.AppendUint64(nil, val)
	if string(key) == keyLastVoteTerm {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.pendingTerm = data
		return nil
	}
	return v.Set(key, data)
}

// GetUint64 implements raft.StableStore.
func (v *voteStore) GetUint64(key []byte) (uint64, error) {
	data, err := v.Get(key)
	if err != nil {
		return 0, err
	}
	if len(data) != 8 {
		return 0, fmt.Errorf("read %s: %d bytes where 8 belong", key, len(data))
	}
	return binary.BigEndian.Uint64(data), nil
}

// CheckStorage says what is missing from a raft folder that has been used: a
// node that lost its vote or its log must not go on as if it were new.
func CheckStorage(dir string) error {
	const remedy = "the data folder was emptied or damaged: put it back, or see \"A node that lost its data folder\" in docs/operations.md"
	if _, err := os.Stat(filepath.Join(dir, "raft-vote.db")); err != nil {
		return fmt.Errorf("look for this node's raft state: %w; %s", err, remedy)
	}
	if _, err := os.Stat(filepath.Join(dir, oldLogName)); err == nil {
		return nil
	}
	files, err := os.ReadDir(filepath.Join(dir, logFolder))
	if err != nil {
		return fmt.Errorf("look for this node's raft state: %w; %s", err, remedy)
	}
	if len(files) == 0 {
		return fmt.Errorf("look for this node's raft state: %s is empty; %s", filepath.Join(dir, logFolder), remedy)
	}
	return nil
}
