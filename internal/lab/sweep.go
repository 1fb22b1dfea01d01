package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sweep kills every process that is in one of the namespaces, whoever started
// it: a hook's service, for example, whose daemon is dead. Processes elsewhere
// are never touched. It returns when all are gone or ctx ends.
func sweep(ctx context.Context, inodes map[uint64]bool) error {
	for {
		killed, err := sweepOnce(ctx, inodes)
		if err != nil || killed == 0 {
			return err
		}
	}
}

// sweepOnce kills what it finds in one pass over /proc; a process that was
// forking meanwhile needs another.
func sweepOnce(ctx context.Context, inodes map[uint64]bool) (killed int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !inodes[netInode(pid)] {
			continue
		}
		if err := killIn(ctx, pid, inodes); err != nil {
			return killed, err
		}
		killed++
	}
	return killed, nil
}

// killIn kills a process and waits until it is gone. The pidfd pins the
// process, so that a reused number is not taken for it.
func killIn(ctx context.Context, pid int, inodes map[uint64]bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !inodes[netInode(pid)] {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((50 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("wait for process %d to die: %w", pid, context.Cause(ctx))
}

// netInode returns the inode of a process's network namespace; 0 when the
// process is gone or a zombie.
func netInode(pid int) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st); err != nil {
		return 0
	}
	return st.Ino
}
