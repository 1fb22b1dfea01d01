package peer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func three() []Member {
	return []Member{
		{Name: "alpha", Address: "127.0.0.1:1"},
		{Name: "beta", Address: "127.0.0.1:2"},
		{Name: "gamma", Address: "127.0.0.1:3", Witness: true},
	}
}

// bornFolder returns a data folder of alpha, born with three().
func bornFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	id, err := OpenIdentity(dir, "office", "alpha", three())
	if err != nil {
		t.Fatal(err)
	}
	var ms []BornMember
	for _, m := range three() {
		nodeID := newNodeID()
		if m.Name == "alpha" {
			nodeID = id.NodeID()
		}
		ms = append(ms, BornMember{Member: m, NodeID: nodeID})
	}
	b := newBirth("office", ms)
	r := id.agreement.rec
	r.Phase, r.Birth = born, &b
	if err := id.save(r); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestIdentityLasts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	id, err := OpenIdentity(dir, "office", "alpha", three())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v; want mode 0700", st, err)
	}
	if _, born := id.Birth(); born || !validID(id.NodeID()) {
		t.Errorf("a new folder has node ID %q, born %v", id.NodeID(), born)
	}
	if err := id.MarkRaftStarted(); err == nil {
		t.Error("raft was started before the birth")
	}
	again, err := OpenIdentity(dir, "office", "alpha", three())
	if err != nil || again.NodeID() != id.NodeID() {
		t.Fatalf("opened again: %v, ID %s; want %s", err, again.NodeID(), id.NodeID())
	}

	dir = bornFolder(t)
	id, err = OpenIdentity(dir, "office", "alpha", three())
	if err != nil {
		t.Fatal(err)
	}
	if _, born := id.Birth(); !born || id.RaftStarted() {
		t.Errorf("born %v, raft started %v; want true, false", born, id.RaftStarted())
	}
	if err := id.MarkRaftStarted(); err != nil {
		t.Fatal(err)
	}
	moved := three()
	moved[1].Address = "10.0.0.12:7400"
	id, err = OpenIdentity(dir, "office", "alpha", moved)
	if err != nil || !id.RaftStarted() {
		t.Fatalf("opened with a changed address: %v", err)
	}
	if m, _ := id.member("beta"); m.Address != "10.0.0.12:7400" {
		t.Errorf("beta is dialed at %s; want had.hcl's address", m.Address)
	}
}

func TestFolderOfSomebodyElse(t *testing.T) {
	dir := bornFolder(t)
	before, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(m []Member)) []Member {
		m := three()
		f(m)
		return m
	}
	for name, c := range map[string]struct {
		cluster, self string
		members       []Member
		want          string
	}{
		"cluster":   {"lab", "alpha", three(), `belongs to the cluster "office", and had.hcl describes "lab"`},
		"node":      {"office", "beta", three(), `belongs to the node "alpha", and this is "beta"`},
		"own role":  {"office", "alpha", change(func(m []Member) { m[0].Witness = true }), "had.hcl makes alpha a witness, and it is a member as a data node"},
		"not in it": {"office", "delta", three(), `"delta", isn't in the member list`},
		"twice":     {"office", "alpha", change(func(m []Member) { m[2].Name = "beta" }), `two members are called "beta"`},
	} {
		_, err := OpenIdentity(dir, c.cluster, c.self, c.members)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", name, err, c.want)
		}
	}
	// What had.hcl says of the others is only how they were found.
	for want, list := range map[string][]Member{
		`"delta" is in the list of had.hcl only`:                           change(func(m []Member) { m[1].Name = "delta" }),
		`"gamma" is in the list of the cluster only`:                       three()[:2],
		`"gamma" is a witness for the cluster and a data node for had.hcl`: change(func(m []Member) { m[2].Witness = false }),
	} {
		id, err := OpenIdentity(dir, "office", "alpha", list)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if d := id.Disagreements(); len(d) != 1 || !strings.Contains(d[0], want) {
			t.Errorf("the status says %q; want %s", d, want)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a refusal changed the file: %v", err)
	}
}

// Every single flipped bit, and every truncation, is noticed and the file is
// left as it was.
func TestDamagedIdentity(t *testing.T) {
	dir := bornFolder(t)
	path := filepath.Join(dir, identityFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := decodeRecord(good)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if r, err := decodeRecord(bad); err == nil && (r.NodeID != want.NodeID || r.Phase != want.Phase || r.Birth.ID != want.Birth.ID) {
			t.Errorf("flipped bit in byte %d (%q) gives another identity", i, good[i])
		}
		if i < len(good)-1 { // all but the newline
			if _, err := decodeRecord(good[:i]); err == nil {
				t.Errorf("the first %d bytes pass for the whole", i)
			}
		}
	}
	for name, bad := range map[string][]byte{
		"flipped": bytes.Replace(good, []byte(want.NodeID[:8]), []byte("00000000"), 1),
		"empty":   {},
		"zeroes":  make([]byte, len(good)),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenIdentity(dir, "office", "alpha", three())
		if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want a sentence that names the damaged file", name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, bad) {
			t.Errorf("%s: the damaged file was overwritten", name)
		}
	}
}

func TestFolderInUseWithoutIdentity(t *testing.T) {
	dir := bornFolder(t)
	if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	for _, harmless := range []string{"lost+found", tempPrefix + "123"} {
		if err := os.WriteFile(filepath.Join(dir, harmless), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "raft-log.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenIdentity(dir, "office", "alpha", three())
	if err == nil || !strings.Contains(err.Error(), "holds raft-log.db and no identity.json") {
		t.Fatalf("a new identity beside an old log: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "raft-log.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIdentity(dir, "office", "alpha", three()); err != nil {
		t.Fatalf("an emptied folder: %v", err)
	}
}

// What couldn't be recorded isn't claimed.
func TestFullDisk(t *testing.T) {
	id, err := OpenIdentity(bornFolder(t), "office", "alpha", three())
	if err != nil {
		t.Fatal(err)
	}
	id.write = func(string, []byte) error { return syscall.ENOSPC }
	if err := id.MarkRaftStarted(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v; want that the disk is full", err)
	}
	if id.RaftStarted() {
		t.Error("a record that couldn't be written is acted on")
	}
}

func TestMemberListTooLongToSend(t *testing.T) {
	var ms []Member
	for i := range 100 {
		ms = append(ms, Member{Name: strings.Repeat("n", 50) + string(rune('A'+i)), Address: strings.Repeat("h", 60) + ":7400"})
	}
	_, err := OpenIdentity(t.TempDir(), "office", ms[0].Name, ms)
	if err == nil || !strings.Contains(err.Error(), "shorten the member list") {
		t.Errorf("100 long names: %v", err)
	}
}
