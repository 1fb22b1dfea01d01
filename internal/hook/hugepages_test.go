package hook

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Not parallel: the setting is the whole process's.
func TestScriptsHaveTheHugePagesThatHadForgoes(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }()
	f := newFixture(t)
	f.script("PostAcq", "grep THP_enabled /proc/self/status") // proc_pid_status(5)
	if r := f.only(long, PostAcq); string(r.OutputTail) != "THP_enabled:\t1\n" {
		t.Errorf("a script says %v %q", r, r.OutputTail)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "THP_enabled:\t0\n") {
		t.Errorf("after it had has huge pages: %v\n%s", err, status)
	}
}

func TestAStartTakesNoHugePagesFromAnother(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }()
	h := hugePages{forgone: forgone()}
	err := h.lend(func() error {
		err := h.lend(func() error { return nil })
		if forgone() {
			t.Error("huge pages ended with another's start")
		}
		return err
	})
	if err != nil || !forgone() {
		t.Errorf("after the last start: %v, forgone %v", err, forgone())
	}
}
