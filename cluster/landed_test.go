package cluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	hadv1 "had/proto/had/v1"
)

// What landed versions wrote is kept as text and read by this one: a log with
// every kind of record, how each was judged, the snapshot that came of it, and
// raft's folder on the disk. -landed.write=NAME makes such a file with the code
// at hand, which at a landing is the version that lands (CONTRIBUTING.md).
var landedWrite = flag.String("landed.write", "", "write testdata/landed/NAME.txt")

const landedFolder = "testdata/landed"

// landedFile is one of these files: lines of "entry TERM BASE64 [refused]", then
// "snapshot BASE64", then "folder BASE64", of a tar.gz.
type landedFile struct {
	terms    []uint64
	entries  [][]byte
	refused  []bool
	snapshot []byte
	folder   []byte
}

func readLanded(t *testing.T, path string) (f landedFile) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(string(text), "\n") {
		w := strings.Fields(line)
		if len(w) == 0 || w[0] == "#" {
			continue
		}
		data := w[1]
		if w[0] == "entry" {
			data = w[2]
		}
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			t.Fatalf("%s:%d: %v", path, n+1, err)
		}
		switch w[0] {
		case "entry":
			term, err := strconv.ParseUint(w[1], 10, 64)
			if err != nil {
				t.Fatalf("%s:%d: %v", path, n+1, err)
			}
			f.terms, f.entries, f.refused = append(f.terms, term), append(f.entries, b), append(f.refused, len(w) == 4)
		case "snapshot":
			f.snapshot = b
		case "folder":
			f.folder = b
		default:
			t.Fatalf("%s:%d: %q", path, n+1, w[0])
		}
	}
	return f
}

// Every node must come to the same state from the same log, whichever version it
// runs: to the same bytes as the version did that wrote it, but for what an older
// one may pass over.
func TestLandedLogsGiveTheSameState(t *testing.T) {
	for path, f := range landedFiles(t) {
		s := NewState()
		for i, data := range f.entries {
			cmd, err := decodeCommand(data)
			if err != nil {
				t.Fatalf("%s: entry %d: %v", path, i+1, err)
			}
			if v := s.Apply(Entry{Index: uint64(i + 1), Term: f.terms[i]}, cmd); (v.Refused != "") != f.refused[i] {
				t.Errorf("%s: entry %d was judged otherwise then (%q now): %v", path, i+1, v.Refused, cmd)
			}
		}
		then, err := DecodeState(f.snapshot)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !bytes.Equal(encode(t, bare(s)), encode(t, bare(then))) {
			t.Errorf("%s: the log gives another state than it did then:\nnow  %v\nthen %v", path, s.message(), then.message())
		}
		if again := encode(t, then); !bytes.Equal(again, f.snapshot) {
			t.Errorf("%s: the snapshot is another when it is written again", path)
		}
	}
}

// bare is a state without what an older had may pass over.
func bare(s *State) *State {
	m := proto.CloneOf(s.message())
	dropPassable(m.ProtoReflect())
	return stateFrom(m)
}

// dropPassable clears the fields that an older had may pass over.
func dropPassable(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		passable, _ := proto.GetExtension(f.Options(), hadv1.E_Passable).(bool)
		switch {
		case passable:
			m.Clear(f)
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				dropPassable(v.List().Get(i).Message())
			}
		default:
			dropPassable(v.Message())
		}
		return true
	})
}

func TestLandedFoldersAreRead(t *testing.T) {
	for path, f := range landedFiles(t) {
		dir := t.TempDir()
		unpack(t, dir, f.folder)
		if err := CheckStorage(dir); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		st, err := OpenStorage(dir, io.Discard)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		logs := &checkedLog{LogStore: st.Log, leaseAppended: func() {}, halt: testHalt(false)}
		for i, data := range f.entries {
			var got raft.Log
			if err := logs.GetLog(uint64(i+1), &got); err != nil || !bytes.Equal(got.Data, data) || got.Term != f.terms[i] {
				t.Fatalf("%s: entry %d came as %v (%v)", path, i+1, got, err)
			}
		}
		if term, err := st.Stable.GetUint64([]byte(keyLastVoteTerm)); err != nil || term != landedVote {
			t.Errorf("%s: the vote was in term %d (%v)", path, term, err)
		}
		snaps, err := st.Snapshots.List()
		if err != nil || len(snaps) != 1 {
			t.Fatalf("%s: snapshots %v (%v)", path, snaps, err)
		}
		_, r, err := st.Snapshots.Open(snaps[0].ID)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close(), st.Close()); err != nil || !bytes.Equal(data, f.snapshot) {
			t.Errorf("%s: the snapshot in the folder is another (%v)", path, err)
		}
	}
}

