package journal

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// sample writes a journal with something of everything, and as many reports,
// and returns its path.
func sample(t *testing.T, reports int) string {
	t.Helper()
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	var wg sync.WaitGroup
	for range reports { // at once: they share the disk's answers
		wg.Go(func() { appendAll(t, j, 1, 1) })
	}
	wg.Wait()
	j.Pending(5)
	if err := j.Ack(5); err != nil {
		t.Fatal(err)
	}
	if err := j.SetTenure(&Tenure{Epoch: 7, Addresses: []*hadv1.HeldAddress{{Vip: "web", Address: "192.0.2.10"}}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Started(t.Context(), hook.Running{ID: "r1", Script: "PreAcq10"}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return j.path
}

// content is all that a journal knows.
type content struct {
	reports []*hadv1.Report
	seq     uint64
	tenure  string
	running []hook.Running
}

func contentOf(t *testing.T, j *Journal) content {
	t.Helper()
	return content{reports: j.Pending(1 << 20), seq: j.seq, tenure: string(j.tenure), running: j.Interrupted()}
}

func (c content) equal(d content) bool {
	if len(c.reports) != len(d.reports) || c.seq != d.seq || c.tenure != d.tenure || len(c.running) != len(d.running) {
		return false
	}
	for i := range c.reports {
		if !proto.Equal(c.reports[i], d.reports[i]) {
			return false
		}
	}
	for i := range c.running {
		if c.running[i] != d.running[i] {
			return false
		}
	}
	return true
}

// A flipped bit anywhere is found, or was in a place that holds nothing.
func TestFlippedBitIsFoundOrHarmless(t *testing.T) {
	for name, tc := range map[string]struct{ reports, stride int }{
		"one page":       {30, 17},
		"a tree of them": {500, 401},
	} {
		t.Run(name, func(t *testing.T) { flipBits(t, tc.reports, tc.stride) })
	}
}

// flipBits flips one bit in every stride-th byte of a file, one at a time.
func flipBits(t *testing.T, reports, stride int) {
	path := sample(t, reports)
	j := open(t, path)
	want := contentOf(t, j)
	if len(want.reports) != reports-5 || want.seq != uint64(reports) || want.tenure == "" || len(want.running) != 1 {
		t.Fatalf("sample holds %+v", want)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for at := 0; at < len(intact); at += stride {
		if _, err := f.WriteAt([]byte{intact[at] ^ 1<<(at%8)}, int64(at)); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path, nodeID)
		switch {
		case err != nil:
			found++
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") {
				t.Fatalf("byte %d: %v", at, err)
			}
		case !contentOf(t, j).equal(want):
			t.Fatalf("byte %d changed what the journal says, unnoticed", at)
		}
		if err == nil {
			j.Close()
		}
		if _, err := f.WriteAt(intact[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if found < 10 {
		t.Errorf("only %d flips were found: the test looks in the wrong place", found)
	}
	if j, err := Open(path, nodeID); err != nil {
		t.Errorf("the repaired file: %v", err)
	} else {
		j.Close()
	}
}

func TestCutFileIsDamaged(t *testing.T) {
	for _, size := range []int64{0, 1, 100, 4096, 5000, 8192, 12288} {
		path := sample(t, 30)
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, nodeID)
		if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "mv "+path) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

func TestOtherFilesAreDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a journal\n", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, nodeID); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("error = %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "missing", "journal.db"), nodeID); err == nil || strings.Contains(err.Error(), "damaged") {
		t.Errorf("in a folder that isn't there: %v", err)
	}
	if _, err := Open(t.TempDir(), nodeID); err == nil {
		t.Error("opened a directory")
	}
}
