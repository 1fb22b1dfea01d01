package cluster

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

func openTestStorage(t *testing.T, dir string) *Storage {
	t.Helper()
	s, err := OpenStorage(dir, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openTestVotes(t *testing.T, path string) *voteStore {
	t.Helper()
	v, err := openVotes(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// vote writes a vote as raft does.
func vote(v raft.StableStore, term uint64, candidate string) error {
	return errors.Join(v.SetUint64([]byte(keyLastVoteTerm), term), v.Set([]byte(keyLastVoteCand), []byte(candidate)))
}

func wantVote(t *testing.T, v raft.StableStore, term uint64, candidate string) {
	t.Helper()
	gotTerm, err := v.GetUint64([]byte(keyLastVoteTerm))
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Get([]byte(keyLastVoteCand))
	if err != nil {
		t.Fatal(err)
	}
	if gotTerm != term || string(got) != candidate {
		t.Fatalf("the vote is (%d, %s), want (%d, %s)", gotTerm, got, term, candidate)
	}
}

func txID(t *testing.T, db *bbolt.DB) int {
	t.Helper()
	id := 0
	if err := db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestVoteIsOneTransaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.db")
	v := openTestVotes(t, path)
	before := txID(t, v.db)
	if err := vote(v, 5, "beta"); err != nil {
		t.Fatal(err)
	}
	wantVote(t, v, 5, "beta")
	if after := txID(t, v.db); after != before+1 {
		t.Errorf("the vote took %d transactions, want 1", after-before)
	}

	// A crash between raft's two writes (raft#661).
	if err := v.SetUint64([]byte(keyLastVoteTerm), 7); err != nil {
		t.Fatal(err)
	}
	wantVote(t, v, 5, "beta")
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = openTestVotes(t, path)
	defer v.Close()
	wantVote(t, v, 5, "beta")
}

// A vote that could not be written was not given. raft confirms a repeated
// request when the pair it reads matches, without writing anything; were the
// new term shown beside the old candidate, that candidate would get a vote
// that a crash forgets.
func TestVoteThatFailedIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.db")
	v := openTestVotes(t, path)
	if err := vote(v, 5, "beta"); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil { // the disk fails
		t.Fatal(err)
	}
	if err := vote(v, 7, "gamma"); err == nil {
		t.Fatal("a vote was written to a closed file")
	}
	again := openTestVotes(t, path)
	defer again.Close()
	v.db = again.db // the disk is back
	wantVote(t, v, 5, "beta")
	if err := v.Set([]byte(keyLastVoteCand), []byte("alpha")); err != nil {
		t.Fatal(err)
	}
	wantVote(t, v, 5, "alpha")
}

func TestVoteStoreAnswersAsRaftExpects(t *testing.T) {
	v := openTestVotes(t, filepath.Join(t.TempDir(), "votes.db"))
	defer v.Close()
	// raft compares the text.
	if _, err := v.Get([]byte("x")); err == nil || err.Error() != "not found" {
		t.Errorf("Get of nothing: %v", err)
	}
	if _, err := v.GetUint64([]byte(keyLastVoteTerm)); err == nil || err.Error() != "not found" {
		t.Errorf("GetUint64 of nothing: %v", err)
	}
	if err := v.SetUint64([]byte("CurrentTerm"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if got, err := v.GetUint64([]byte("CurrentTerm")); got != 1<<40 || err != nil {
		t.Errorf("CurrentTerm is %d (%v)", got, err)
	}
	if err := v.Set([]byte("CurrentTerm"), []byte("short")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.GetUint64([]byte("CurrentTerm")); err == nil || !strings.Contains(err.Error(), "5 bytes where 8 belong") {
		t.Errorf("a damaged number: %v", err)
	}
}

func TestOpenStorageNamesWhatIsWrong(t *testing.T) {
	file := func(dir, name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	folder := func(dir, name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cases := []struct {
		name    string
		prepare func(dir string)
		want    string // empty: opens
	}{
		{"nothing there", func(string) {}, ""},
		{"a crash before the first vote", func(dir string) { file(dir, "raft-vote.db", "") }, ""},
		{"a crash before the first entry", func(dir string) { folder(dir, logFolder) }, ""},
		{"a log that is text", func(dir string) {
			file(folder(dir, logFolder), "0000000000000001.wal", strings.Repeat("garbage\n", 4096))
		}, "0000000000000001.wal: it doesn't begin as segment 1 does"},
		{"a short log", func(dir string) { file(folder(dir, logFolder), "0000000000000001.wal", "garbage") }, "log: the file is damaged"},
		{"an old log that is text", func(dir string) { file(dir, oldLogName, strings.Repeat("garbage\n", 4096)) }, "raft-log.db: the file is damaged"},
		{"votes that are short", func(dir string) { file(dir, "raft-vote.db", "garbage") }, "raft-vote.db: the file is damaged"},
		{"votes of zeros", func(dir string) { file(dir, "raft-vote.db", strings.Repeat("\x00", 65536)) }, "raft-vote.db: the file is damaged"},
		{"votes under another name", func(dir string) {
			s := openTestStorage(t, dir)
			if err := errors.Join(s.Stable.SetUint64([]byte("CurrentTerm"), 7), s.Close()); err != nil {
				t.Fatal(err)
			}
			whole, err := os.ReadFile(filepath.Join(dir, "raft-vote.db"))
			if err != nil {
				t.Fatal(err)
			}
			file(dir, "raft-vote.db", strings.ReplaceAll(string(whole), "stable", "staple"))
		}, "raft-vote.db: the file is damaged"},
		{"a folder for a file", func(dir string) { folder(dir, "raft-vote.db") }, "raft-vote.db: the file is damaged (invalid database)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.prepare(dir)
			s, err := OpenStorage(dir, io.Discard)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "":
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if c.want != "" && strings.Contains(c.want, "damaged") && !errors.Is(err, ErrDamagedFile) {
				t.Errorf("%v is no ErrDamagedFile", err)
			}
		})
	}
}

func TestOpenStorageIsForOne(t *testing.T) {
	dir := t.TempDir()
	s := openTestStorage(t, dir)
	if _, err := OpenStorage(dir, io.Discard); err == nil || !strings.Contains(err.Error(), "another had uses it") {
		t.Errorf("a second opener got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openTestStorage(t, dir).Close(); err != nil { // and the first left nothing behind
		t.Fatal(err)
	}
}

// TestDamagedFileIsASentence cuts the log's or the votes' file, or damages a
// page's header, an entry, or anything else, in many places. Each time it
// either opens, and every entry is read whole or refused, or there is an error.
// (bbolt by itself panics, some of it in goroutines of its own.)
func TestDamagedFileIsASentence(t *testing.T) {
	dir := t.TempDir()
	s := openTestStorage(t, dir)
	logs := &checkedLog{LogStore: s.Log, leaseAppended: func() {}, halt: testHalt(false)}
	const entries = 200
	var batch []*raft.Log
	for i := uint64(1); i <= entries; i++ {
		batch = append(batch, testEntry(i))
	}
	for chunk := range 8 {
		if err := logs.StoreLogs(batch[chunk*25 : chunk*25+25]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(vote(s.Stable, 5, "beta"), s.Close()); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(4, 4))
	opened, refused := 0, 0
	for i := range 160 {
		victim := t.TempDir()
		if err := os.CopyFS(victim, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(victim, logFolder, "0000000000000001.wal")
		if i%2 == 0 {
			path = filepath.Join(victim, "raft-vote.db")
		}
		if err := harmFile(r, path, i/2%4); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStorage(victim, io.Discard)
		if err != nil {
			if !errors.Is(err, ErrDamagedFile) {
				t.Fatal(err)
			}
			refused++
			continue
		}
		opened++
		if n := readDamaged(t, s, entries); n > 0 {
			t.Errorf("%d entries are damaged and the log was opened", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if opened == 0 || refused == 0 {
		t.Errorf("%d files opened, %d refused: the damage tests too little", opened, refused)
	}
}

// harmFile damages a file in the way that how says.
func harmFile(r *rand.Rand, path string, how int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at, page := r.IntN(len(bytes.TrimRight(b, "\x00"))), os.Getpagesize()
	switch how {
	case 0:
		b = b[:r.IntN(len(b))]
	case 1: // in the votes: a page's number, type, number of keys or length
		b[at/page*page+r.IntN(16)] ^= 1 << r.IntN(8)
	case 2:
		b[at] ^= 1 << r.IntN(8)
	case 3:
		b[at] = byte(r.Uint32())
	}
	return os.WriteFile(path, b, 0o600)
}

// readDamaged reads every entry and returns how many were refused.
func readDamaged(t *testing.T, s *Storage, entries uint64) (refused int) {
	t.Helper()
	logs := &checkedLog{LogStore: s.Log, leaseAppended: func() {}, halt: testHalt(false)}
	for i := uint64(1); i <= entries; i++ {
		var got raft.Log
		if err := logs.GetLog(i, &got); err != nil {
			refused++
			continue
		}
		if want := testEntry(i); got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || string(got.Data) != string(want.Data) {
			t.Fatalf("entry %d was read as %+v", i, got)
		}
	}
	return refused
}

func TestCheckStorageMissesWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	if err := openTestStorage(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if err := CheckStorage(dir); err != nil {
		t.Errorf("a whole folder: %v", err)
	}
	segments := filepath.Join(dir, logFolder)
	if err := errors.Join(os.RemoveAll(segments), os.Mkdir(segments, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := CheckStorage(dir); err == nil || !strings.Contains(err.Error(), segments) {
		t.Errorf("with an empty log: %v", err)
	}
	if err := os.Remove(segments); err != nil {
		t.Fatal(err)
	}
	if err := CheckStorage(dir); err == nil || !strings.Contains(err.Error(), segments) {
		t.Errorf("without its log: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "raft-vote.db")); err != nil {
		t.Fatal(err)
	}
	if err := CheckStorage(dir); err == nil || !strings.Contains(err.Error(), "raft-vote.db") {
		t.Errorf("without its votes: %v", err)
	}
}

// A flipped bit in a vote is found, or was in a place that holds nothing.
func TestFlippedVoteIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.db")
	v := openTestVotes(t, path)
	if err := errors.Join(v.SetUint64([]byte(keyCurrentTerm), 5), vote(v, 5, "beta"), v.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	found := 0
	for _, text := range []string{keyCurrentTerm, keyLastVoteTerm, keyLastVoteCand, keyChecked} {
		for range 30 {
			bad := slices.Clone(whole)
			at := bytes.LastIndex(bad, []byte(text)) + r.IntN(len(text)+8)
			bad[at] ^= 1 << r.IntN(8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			v, err := openVotes(path)
			if errors.Is(err, ErrDamagedFile) {
				found++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			wantVote(t, v, 5, "beta")
			if term, err := v.GetUint64([]byte(keyCurrentTerm)); err != nil || term != 5 {
				t.Fatalf("byte %d: the term is %d (%v)", at, term, err)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found < 30 {
		t.Errorf("%d flips were found: the test looks in the wrong place", found)
	}
}

// Votes of an earlier had have no checksums, and get them.
func TestOldVotesGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.db")
	write := func(pairs map[string][]byte) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, boltOptions())
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(stableBucket())
			for k, v := range pairs {
				err = errors.Join(err, b.Put([]byte(k), v))
			}
			return err
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	term := []byte{0, 0, 0, 0, 0, 0, 0, 5}
	write(map[string][]byte{keyCurrentTerm: term, keyLastVoteTerm: term, keyLastVoteCand: []byte("beta")})
	for range 2 {
		v := openTestVotes(t, path)
		wantVote(t, v, 5, "beta")
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(map[string][]byte{keyCurrentTerm: term}) // without its checksum
	if _, err := openVotes(path); !errors.Is(err, ErrDamagedFile) {
		t.Errorf("a term without a checksum: %v", err)
	}
}
