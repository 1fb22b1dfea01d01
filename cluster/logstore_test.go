package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

func testEntry(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 3, Type: raft.LogCommand, Data: fmt.Appendf(nil, "entry %d %0100d", index, index)}
}

// testHalt returns a halt that is armed or not and ends nobody.
func testHalt(armed bool) halt {
	h := halt{armed: new(atomic.Bool), report: func(error) {}, closed: make(chan struct{})}
	h.armed.Store(armed)
	return h
}

func lease(t *testing.T, index uint64, typ raft.LogType) *raft.Log {
	t.Helper()
	data, err := encodeCommand(renewCmd(instance("alpha", 1), 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: 1, Type: typ, Data: data}
}

func TestEntriesComeBackAsTheyWere(t *testing.T) {
	logs := &checkedLog{LogStore: raft.NewInmemStore(), leaseAppended: func() {}, halt: testHalt(false)}
	want := testEntry(1)
	if err := logs.StoreLog(want); err != nil {
		t.Fatal(err)
	}
	if want.Extensions != nil {
		t.Error("StoreLog changed raft's own entry")
	}
	var got raft.Log
	if err := logs.GetLog(1, &got); err != nil || string(got.Data) != string(want.Data) || got.Extensions != nil {
		t.Errorf("came back as %+v (%v)", got, err)
	}
	if err := logs.GetLog(2, &got); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that isn't there: %v", err)
	}
}

// TestDamageOnDiskIsDetected flips every bit of an entry as bbolt holds it,
// and cuts it everywhere: it must come back as it was, or not at all. Each
// damage is done to an entry of its own, so that one file serves for all.
func TestDamageOnDiskIsDetected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	logs := openLog(t, path)
	const first, last = 1000, 6000 // encoded in as many bytes each
	var batch []*raft.Log
	for i := uint64(first); i <= last; i++ {
		batch = append(batch, lease(t, i, raft.LogCommand))
	}
	if err := logs.StoreLogs(batch); err != nil {
		t.Fatal(err)
	}
	next := uint64(first)
	corrupt(t, logs, path, func(b *bbolt.Bucket) error {
		var errs []error
		damage(append([]byte(nil), b.Get(logKey(first))...), func(what string, at int, _ []byte) {
			own := append([]byte(nil), b.Get(logKey(next))...)
			if what == "cut to" {
				own = own[:at]
			} else {
				own[at/8] ^= 1 << (at % 8)
			}
			errs = append(errs, b.Put(logKey(next), own))
			next++
		})
		return errors.Join(errs...)
	})
	if next > last {
		t.Fatalf("%d damages need more entries", next-first)
	}

	logs = openLog(t, path)
	defer logs.LogStore.(io.Closer).Close()
	detected := 0
	for i := uint64(first); i < next; i++ {
		var got raft.Log
		if err := logs.GetLog(i, &got); err != nil {
			if !errors.Is(err, ErrDamagedCommand) {
				t.Fatalf("entry %d: %v", i, err)
			}
			detected++
			continue
		}
		if want := batch[i-first]; got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) {
			t.Fatalf("entry %d: read as %+v", i, got)
		}
	}
	if detected < len(batch[0].Data)*8 {
		t.Errorf("%d damages were detected, fewer than the command has bits", detected)
	}
	var got raft.Log
	if err := logs.GetLog(last, &got); err != nil {
		t.Errorf("an undamaged entry: %v", err)
	}
}

