package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
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

// TestDamageOnDiskIsDetected flips every bit of an entry as the disk holds it,
// and cuts it everywhere: it must come back as it was, or not at all.
func TestDamageOnDiskIsDetected(t *testing.T) {
	store := testLogFile(t)
	logs := &checkedLog{LogStore: store, leaseAppended: func() {}, halt: testHalt(false)}
	const index = 1000
	want := lease(t, index, raft.LogCommand)
	if err := logs.StoreLog(want); err != nil {
		t.Fatal(err)
	}
	whole, err := store.log.Read(index)
	if err != nil {
		t.Fatal(err)
	}
	detected := 0
	damage(whole, func(what string, at int, bad []byte) {
		if err := store.log.Append(index, [][]byte{bad}); err != nil {
			t.Fatal(err)
		}
		var got raft.Log
		if err := logs.GetLog(index, &got); err != nil {
			if !errors.Is(err, ErrDamagedCommand) {
				t.Fatalf("%s %d: %v", what, at, err)
			}
			detected++
			return
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) {
			t.Fatalf("%s %d: read as %+v", what, at, got)
		}
	})
	if detected < len(want.Data)*8 {
		t.Errorf("%d damages were detected, fewer than the command has bits", detected)
	}
}

func testLogFile(t *testing.T) *logFile {
	t.Helper()
	log, err := openLogFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
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

// short is a log store that is going to run out of room.
type short struct{ raft.LogStore }

func (short) Problem() error { return errors.New("no space left on device") }

func TestDiskThatIsGettingFullIsNoSecret(t *testing.T) {
	logs := &checkedLog{LogStore: short{raft.NewInmemStore()}, leaseAppended: func() {}, halt: testHalt(true)}
	if err := logs.StoreLog(testEntry(1)); err != nil {
		t.Fatal(err)
	}
	if p := logs.problem(); !strings.Contains(p, "no space left") || !strings.Contains(p, "minutes") {
		t.Errorf("the problem is %q", p)
	}
}

// After raft has removed the end of the log to put another leader's entries
// there, it believes in the removed ones until it starts again.
func TestANodeThatCanNotReplaceTheEndOfItsLogStartsAgain(t *testing.T) {
	disk := &full{LogStore: raft.NewInmemStore()}
	var reported error
	h := testHalt(true)
	closed := make(chan struct{})
	h.report, h.closed = func(err error) { reported = err; close(closed) }, closed
	logs := &checkedLog{LogStore: disk, leaseAppended: func() {}, halt: h}
	for i := range uint64(5) {
		if err := logs.StoreLog(testEntry(1 + i)); err != nil {
			t.Fatal(err)
		}
	}
	noSpace := errors.New("no space left on device")

	// Old entries, as after a snapshot: raft doesn't look back at them.
	if err := logs.DeleteRange(1, 2); err != nil {
		t.Fatal(err)
	}
	disk.err = noSpace
	if err := logs.StoreLog(testEntry(6)); !errors.Is(err, noSpace) || reported != nil {
		t.Fatalf("a full disk alone: %v, reported %v", err, reported)
	}

	if err := logs.DeleteRange(4, 5); err != nil {
		t.Fatal(err)
	}
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		_ = logs.StoreLog(testEntry(4))
		t.Error("raft goes on")
	}()
	<-stored
	if !errors.Is(reported, noSpace) {
		t.Errorf("reported %v", reported)
	}
}
