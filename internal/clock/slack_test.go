package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRelaxIsForThisProcessAlone(t *testing.T) {
	if err := Relax(); !mayRenice(t) {
		// had goes on without it.
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("without CAP_SYS_NICE: %v, want to be refused", err)
		}
		return
	} else if err != nil {
		t.Fatal(err)
	}
	if got := slackOf(t, os.Getpid()); got != slack {
		t.Errorf("the main thread's slack is %v, want %v", got, slack)
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := Unrelaxed(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if got := slackOf(t, cmd.Process.Pid); got != usualSlack {
		t.Errorf("a process that was started has a slack of %v, want %v", got, usualSlack)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if got := slackOf(t, os.Getpid()); got != slack {
		t.Errorf("after that the main thread's slack is %v, want %v", got, slack)
	}
}

// mayRenice reports whether this process has CAP_SYS_NICE, which another
// thread's slack takes (proc(5)).
func mayRenice(t *testing.T) bool {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_NICE) != 0
}

func slackOf(t *testing.T, thread int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", thread))
	if err != nil {
		t.Fatal(err)
	}
	d, err := time.ParseDuration(strings.TrimSpace(string(b)) + "ns")
	if err != nil {
		t.Fatal(err)
	}
	return d
}
