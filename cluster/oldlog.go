package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"had/internal/boltfile"
	"had/internal/durable"
	"had/internal/wal"
)

// The log's folder within raft's, and the name of what was the log before.
const (
	logFolder   = "log"
	oldLogName  = "raft-log.db"
	oldLogParts = "logs" // the old file's bucket: index to entry in MessagePack
)

// bringOldLog makes a log of one that an earlier had has left in a bbolt file.
// The folder appears whole; then the file goes. A crash before that leaves
// both, and the folder counts: nothing is written to it before the file is
// gone.
func bringOldLog(dir string) error {
	old, path := filepath.Join(dir, oldLogName), filepath.Join(dir, logFolder)
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		fresh := path + ".new"
		if err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o700)); err != nil {
			return fmt.Errorf("bring the log into its new form: %w", err)
		}
		if err := copyOldLog(old, fresh); err != nil {
			return err
		}
		if err := os.Rename(fresh, path); err != nil {
			return fmt.Errorf("bring the log into its new form: %w", err)
		}
		if err := durable.SyncDir(dir); err != nil {
			return fmt.Errorf("bring the log into its new form: %w", err)
		}
	}
	if err := os.Remove(old); err != nil {
		return fmt.Errorf("remove the log in its old form: %w", err)
	}
	return durable.SyncDir(dir)
}

func copyOldLog(old, fresh string) error {
	var entries []*raft.Log
	err := boltfile.Walk(old, func(bucket string, _, value []byte) error {
		e := new(raft.Log)
		if bucket != oldLogParts {
			return fmt.Errorf("it has a part %q", bucket)
		}
		if err := codec.NewDecoderBytes(value, new(codec.MsgpackHandle)).Decode(e); err != nil {
			return fmt.Errorf("decode entry %d of it: %w", len(entries), err)
		}
		if !intact(e) {
			return fmt.Errorf("entry %d: %w", e.Index, ErrDamagedCommand)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return damagedFile(old, err)
	}
	log, err := wal.Open(fresh)
	if err != nil {
		return err
	}
	store := &logFile{log: log}
	const batch = 500
	for begin, end := 0, 1; begin < len(entries); end++ { // a snapshot from a leader may have left a gap
		if end == len(entries) || end-begin == batch || entries[end].Index != entries[end-1].Index+1 {
			err = errors.Join(err, store.StoreLogs(entries[begin:end]))
			begin = end
		}
	}
	if err := errors.Join(err, log.Close()); err != nil {
		return fmt.Errorf("bring the log into its new form: %w", err)
	}
	return nil
}
