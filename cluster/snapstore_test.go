package cluster

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// snapshotFolder writes a state as a snapshot that ends at entry 9, in a folder
// as OpenStorage makes one, and returns the paths of its files.
func snapshotFolder(t *testing.T, dir string, content []byte) (files []string) {
	t.Helper()
	s := openTestStorage(t, dir)
	defer s.Close()
	_, trans := raft.NewInmemTransport("alpha")
	sink, err := s.Snapshots.Create(1, 9, 2, snapshotMembers(), 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta.json", "state.bin"} {
		files = append(files, filepath.Join(dir, "snapshots", sink.ID(), name))
	}
	return files
}

func snapshotMembers() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{
		{ID: "id-alpha", Address: "id-alpha"}, {ID: "id-beta", Address: "id-beta"}, {ID: "id-gamma", Address: "id-gamma"},
	}}
}

// readSnapshot restores as raft does: the newest of the list.
func readSnapshot(s raft.SnapshotStore) (*raft.SnapshotMeta, []byte, error) {
	list, err := s.List()
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, errors.New("there is none")
	}
	meta, r, err := s.Open(list[0].ID)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return meta, data, err
}

func checkSnapshot(t *testing.T, s raft.SnapshotStore, content []byte) (found bool) {
	t.Helper()
	meta, data, err := readSnapshot(s)
	if err != nil {
		return false
	}
	want := snapshotMembers()
	same := meta.Index == 9 && meta.Term == 2 && meta.Version == 1 && meta.ConfigurationIndex == 1 &&
		meta.Size == int64(len(content)) && len(meta.Configuration.Servers) == len(want.Servers)
	for i := range want.Servers {
		same = same && meta.Configuration.Servers[i] == want.Servers[i]
	}
	if !same || string(data) != string(content) {
		t.Fatalf("another snapshot is restored than was taken: %+v", meta)
	}
	return true
}

func TestSnapshotKeepsItsPlace(t *testing.T) {
	content := encode(t, sampleState(t))
	dir := t.TempDir()
	snapshotFolder(t, dir, content)
	s := openTestStorage(t, dir)
	defer s.Close()
	if !checkSnapshot(t, s.Snapshots, content) {
		t.Error("an intact snapshot isn't read")
	}
}

// Without the entries before the log's first, a node has lost a part of what
// it agreed to. raft would panic.
func TestMissingSnapshotIsFound(t *testing.T) {
	dir := t.TempDir()
	files := snapshotFolder(t, dir, encode(t, sampleState(t)))
	s := openTestStorage(t, dir)
	if err := s.Log.StoreLogs([]*raft.Log{{Index: 10, Term: 2}, {Index: 11, Term: 2}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openTestStorage(t, dir).Close()
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenStorage(dir, io.Discard); !errors.Is(err, ErrDamagedFile) {
		if err == nil {
			s.Close()
		}
		t.Errorf("a log that begins at entry 10 without a snapshot was opened (%v)", err)
	}
}

// FuzzDamagedSnapshot overwrites a part of a snapshot's file with any bytes:
// it is found, or what is restored is what was taken, in its place.
func FuzzDamagedSnapshot(f *testing.F) {
	for at := range uint16(500) { // meta.json, every byte: a digit becomes another
		f.Add(false, at, []byte{'1' + byte(at%8)})
	}
	f.Add(true, uint16(0), []byte{0})
	f.Add(true, uint16(30), []byte{0})
	var content []byte
	var files []string
	var s *Storage
	intact := map[string][]byte{}
	dir := f.TempDir()
	f.Cleanup(func() {
		if s != nil {
			_ = s.Close() // only read
		}
	})
	f.Fuzz(func(t *testing.T, state bool, at uint16, patch []byte) {
		if s == nil { // the fuzzer's workers have a folder each
			content = encode(t, sampleState(t))
			dir := filepath.Join(dir, "raft")
			files = snapshotFolder(t, dir, content)
			for _, path := range files {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				intact[path] = data
			}
			s = openTestStorage(t, dir)
		}
		path := files[0]
		if state {
			path = files[1]
		}
		damaged := append([]byte(nil), intact[path]...)
		copy(damaged[int(at)%len(damaged):], patch)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		checkSnapshot(t, s.Snapshots, content)
		if err := os.WriteFile(path, intact[path], 0o600); err != nil {
			t.Fatal(err)
		}
	})
}
