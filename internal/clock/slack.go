package clock

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// slack is how much later than it asked for a sleeping thread of a relaxed
	// process may be woken. The Go runtime counts in whole milliseconds when it
	// waits for a timer, so that nothing is much later than without it.
	slack = time.Millisecond
	// usualSlack is what processes have by default (PR_SET_TIMERSLACK(2const)).
	usualSlack = 50 * time.Microsecond
)

// Relax lets the kernel wake the threads of this process, and those they start,
// up to 1 ms later than they ask for: the Go runtime asks for much that it
// doesn't need (docs/decisions/0016-a-millisecond-of-timer-slack.md). Threads with
// a real-time priority are woken on time all the same. The error is the
// kernel's; the process then goes on as it was.
func Relax() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list this process's threads: %w", err)
	}
	for _, t := range threads {
		// proc(5): it is a thread's, although it is in the folder of a process.
		path := filepath.Join("/proc", t.Name(), "timerslack_ns")
		if err := os.WriteFile(path, []byte(strconv.FormatInt(slack.Nanoseconds(), 10)), 0); err != nil {
			return fmt.Errorf("give this process's threads some slack: %w", err)
		}
	}
	return nil
}

// Unrelaxed runs start, which begins another process, and returns its error.
// That process has the usual slack: one inherits the slack of the thread that
// forks it. A kernel that knows no slack has none to inherit.
func Unrelaxed(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil {
		setSlack(int(usualSlack))
		defer setSlack(before)
	}
	return start()
}

// setSlack sets this thread's slack, which the kernel refuses to nobody.
func setSlack(ns int) { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0) }
