package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	hadv1 "had/proto/had/v1"
)

// lockFile is in the data folder. A guard holds its lock (flock(2)) for as
// long as it lives, and it names the guard: "PID START", START being the
// process's start time in clock ticks since boot (proc_pid_stat(5)), which
// tells a process from a later one of the same number.
const lockFile = "guard.lock"

// errLocked: another guard holds the lock.
var errLocked = errors.New("another guard works on this data folder")

// openLock opens the lock file and takes the lock, or fails with errLocked.
func openLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the guard's lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// lockAsGuard takes the lock for this process and writes down who has it.
func lockAsGuard(dir string) (*os.File, error) {
	f, err := openLock(dir)
	if err != nil {
		return nil, err
	}
	start, err := startTime(os.Getpid())
	if err == nil {
		err = errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d %d\n", os.Getpid(), start)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write down which process is the guard: %w", err), f.Close())
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// startTime returns field 22 of proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	f, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// statOf returns the fields of proc_pid_stat(5) from the third on, at least 20.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The name, in brackets, may hold anything.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("process %d has a stat of %d fields", pid, len(f))
	}
	return f, nil
}

const (
	// settlePatience is how long a guard may take to finish before it is
	// killed: more than it needs to kill scripts and to tell the others.
	settlePatience = 5 * time.Second
	settleEvery    = 2 * time.Millisecond
)

// Settle waits until no guard of an earlier run works on the data folder any
// more, and returns what the last one had to say, nil if nothing is kept. The
// caller must hold the data folder's own lock: it proves that the had of that
// guard is dead, so that the guard is finishing, usually within milliseconds.
// One that doesn't finish within 5 s, because it is stopped, is killed: from
// then on the caller has to give back what it finds.
//
// It fails when ctx ends first, and when the guard isn't gone within another
// 5 s: it can't be killed, or it isn't the process that the lock names.
func Settle(ctx context.Context, dir string) (*hadv1.Farewell, error) {
	return settle(ctx, dir, settlePatience)
}

func settle(ctx context.Context, dir string, patience time.Duration) (*hadv1.Farewell, error) {
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	killed := false
	for {
		f, err := openLock(dir)
		if err == nil {
			clearGroup(dir)
			farewell, err := folder(dir).read()
			return farewell, errors.Join(err, f.Close())
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the guard of the earlier run: %w", context.Cause(ctx))
		case <-stuck.C:
			if killed {
				return nil, fmt.Errorf("wait for the guard of the earlier run: a process still holds %s after the guard it names was killed (`fuser` shows which): end that process", filepath.Join(dir, lockFile))
			}
			if err := killGuard(dir); err != nil {
				return nil, err
			}
			killed = true
			stuck.Reset(patience)
		case <-tick.C:
		}
	}
}

// killGuard kills the guard that the lock file names, if that process still is
// what it was.
func killGuard(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return fmt.Errorf("read which process is the guard of the earlier run: %w", err)
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscanf(string(text), "%d %d", &pid, &start); err != nil {
		return fmt.Errorf("read which process is the guard of the earlier run from %q: %w", text, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d, the guard of the earlier run: %w", pid, err)
	}
	defer unix.Close(fd)
	// Looked at after it was opened: the descriptor can't become another's.
	if now, err := startTime(pid); err != nil || now != start {
		return nil // it has ended, or the number is another's by now
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d, the stuck guard of the earlier run: %w", pid, err)
	}
	return nil
}
