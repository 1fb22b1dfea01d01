package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

const nodeID = "node-1"

// writerVariable makes the test binary a process that appends to the journal
// it names until it is killed, and prints each number once it is promised.
const writerVariable = "JOURNAL_TEST_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerVariable); path != "" {
		fmt.Fprintln(os.Stderr, appendForEver(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func appendForEver(path string) error {
	j, err := Open(path, nodeID)
	if err != nil {
		return err
	}
	for {
		seq, err := j.Append(context.Background(), progress("n"))
		if err != nil {
			return err
		}
		if p := j.Problem(); p != "" {
			return errors.New(p)
		}
		fmt.Println(seq)
	}
}

func progress(reason string) *hadv1.Report {
	return &hadv1.Report{
		Node: "alpha",
		At:   timestamppb.Now(),
		Body: &hadv1.Report_Progress{Progress: &hadv1.Progress{Epoch: 7, Reason: reason}},
	}
}

func reasons(reports []*hadv1.Report) []string {
	var all []string
	for _, r := range reports {
		all = append(all, r.GetProgress().GetReason())
	}
	return all
}

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path, nodeID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func reopen(t *testing.T, j *Journal) *Journal {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, j.path)
}

func appendAll(t *testing.T, j *Journal, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if _, err := j.Append(t.Context(), progress(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReportsAreNumberedKeptAndTrimmed(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	stream := j.Stream()
	mine := progress("1")
	if seq, err := j.Append(t.Context(), mine); err != nil || seq != 1 {
		t.Fatalf("Append = %d, %v", seq, err)
	}
	if mine.GetSeq() != 0 {
		t.Error("Append changed the caller's report")
	}
	appendAll(t, j, 2, 5)
	if got := j.Pending(2); len(got) != 2 || got[0].GetSeq() != 1 || got[1].GetSeq() != 2 {
		t.Errorf("Pending(2) = %v", got)
	}
	if err := j.Ack(2); err != nil {
		t.Fatal(err)
	}
	if err := j.Ack(2); err != nil { // again, as after an answer that came twice
		t.Fatal(err)
	}

	j = reopen(t, j)
	if j.Stream() != stream {
		t.Errorf("the stream changed from %s to %s", stream, j.Stream())
	}
	got := j.Pending(100)
	if fmt.Sprint(reasons(got)) != "[3 4 5]" || j.PendingCount() != 3 {
		t.Errorf("after reopening: %v", reasons(got))
	}
	for i, r := range got {
		if r.GetSeq() != uint64(i+3) || r.GetStream() != stream || r.GetNodeId() != nodeID || r.GetNode() != "alpha" {
			t.Errorf("report %d = %v", i, r)
		}
	}
	if err := j.Ack(5); err != nil {
		t.Fatal(err)
	}

	// Numbers go on where they were, although nothing is left.
	j = reopen(t, j)
	if seq, err := j.Append(t.Context(), progress("6")); err != nil || seq != 6 || j.PendingCount() != 1 {
		t.Errorf("Append = %d, %v, %d pending", seq, err, j.PendingCount())
	}
}

func TestEveryJournalHasItsOwnStream(t *testing.T) {
	a, b := open(t, filepath.Join(t.TempDir(), "j")), open(t, filepath.Join(t.TempDir(), "j"))
	if a.Stream() == b.Stream() || a.Stream() == "" {
		t.Errorf("streams %q and %q", a.Stream(), b.Stream())
	}
}

func TestChangedTellsOfNewReports(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	changed := j.Changed()
	go j.Append(context.Background(), progress("1"))
	for len(j.Pending(1)) == 0 {
		select {
		case <-changed:
			changed = j.Changed()
		case <-time.After(10 * time.Second):
			t.Fatal("a report came and nobody was told")
		}
	}
}

func TestConcurrentAppendsKeepTheirOrder(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	const writers, each = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := uint64(0)
			for range each {
				seq, err := j.Append(t.Context(), progress(strconv.Itoa(w)))
				if err != nil || seq <= last {
					t.Errorf("Append = %d, %v after %d", seq, err, last)
				}
				last = seq
			}
		})
	}
	wg.Wait()
	j = reopen(t, j)
	for i, r := range j.Pending(writers*each + 1) {
		if r.GetSeq() != uint64(i+1) {
			t.Fatalf("report %d has number %d", i, r.GetSeq())
		}
	}
	if n := j.PendingCount(); n != writers*each {
		t.Errorf("%d reports, want %d", n, writers*each)
	}
}

func TestAppendRefusesWhatCannotBeStored(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	for name, r := range map[string]*hadv1.Report{"nil": nil, "empty": {}, "not UTF-8": progress("\xff")} {
		if _, err := j.Append(t.Context(), r); err == nil {
			t.Errorf("took a report that is %s", name)
		}
	}
	if seq, err := j.Append(t.Context(), progress("1")); seq != 1 || err != nil {
		t.Errorf("Append = %d, %v", seq, err)
	}
}

func TestClosedJournalTakesNothing(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := j.Append(t.Context(), progress("1"))
	for _, err := range []error{err, j.Ack(1), j.ClearTenure(), j.Flush(t.Context())} {
		if !errors.Is(err, errClosed) {
			t.Errorf("error = %v", err)
		}
	}
}

func TestTenureOutlivesTheProcess(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j"))
	if got, err := j.Tenure(); got != nil || err != nil {
		t.Fatalf("Tenure = %v, %v", got, err)
	}
	want := &Tenure{
		Epoch:         42,
		Instance:      &hadv1.Instance{Node: "alpha", NodeId: nodeID, BootId: "b", Nonce: "n"},
		Addresses:     []*hadv1.HeldAddress{{Vip: "web", Address: "192.0.2.10", Interface: "eth0"}, {Vip: "six", Address: "2001:db8::a"}},
		Volumes:       []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web", Fstype: "ext4"}},
		HooksDir:      "/etc/had/hooks",
		HookTimeout:   30 * time.Second,
		PolicyVersion: 3,
	}
	if err := j.SetTenure(want); err != nil {
		t.Fatal(err)
	}
	j = reopen(t, j)
	got, err := j.Tenure()
	if err != nil {
		t.Fatal(err)
	}
	if got.Epoch != want.Epoch || got.HooksDir != want.HooksDir || got.HookTimeout != want.HookTimeout ||
		got.PolicyVersion != want.PolicyVersion || !proto.Equal(got.Instance, want.Instance) ||
		len(got.Addresses) != 2 || !proto.Equal(got.Addresses[0], want.Addresses[0]) || !proto.Equal(got.Addresses[1], want.Addresses[1]) ||
		len(got.Volumes) != 1 || !proto.Equal(got.Volumes[0], want.Volumes[0]) {
		t.Errorf("Tenure = %+v, want %+v", got, want)
	}
	if err := j.ClearTenure(); err != nil {
		t.Fatal(err)
	}
	if got, err := reopen(t, j).Tenure(); got != nil || err != nil {
		t.Errorf("Tenure after clearing = %v, %v", got, err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	_, err := Open(j.path, nodeID)
	if err == nil || !strings.Contains(err.Error(), "another had is running") {
		t.Errorf("error = %v", err)
	}
}

func TestFileOfAnotherNodeIsRefused(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(j.path, "node-2")
	if err == nil || !strings.Contains(err.Error(), "node-1") || !strings.Contains(err.Error(), "node-2") {
		t.Errorf("error = %v", err)
	}
}

// What Append promised is there after SIGKILL, and numbers have no gap.
func TestKilledWhileAppending(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal.db")
	promised := uint64(0)
	for round := range 5 {
		writer := exec.Command(self)
		writer.Env = append(os.Environ(), writerVariable+"="+path)
		writer.Stderr = os.Stderr
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if promised, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Error(err)
			}
			if n == 10+round { // and then to the end of what it still printed
				if err := writer.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		_ = writer.Wait() // "signal: killed"

		j := open(t, path)
		reports := j.Pending(1 << 20)
		for i, r := range reports {
			if r.GetSeq() != uint64(i+1) {
				t.Fatalf("round %d: report %d has number %d", round, i, r.GetSeq())
			}
		}
		if uint64(len(reports)) < promised || promised == 0 {
			t.Fatalf("round %d: %d reports, %d were promised", round, len(reports), promised)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
