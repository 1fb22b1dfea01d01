package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheMonitorThreadGetsItsSlack(t *testing.T) {
	if err := calmMonitor(); !mayRenice(t) {
		// had goes on without it.
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("without CAP_SYS_NICE: %v, want to be refused", err)
		}
		return
	} else if err != nil {
		t.Fatal(err)
	}
	monitor, err := firstThread()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", monitor))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(b)), fmt.Sprint(monitorSlack.Nanoseconds()); got != want {
		t.Errorf("its slack is %s ns, want %s", got, want)
	}
	main, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if string(main) == string(b) {
		t.Error("the main thread got it, too: renewals would be late")
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
