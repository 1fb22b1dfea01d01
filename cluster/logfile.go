package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"had/internal/durable"
	"had/internal/wal"
)

// logFile is raft's LogStore on a wal.Log. It doesn't claim to be monotonic
// (raft.MonotonicLogStore): for such a store raft answers a snapshot from the
// leader by deleting every entry, also one beyond the snapshot that this node
// has acknowledged. Where a snapshot leaves a gap, wal drops what is before it.
type logFile struct{ log *wal.Log }

// openLogFile opens the log in raft's folder, or begins one.
func openLogFile(dir string) (*logFile, error) {
	if err := bringOldLog(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, logFolder)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create the log's folder: %w", err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return nil, err
	}
	log, err := wal.Open(path)
	if errors.Is(err, wal.ErrDamaged) {
		return nil, damagedFile(path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &logFile{log: log}, nil
}

// FirstIndex implements raft.LogStore.
func (l *logFile) FirstIndex() (uint64, error) { first, _ := l.log.Bounds(); return first, nil }

// LastIndex implements raft.LogStore.
func (l *logFile) LastIndex() (uint64, error) { _, last := l.log.Bounds(); return last, nil }

// GetLog implements raft.LogStore.
func (l *logFile) GetLog(index uint64, entry *raft.Log) error {
	b, err := l.log.Read(index)
	if errors.Is(err, wal.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	return decodeEntry(index, b, entry)
}

// StoreLog implements raft.LogStore.
func (l *logFile) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *logFile) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	records := make([][]byte, 0, len(entries))
	for i, e := range entries {
		if e.Index != entries[0].Index+uint64(i) {
			return fmt.Errorf("store log entries: %d comes where %d belongs", e.Index, entries[0].Index+uint64(i))
		}
		records = append(records, encodeEntry(e))
	}
	return l.log.Append(entries[0].Index, records)
}

// DeleteRange implements raft.LogStore: it cuts the log at either end.
func (l *logFile) DeleteRange(from, to uint64) error {
	switch first, last := l.log.Bounds(); {
	case to >= last:
		return l.log.DropFrom(max(from, first))
	case from <= first:
		return l.log.DropBefore(to + 1)
	default:
		return fmt.Errorf("delete log entries %d to %d: they are in the middle of %d to %d", from, to, first, last)
	}
}

// Problem says why the log can't go on for long; nil: it can.
func (l *logFile) Problem() error { return l.log.Problem() }

// Close closes the log's files.
func (l *logFile) Close() error { return l.log.Close() }

// entryHead is term (8 bytes), time of the append (8, nanoseconds, 0: unknown),
// type (1) and length of the extensions (1); they and the data follow. The
// index is the record's.
const entryHead = 18

func encodeEntry(e *raft.Log) []byte {
	b := make([]byte, 0, entryHead+len(e.Extensions)+len(e.Data))
	b = binary.BigEndian.AppendUint64(b, e.Term)
	appended := uint64(0)
	if !e.AppendedAt.IsZero() {
		appended = uint64(e.AppendedAt.UnixNano())
	}
	b = binary.BigEndian.AppendUint64(b, appended)
	b = append(b, byte(e.Type), byte(len(e.Extensions)))
	b = append(b, e.Extensions...)
	return append(b, e.Data...)
}

func decodeEntry(index uint64, b []byte, e *raft.Log) error {
	if len(b) < entryHead || len(b) < entryHead+int(b[17]) {
		return fmt.Errorf("it has only %d bytes", len(b))
	}
	*e = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b), Type: raft.LogType(b[16])}
	if appended := binary.BigEndian.Uint64(b[8:]); appended != 0 {
		e.AppendedAt = time.Unix(0, int64(appended))
	}
	b, extensions := b[entryHead:], int(b[17])
	if extensions > 0 {
		e.Extensions = b[:extensions:extensions]
	}
	e.Data = b[extensions:]
	return nil
}
