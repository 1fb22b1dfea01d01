package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// monitorSlack is how much later than it asked for the Go runtime's monitor
// thread may be woken (proc(5): /proc/pid/timerslack_ns; 50 µs without this).
const monitorSlack = time.Millisecond

// calmMonitor gives the monitor thread of this process its slack. Whenever the
// process has something to do, that thread looks every 20 µs whether others are
// stuck in system calls: dozens of looks for a millisecond's work, several times
// a second (docs/decisions/0016-a-calm-monitor-thread.md). It is the first
// thread that the runtime starts, so the one with the lowest number but the
// main thread's. Were it another, that one's own sleeps would be up to a
// millisecond longer, and nothing else would change.
func calmMonitor() error {
	monitor, err := firstThread()
	if err != nil {
		return fmt.Errorf("find the runtime's monitor thread: %w", err)
	}
	path := filepath.Join("/proc", strconv.Itoa(monitor), "timerslack_ns")
	if err := os.WriteFile(path, []byte(strconv.FormatInt(monitorSlack.Nanoseconds(), 10)), 0); err != nil {
		return fmt.Errorf("give the runtime's monitor thread more slack: %w", err)
	}
	return nil
}

// firstThread returns the lowest thread ID of this process but the main
// thread's, which is the process ID.
func firstThread() (int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	var threads []int
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil && id != os.Getpid() {
			threads = append(threads, id)
		}
	}
	if len(threads) == 0 {
		return 0, fmt.Errorf("/proc/self/task has no thread but the main one")
	}
	return slices.Min(threads), nil
}
