package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// The old log has, after a snapshot that a leader sent, entries 1000 to 1700.
const oldFirst, oldLast = 1000, 1700

// oldLog is a log as raft-boltdb 2.3 wrote it: a bucket for the log, with
// big-endian indexes and entries in MessagePack (the newer time format), and
// one for what the log doesn't need.
func oldLog(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "old")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		logs, err := tx.CreateBucket([]byte("logs"))
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket([]byte("conf")); err != nil {
			return err
		}
		for i := uint64(oldFirst); i <= oldLast; i++ {
			e := testEntry(i)
			e.AppendedAt = time.Unix(0, 1700000000e9+int64(i)) //nolint:gosec // a small number
			e.Extensions = binary.BigEndian.AppendUint32(nil, logCRC(e))
			var value []byte
			if err := codec.NewEncoderBytes(&value, new(codec.MsgpackHandle)).Encode(e); err != nil {
				return err
			}
			if err := logs.Put(binary.BigEndian.AppendUint64(nil, i), value); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOldLogGoesOn(t *testing.T) {
	old := oldLog(t)
	for name, prepare := range map[string]func(dir string) error{
		"the first time":           func(string) error { return nil },
		"after a crash on the way": func(dir string) error { return os.MkdirAll(filepath.Join(dir, logFolder+".new", "x"), 0o700) },
		"after a crash at the end": func(dir string) error {
			return errors.Join(bringOldLog(dir), os.WriteFile(filepath.Join(dir, oldLogName), old, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.WriteFile(filepath.Join(dir, oldLogName), old, 0o600), prepare(dir)); err != nil {
				t.Fatal(err)
			}
			log, err := openLogFile(dir)
			if err != nil {
				t.Fatal(err)
			}
			logs := &checkedLog{LogStore: log, leaseAppended: func() {}, halt: testHalt(false)}
			first, _ := logs.FirstIndex()
			last, _ := logs.LastIndex()
			if first != oldFirst || last != oldLast {
				t.Errorf("entries %d to %d came, want %d to %d", first, last, oldFirst, oldLast)
			}
			for i := first; i <= last; i++ {
				var got raft.Log
				if err := logs.GetLog(i, &got); err != nil {
					t.Fatal(err)
				}
				if want := testEntry(i); got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) || got.AppendedAt.UnixNano() != 1700000000e9+int64(i) {
					t.Fatalf("entry %d came as %+v", i, got)
				}
			}
			if err := logs.StoreLog(testEntry(oldLast + 1)); err != nil {
				t.Error(err)
			}
			if err := log.Close(); err != nil {
				t.Fatal(err)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != logFolder {
				t.Errorf("the folder has %v (%v), want only the new log", files, err)
			}
		})
	}
}

func TestDamagedOldLogStays(t *testing.T) {
	for name, text := range map[string]string{"an entry": "entry 1234 ", "the part's name": "logs"} {
		dir := t.TempDir()
		path := filepath.Join(dir, oldLogName)
		bad := bytes.ReplaceAll(oldLog(t), []byte(text), []byte(strings.ToUpper(text)))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openLogFile(dir); !errors.Is(err, ErrDamagedFile) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, logFolder)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a log was begun (%v)", name, err)
		}
	}
}
