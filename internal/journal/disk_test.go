package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	hadv1 "had/proto/had/v1"
)

// smallDisk mounts a file system of the given size for the test.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the small file system: %v", err)
		}
	})
	return dir
}

// fill takes all space that is left and returns how to give it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		if _, err := f.Write(page); err != nil {
			break
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// big is a report of about 4 KiB, as a hook with much output makes it.
func big(i int) *hadv1.Report {
	return progress(fmt.Sprintf("%04d%s", i, strings.Repeat("x", 4096)))
}

func TestReservedSpaceOutlastsAFullDisk(t *testing.T) {
	dir := smallDisk(t, 8<<20)
	j := open(t, filepath.Join(dir, "journal.db"))
	fill(t, dir)
	for i := range 200 {
		if _, err := j.Append(t.Context(), big(i)); err != nil {
			t.Fatal(err)
		}
		if p := j.Problem(); p != "" {
			t.Fatalf("report %d: %s", i, p)
		}
	}
}

// A full disk loses nothing while the process lives: reports can be delivered,
// and are stored in order once there is room.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 6<<20)
	j := open(t, filepath.Join(dir, "journal.db"))
	free := fill(t, dir)
	n := 0
	for ; j.Problem() == ""; n++ {
		if n > 5000 {
			t.Fatal("the disk never filled up")
		}
		if _, err := j.Append(t.Context(), big(n)); err != nil {
			t.Fatal(err)
		}
	}
	if p := j.Problem(); !strings.Contains(p, "no space left") || !strings.Contains(p, j.path) || !strings.Contains(p, "memory only: 1;") {
		t.Errorf("problem = %q", p)
	}
	for range 10 {
		if _, err := j.Append(t.Context(), big(n)); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if err := j.SetTenure(&Tenure{Epoch: 1}); err == nil {
		t.Error("claims to have written a tenure to a full disk")
	}
	if err := j.Flush(t.Context()); err == nil {
		t.Error("claims to have flushed to a full disk")
	}

	// What is in memory only has numbers that no later process can give out.
	delivered := map[string]uint64{}
	taken := 0
	take := func(limit int) {
		reports := j.Pending(limit)
		for _, r := range reports {
			if got := r.GetProgress().GetReason()[:4]; got != fmt.Sprintf("%04d", taken) {
				t.Fatalf("report %d is %s", taken, got)
			}
			if delivered[r.GetStream()]++; r.GetSeq() != delivered[r.GetStream()] {
				t.Fatalf("report %d has number %d, want %d", taken, r.GetSeq(), delivered[r.GetStream()])
			}
			taken++
		}
		if len(reports) == 0 {
			return
		}
		if err := j.Ack(reports[len(reports)-1].GetSeq()); err != nil {
			t.Fatal(err)
		}
	}
	for taken < n-5 {
		take(min(100, n-5-taken))
	}
	if len(delivered) != 2 {
		t.Errorf("%d streams, want the file's and one of its own for what it refused", len(delivered))
	}

	free()
	if err := j.Flush(t.Context()); err != nil || j.Problem() != "" {
		t.Fatalf("with room again: %v, problem %q", err, j.Problem())
	}
	if _, err := j.Append(t.Context(), big(n)); err != nil {
		t.Fatal(err)
	}
	n++
	j = reopen(t, j)
	if j.PendingCount() != n-taken {
		t.Fatalf("%d reports after reopening, want %d", j.PendingCount(), n-taken)
	}
	for taken < n {
		take(100)
	}
	if len(delivered) != 2 {
		t.Errorf("%d streams after reopening, want the same two", len(delivered))
	}
}

// A full disk and then the end of the process: numbers of the file's stream
// that went to reports which never got there are given out again, so none of
// those may have been delivered under them.
func TestProcessEndsOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 6<<20)
	j := open(t, filepath.Join(dir, "journal.db"))
	free := fill(t, dir)
	for n := 0; j.Problem() == ""; n++ {
		if _, err := j.Append(t.Context(), big(n)); err != nil {
			t.Fatal(err)
		}
	}
	offered := map[string]bool{}
	for reports := j.Pending(1000); len(reports) > 0; reports = j.Pending(1000) {
		for _, r := range reports {
			offered[fmt.Sprint(r.GetStream(), r.GetSeq())] = true
		}
		if err := j.Ack(reports[len(reports)-1].GetSeq()); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	free()

	j = open(t, j.path)
	seq, err := j.Append(t.Context(), progress("new"))
	if err != nil {
		t.Fatal(err)
	}
	if offered[fmt.Sprint(j.Stream(), seq)] {
		t.Errorf("number %d was given to two reports", seq)
	}
}

func TestCloseTellsWhatIsLost(t *testing.T) {
	dir := smallDisk(t, 6<<20)
	j := open(t, filepath.Join(dir, "journal.db"))
	fill(t, dir)
	for n := 0; j.Problem() == ""; n++ {
		if _, err := j.Append(t.Context(), big(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err == nil || !strings.Contains(err.Error(), "memory only: 1;") {
		t.Errorf("Close = %v", err)
	}
}

// A disk that doesn't answer holds nobody up, and nothing is delivered of
// which it isn't known whether it was stored.
func TestDiskThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	stall, err := j.db.Begin(true) // bbolt has one writer: ours waits for this one
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := j.Append(ctx, progress("1")); err != nil {
		t.Fatal(err)
	}
	if got := j.Pending(10); len(got) != 0 || j.PendingCount() != 1 {
		t.Errorf("Pending = %v of %d", got, j.PendingCount())
	}
	begun := time.Now()
	if err := j.SetTenure(&Tenure{Epoch: 1}); err == nil || !strings.Contains(err.Error(), "not answered") {
		t.Errorf("SetTenure = %v", err)
	}
	if took := time.Since(begun); took > 2*diskPatience {
		t.Errorf("SetTenure waited for %s", took)
	}
	if p := j.Problem(); !strings.Contains(p, "not answered") {
		t.Errorf("problem = %q", p)
	}

	if err := stall.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := j.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := j.Pending(10); len(got) != 1 || got[0].GetStream() != j.Stream() || j.Problem() != "" {
		t.Errorf("Pending = %v, problem %q", got, j.Problem())
	}
	j = reopen(t, j)
	if tenure, err := j.Tenure(); err != nil || tenure.Epoch != 1 || j.PendingCount() != 1 {
		t.Errorf("after reopening: %v, %v, %d reports", tenure, err, j.PendingCount())
	}
}
