package journal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"had/internal/durable"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// The file's buckets and the keys of metaBucket.
const (
	metaBucket    = "meta"
	reportsBucket = "reports" // entryKey to hadv1.Report
	runningBucket = "running" // hook.Running.ID to hook.Running in JSON

	identityKey = "identity" // identity in JSON
	seqKey      = "seq"      // the newest number of the file's stream
	tenureKey   = "tenure"   // storedTenure in JSON; absent when there is none
	sealKey     = "seal"
)

const (
	formatVersion = 1
	lockTimeout   = time.Second

	// reserved is disk space the file takes at once, for some hundred reports:
	// a disk that others fill must not keep a release from being written down.
	reserved = 4 << 20
)

// identity says whose file it is.
type identity struct {
	Version int    `json:"version"`
	NodeID  string `json:"node_id"`
	Stream  string `json:"stream"`
}

// Open opens the journal of the node with the given ID, or creates it. Only
// one process can have it open. A damaged file is an error that says what to
// do: what it knew can't be made up.
func Open(path, nodeID string) (*Journal, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path, nodeID); err != nil {
			return nil, fmt.Errorf("create the journal %s: %w", path, err)
		}
	case err != nil:
		return nil, fmt.Errorf("open the journal: %w", err)
	case info.Mode().IsRegular() && info.Size() < int64(2*os.Getpagesize()):
		return nil, damaged(path, fmt.Errorf("it has only %d bytes", info.Size()))
	}
	if err := reserve(path); err != nil {
		return nil, err
	}
	j := &Journal{
		path:    path,
		nodeID:  nodeID,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		next:    newAttempt(),
		changed: make(chan struct{}),
	}
	if err := j.open(); err != nil {
		return nil, err
	}
	go j.write() // joined by Close
	return j, nil
}

// open locks the file, verifies it and then has bbolt read it.
func (j *Journal) open() error {
	lock, err := openDB(j.path, true)
	if err != nil {
		return err
	}
	err = verify(j.path)
	if err := lock.Close(); err != nil {
		return fmt.Errorf("open the journal %s: %w", j.path, err)
	}
	if err != nil {
		return damaged(j.path, err)
	}
	j.db, err = openDB(j.path, false)
	if err != nil {
		return err
	}
	if err := j.read(); err != nil {
		return errors.Join(err, j.db.Close())
	}
	return nil
}

// read takes the file into memory.
func (j *Journal) read() error {
	var id identity
	err := j.db.View(func(tx *bolt.Tx) error {
		if err := json.Unmarshal(tx.Bucket([]byte(metaBucket)).Get([]byte(identityKey)), &id); err != nil {
			return fmt.Errorf("read whose it is: %w", err)
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(key, value []byte) error { return j.load(string(name), key, value) })
		})
	})
	switch {
	case err != nil:
		return damaged(j.path, err)
	case id.Version != formatVersion:
		return fmt.Errorf("open the journal %s: it has format %d, this had knows %d", j.path, id.Version, formatVersion)
	case id.NodeID != j.nodeID:
		// Its reports would be delivered under this node's name.
		return fmt.Errorf("open the journal %s: it belongs to the node with ID %s, this one has %s; the data folder was put together from two", j.path, id.NodeID, j.nodeID)
	}
	j.stream = id.Stream
	return nil
}

func openDB(path string, readOnly bool) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: lockTimeout, ReadOnly: readOnly,
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType, // a list on disk is a page that verify can't check
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open the journal %s: another had is running with this data folder (it holds the lock)", path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, damaged(path, err)
	case err != nil:
		return nil, fmt.Errorf("open the journal %s: %w", path, err)
	}
	return db, nil
}

// damaged says what to do about a file that can't be trusted.
func damaged(path string, err error) error {
	return fmt.Errorf("the journal %s is damaged: %w; make sure that this host holds none of the cluster's addresses (ip addr), move the file away (mv %s %s.damaged) and start again: reports that were not in the log yet are lost", path, err, path, path)
}

// create makes a journal under another name first, so that a file at path is
// always a whole one.
func create(path, nodeID string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	id, err := json.Marshal(identity{Version: formatVersion, NodeID: nodeID, Stream: rand.Text()})
	if err != nil {
		return err
	}
	db, err := openDB(fresh, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{metaBucket, reportsBucket, runningBucket} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		var s seal
		if err := s.set(tx, metaBucket, []byte(identityKey), id); err != nil {
			return err
		}
		return s.save(tx)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// reserve takes the disk space in advance. On a file system that can't, or
// that is full already, the journal works without.
func reserve(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, reserved)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("reserve disk space for the journal %s: %w", path, err)
	}
	return nil
}

// load takes one key into memory.
func (j *Journal) load(bucket string, key, value []byte) error {
	switch bucket {
	case reportsBucket:
		r := new(hadv1.Report)
		if err := proto.Unmarshal(value, r); err != nil {
			return fmt.Errorf("read report %x: %w", key, err)
		}
		k, err := decodeUint(key)
		if err != nil {
			return fmt.Errorf("read report %x: %w", key, err)
		}
		j.lastKey = k // keys come in order
		j.pending = append(j.pending, &entry{key: k, report: r, settled: true, stored: true})
	case runningBucket:
		var r hook.Running
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("read a running hook: %w", err)
		}
		j.interrupted = append(j.interrupted, r)
	case metaBucket:
		switch string(key) {
		case seqKey:
			n, err := decodeUint(value)
			if err != nil {
				return fmt.Errorf("read the number of the last report: %w", err)
			}
			j.seq, j.storedSeq = n, n
		case tenureKey:
			j.tenure = append([]byte{}, value...)
			if _, err := decodeTenure(j.tenure); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal is the XOR of the checksums of all keys and values, kept up to date
// with each write. verify finds with it flipped bytes and pages that came back
// without some of their keys.
type seal uint64

func loadSeal(tx *bolt.Tx) (seal, error) {
	meta := tx.Bucket([]byte(metaBucket))
	if meta == nil {
		return 0, errors.New("it holds no journal")
	}
	n, err := decodeUint(meta.Get([]byte(sealKey)))
	if err != nil {
		return 0, fmt.Errorf("read its checksum: %w", err)
	}
	return seal(n), nil
}

// set sets key, or removes it when value is nil.
func (s *seal) set(tx *bolt.Tx, bucket string, key, value []byte) error {
	b := tx.Bucket([]byte(bucket))
	if b == nil {
		return fmt.Errorf("bucket %q is missing", bucket)
	}
	if old := b.Get(key); old != nil {
		*s ^= sum(bucket, key, old)
	}
	if value == nil {
		return b.Delete(key)
	}
	*s ^= sum(bucket, key, value)
	return b.Put(key, value)
}

func (s *seal) save(tx *bolt.Tx) error {
	return tx.Bucket([]byte(metaBucket)).Put([]byte(sealKey), encodeUint(uint64(*s)))
}

// sum is the checksum of one key. The lengths keep apart what the bytes alone
// would not.
func sum(bucket string, key, value []byte) seal {
	h := crc64.New(crc64.MakeTable(crc64.ECMA))
	for _, part := range [][]byte{[]byte(bucket), key, value} {
		_, _ = h.Write(encodeUint(uint64(len(part)))) // a hash takes everything
		_, _ = h.Write(part)
	}
	return seal(h.Sum64())
}

func entryKey(k uint64) []byte { return encodeUint(k) }

// encodeUint is big endian, so that keys sort by number.
func encodeUint(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodeUint(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%d bytes where 8 are expected", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