func openLog(t *testing.T, path string) *checkedLog {
	t.Helper()
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions()})
	if err != nil {
		t.Fatal(err)
	}
	return &checkedLog{LogStore: store, leaseAppended: func() {}, halt: testHalt(false)}
}

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// corrupt closes the log and changes its bucket behind its back.
func corrupt(t *testing.T, logs *checkedLog, path string, change func(b *bbolt.Bucket) error) {
	t.Helper()
	if err := logs.LogStore.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return change(tx.Bucket([]byte("logs"))) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// appending is a log store that tells when it is written.
type appending struct {
	raft.LogStore
	err    error
	stored func()
}

func (a *appending) StoreLogs(logs []*raft.Log) error {
	a.stored()
	if a.err != nil {
		return a.err
	}
	return a.LogStore.StoreLogs(logs)
}

func TestLeaseAppendedIsToldForLeaseEntriesOnly(t *testing.T) {
	var told []string
	store := &appending{LogStore: raft.NewInmemStore(), stored: func() { told = append(told, "stored") }}
	logs := &checkedLog{LogStore: store, leaseAppended: func() { told = append(told, "lease") }, halt: testHalt(false)}
	cases := []struct {
		name string
		logs []*raft.Log
		err  error
		want string
	}{
		{"a lease entry", []*raft.Log{lease(t, 1, raft.LogCommand)}, nil, "stored lease"},
		{"another command", []*raft.Log{testEntry(2)}, nil, "stored"},
		{"a lease entry among others", []*raft.Log{testEntry(3), lease(t, 4, raft.LogCommand), testEntry(5)}, nil, "stored lease"},
		{"raft's own entry", []*raft.Log{lease(t, 6, raft.LogNoop)}, nil, "stored"},
		{"a disk that fails", []*raft.Log{lease(t, 7, raft.LogCommand)}, errors.New("no space"), "stored"},
	}
	for _, c := range cases {
		told, store.err = nil, c.err
		if err := logs.StoreLogs(c.logs); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := strings.Join(told, " "); got != c.want {
			t.Errorf("%s: told %q before StoreLogs returned, want %q", c.name, got, c.want)
		}
	}
	told, store.err = nil, nil
	if err := logs.StoreLog(lease(t, 8, raft.LogCommand)); err != nil || strings.Join(told, " ") != "stored lease" {
		t.Errorf("StoreLog told %q (%v)", told, err)
	}
}

// failing is a stable store that can't be written.
type failing struct{ raft.StableStore }

func (failing) SetUint64([]byte, uint64) error { return errors.New("no space") }

func TestHaltNeverReturnsToRaft(t *testing.T) {
	broken := raft.NewInmemStore()
	if err := broken.StoreLog(testEntry(1)); err != nil { // without a checksum
		t.Fatal(err)
	}
	for name, call := range map[string]func(h halt) error{
		"a damaged entry": func(h halt) error {
			logs := &checkedLog{LogStore: broken, leaseAppended: func() {}, halt: h}
			return logs.GetLog(1, new(raft.Log))
		},
		"a term that can't be written": func(h halt) error {
			return (&haltingStable{StableStore: failing{}, halt: h}).SetUint64([]byte("CurrentTerm"), 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := call(testHalt(false)); err == nil {
				t.Error("no error before raft runs: Open would go on")
			}
			reports, closed := make(chan error, 1), make(chan struct{})
			armed := testHalt(true)
			armed.report, armed.closed = func(err error) { reports <- err }, closed
			var returned atomic.Bool
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = call(armed)
				returned.Store(true)
			}()
			if err := <-reports; err == nil {
				t.Error("an empty report")
			}
			close(closed)
			<-ended
			if returned.Load() {
				t.Error("the call returned to raft, which panics over it")
			}
		})
	}
}

// full is a log store whose disk may be full.
type full struct {
	raft.LogStore
	err error
}

func (f *full) StoreLogs(logs []*raft.Log) error {
	if f.err != nil {
		return f.err
	}
	return f.LogStore.StoreLogs(logs)
}

func TestFullDiskIsNoSecret(t *testing.T) {
	disk := &full{LogStore: raft.NewInmemStore()}
	logs := &checkedLog{LogStore: disk, leaseAppended: func() {}, halt: testHalt(true)}
	for _, disk.err = range []error{nil, errors.New("no space left on device"), nil} {
		if err := logs.StoreLog(testEntry(1)); !errors.Is(err, disk.err) {
			t.Errorf("storing an entry: %v, want %v", err, disk.err)
		}
		if p := logs.problem(); strings.Contains(p, "no space left") != (disk.err != nil) {
			t.Errorf("with the disk's error %v the problem is %q", disk.err, p)
		}
	}
}
