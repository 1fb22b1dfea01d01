package vmtest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if is, err := program(); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if device := os.Getenv(holdVariable); device != "" {
		err := hold(device)
		fmt.Fprintln(os.Stderr, "the holder ended by itself:", err)
		os.Exit(1)
	}
	if !inside() {
		os.Exit(m.Run())
	}
	if err := initialise(); err != nil {
		fmt.Println("FAIL: prepare the machine:", err)
	} else {
		m.Run()
	}
	fmt.Println(insideEnded)
	fmt.Println("power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	select {} // the kernel panics when init ends
}

// inside reports whether this process is a virtual machine's init.
func inside() bool { return os.Getpid() == 1 && os.Getenv(insideVariable) != "" }

// insideVariable is set by the kernel's command line, which gives init what the
// kernel itself doesn't know.
const insideVariable = "VMTEST"

// test runs one side of the calling test.
func test(t *testing.T, s sides) {
	t.Helper()
	if inside() {
		s.inside(t)
		return
	}
	m := boot(t, s)
	s.outside(t, m)
}

// sides are a test's two sides.
type sides struct {
	modules  []string // what the inside may load
	programs []string // of this host, which it may run
	devices  []string // arguments of qemu's
	inside   func(*testing.T)
	outside  func(*testing.T, *machine)
}
