package guard

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// exited reports whether the process of a pidfd has ended.
func exited(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// harden makes this process one that runs when the host is in trouble. What
// it could not have it returns as sentences: each costs safety nothing and
// precision something.
func harden() []string {
	var missing []string
	for _, f := range []func() error{neverOOM, lockMemory, realTime} {
		if err := f(); err != nil {
			missing = append(missing, err.Error())
		}
	}
	return missing
}

// neverOOM keeps the kernel from killing the guard when memory runs out
// (proc_pid_oom_score_adj(5)).
func neverOOM() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("the guard may be killed when memory runs out: %w", err)
	}
	return nil
}

// lockMemory pins what the guard uses, so that it never waits for a disk. Of
// its memory that is each page from its first use on (MCL_ONFAULT): Go reserves
// more than a gigabyte of addresses, which would all be filled otherwise. Of
// the program's file it is all of it at once: had has most of that mapped too,
// and a page that isn't there when had dies might be on the disk that stalls
// (mlockall(2)).
func lockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("the guard's memory isn't locked, so it may have to wait for a disk: %w", err)
	}
	if err := lockProgram(); err != nil {
		return fmt.Errorf("the guard's program isn't locked, so it may have to wait for a disk: %w", err)
	}
	return nil
}

func lockProgram() error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		from, size, ok := programRange(strings.TrimSuffix(line, "\n"), exe)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, from, size, 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// programRange reads a line of proc_pid_maps(5), "from-to perms offset dev
// inode path"; it is ok for a part of the program at exe.
func programRange(line, exe string) (from, size uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || !strings.HasSuffix(line, " "+exe) {
		return 0, 0, false
	}
	low, high, _ := strings.Cut(f[0], "-")
	a, errA := strconv.ParseUint(low, 16, 64)
	b, errB := strconv.ParseUint(high, 16, 64)
	return uintptr(a), uintptr(b - a), errA == nil && errB == nil && a < b
}

// realTimePriority is the lowest there is: before everything that isn't real
// time, behind whatever is.
const realTimePriority = 1

// realTime gives every thread of this process real-time priority.
func realTime() error {
	if err := schedule(true); err != nil {
		return fmt.Errorf("the guard has no real-time priority: %w", err)
	}
	return nil
}

// schedule makes every thread of this process a real-time one, or one like any
// other (sched(7)). Threads made later inherit it from the one that makes them.
func schedule(realTime bool) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if realTime {
		// Go's runtime waits for its own threads by spinning (runtime.bgsweep). One that
		// was woken on the CPU of one that spins got it after a time slice of 100 ms with
		// SCHED_RR, and never with SCHED_FIFO: hence one at a time, and the former.
		runtime.GOMAXPROCS(1)
		attr.Policy, attr.Priority = unix.SCHED_RR, realTimePriority
	}
	done := map[int]bool{}
	for {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		fresh := false
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil || done[id] {
				continue
			}
			done[id], fresh = true, true
			if err := unix.SchedSetAttr(id, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !fresh {
			return nil // one round in which no thread was new
		}
	}
}