func landedFiles(t *testing.T) map[string]landedFile {
	t.Helper()
	if *landedWrite != "" {
		writeLanded(t, filepath.Join(landedFolder, *landedWrite+".txt"))
	}
	paths, err := filepath.Glob(filepath.Join(landedFolder, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no file of a landed version in %s (%v)", landedFolder, err)
	}
	out := map[string]landedFile{}
	for _, p := range paths {
		out[p] = readLanded(t, p)
	}
	return out
}

const landedVote = 7

func writeLanded(t *testing.T, path string) {
	t.Helper()
	*landedWrite = ""
	var text strings.Builder
	text.WriteString("# written by the code that landed: see landed_test.go\n")
	dir := t.TempDir()
	st, err := OpenStorage(dir, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	logs := &checkedLog{LogStore: st.Log, leaseAppended: func() {}, halt: testHalt(false)}
	l, kinds := newLog(t), map[protoreflect.Name]bool{}
	write := func(term uint64, cmd *hadv1.Command) Verdict {
		v := l.apply(term, cmd)
		data, err := encodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if err := logs.StoreLog(&raft.Log{Index: l.index, Term: term, Data: data}); err != nil {
			t.Fatal(err)
		}
		verdict := ""
		if v.Refused != "" {
			verdict = " refused"
		} else {
			m := cmd.ProtoReflect()
			kinds[m.WhichOneof(m.Descriptor().Oneofs().ByName("record")).Name()] = true
		}
		fmt.Fprintf(&text, "entry %d %s%s\n", term, base64.StdEncoding.EncodeToString(data), verdict)
		return v
	}
	everyKind(write)
	g := &generator{r: rand.New(rand.NewPCG(1, 1)), term: 9, seq: map[string]uint64{}, run: map[string]int{"alpha": 3, "beta": 3, "gamma": 3}}
	m := &model{t: t, owner: map[uint64]*hadv1.Instance{}, open: map[uint64]*openEpoch{}, hooks: map[string]uint64{}}
	for range 40 {
		write(g.term, g.command(l, m))
	}
	fields := (&hadv1.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("record").Fields()
	for i := range fields.Len() {
		if name := fields.Get(i).Name(); !kinds[name] {
			t.Errorf("no record %s was accepted: everyKind must have one", name)
		}
	}
	snapshot := encode(t, l.state)
	fmt.Fprintf(&text, "snapshot %s\n", base64.StdEncoding.EncodeToString(snapshot))

	err = errors.Join(st.Stable.SetUint64([]byte(keyCurrentTerm), landedVote), st.Stable.SetUint64([]byte(keyLastVoteTerm), landedVote), st.Stable.Set([]byte(keyLastVoteCand), []byte("alpha")))
	sink, err2 := st.Snapshots.Create(raft.SnapshotVersionMax, l.index, 9, raft.Configuration{}, 0, nil)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(snapshotBytes(snapshot).Persist(sink), st.Close()); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&text, "folder %s\n", base64.StdEncoding.EncodeToString(pack(t, dir)))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text.String()), 0o644)); err != nil { //nolint:gosec // test data
		t.Fatal(err)
	}
}

// everyKind writes a log in which each kind of record is accepted.
func everyKind(write func(term uint64, cmd *hadv1.Command) Verdict) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	write(1, birthCmd(testBirth()))
	write(1, policyCmd(0, `vip "web" { address = "192.0.2.10" }`))
	epoch := write(1, mountsCmd(alpha, 1)).Index
	write(1, renewCmd(alpha, 1, epoch))
	write(1, deliverCmd(progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_SERVING), hookResult("alpha", 2, epoch), checkChange("alpha", 3, epoch, true)))
	write(1, tokenCmd("tickets", 0, 2))
	write(1, serviceCmd("tickets", 1, alpha, epoch))
	write(1, nothingCmd(1, "email.ops", 0, epoch))
	claim := write(1, claimCmd(1, "email.ops", epoch, epoch+1)).Index
	write(1, markCmd("email.ops", claim, hadv1.NotifyMark_OUTCOME_SENT))
	frozen := write(1, freezeCmd("f-1", time.Hour)).Index
	write(1, unfreezeCmd(frozen))
	write(1, drainCmd("beta"))
	write(1, moveCmd("op-0", epoch, "beta")) // refused
	write(1, undrainCmd("beta"))
	write(1, holdCmd(1, epoch))
	write(1, resumeCmd())
	write(1, moveCmd("op-1", epoch, "beta"))
	write(1, moveEndCmd("op-1"))
	write(1, securedCmd("beta", secured(hadv1.Secured_KIND_GUARD, alpha, 1, epoch, epoch+1)))
	write(1, farewellCmd(alpha, epoch))
	write(2, deliverCmd(copied("beta", 1, epoch)))
	epoch = write(2, acquireCmd(beta, 2)).Index
	write(2, deliverCmd(progress("beta", 2, epoch, hadv1.Progress_OUTCOME_SERVING)))
	write(2, syncResumeCmd("docs", epoch))
	write(2, moveCmd("op-2", epoch, "alpha"))
	handed := handedCmd(instance("alpha", 2), 3, epoch)
	handed.GetAcquire().MoveOperation = "op-2"
	next := write(3, handed).Index
	write(3, waitedCmd(3, waited(epoch, epoch)))
	write(3, policyCmd(1, `vip "web" { address = "192.0.2.11" }`))
	write(3, forgetCmd("tickets", 2))
	write(3, riseCmd(3, 2, reads(2, 2, 2)...))
	web := &hadv1.HeldVolume{Name: "web", Device: "UUID=2b22", Path: "/srv/web"}
	write(3, extendCmd(instance("alpha", 2), 3, next, laterTerms(), web))
	write(3, trialCmd(2, `vip "web" { address = "192.0.2.12" }`, time.Minute))
	write(3, confirmCmd(3))
	write(3, trialCmd(3, `vip "web" { address = "192.0.2.13" }`, time.Minute))
	write(3, undoCmd(4))
	write(3, addCmd(memberOf("delta")))
	gone := write(3, removeCmd("delta", false)).Index
	write(3, settleCmd(3, "delta", gone, true))
}

func pack(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t *testing.T, dir string, data []byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(path, 0o700)
		} else {
			var content []byte
			content, err = io.ReadAll(r)
			err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
}
