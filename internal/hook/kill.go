package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// KillOrphan kills what is left of a run that an earlier daemon began and
// didn't live to see end. It returns how many processes it killed, once they
// are gone; when some aren't before ctx ends, the error names them.
//
// A process belongs to the run when it, or another of its session, still has
// the run's ID in its environment (proc_pid_environ(5)). The ID is random, so
// neither a reused process ID nor a reboot can make it kill anything else. An
// orphan's services go too: nobody knows how far their script came, and a
// daemon that starts up releases everything.
func KillOrphan(ctx context.Context, r Running) (killed int, err error) {
	mark := []byte(runVariable + "=" + r.ID)
	self, err := unix.Getsid(0)
	if err != nil {
		return 0, fmt.Errorf("read the daemon's own session: %w", err)
	}
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(killWait)
	}
	seen := make(map[int]struct{})
	err = killAll(func() ([]int, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pids, err := marked(mark, self)
		for _, pid := range pids {
			seen[pid] = struct{}{}
		}
		return pids, err
	}, until)
	if err != nil {
		return len(seen), fmt.Errorf("kill what is left of %s for %s: %w", r.Script, r.VIP, err)
	}
	return len(seen), nil
}

// marked returns the processes with mark in their environment and all others
// of their sessions, but nothing of the session self: a daemon that someone
// started from a hook must not kill itself.
func marked(mark []byte, self int) ([]int, error) {
	procs, err := processes()
	if err != nil {
		return nil, err
	}
	sessions := make(map[int]struct{})
	for _, p := range procs {
		// Session 0 is outside of this PID namespace: not one a script made.
		if p.session == self || p.session == 0 {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if vanished(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the environment of process %d: %w", p.pid, err)
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(v, mark) {
				sessions[p.session] = struct{}{}
			}
		}
	}
	var pids []int
	for _, p := range procs {
		if _, ok := sessions[p.session]; ok {
			pids = append(pids, p.pid)
		}
	}
	return pids, nil
}

// killAll sends SIGKILL to what find returns and waits, until nothing is
// found or the time has come. Looking again after each round catches what was
// forked while it looked.
func killAll(find func() ([]int, error), until time.Time) error {
	for {
		pids, err := find()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if !time.Now().Before(until) {
			return fmt.Errorf("processes %v don't end on SIGKILL: they are stuck in the kernel, most likely on a device or network file system that doesn't answer", pids)
		}
		if err := killOnce(find, pids, until); err != nil {
			return err
		}
	}
}

// killOnce kills those of pids that find returns again after they have been
// opened: the number may name another process by then, but not once a pidfd
// holds it. It waits until they are gone or the time has come.
func killOnce(find func() ([]int, error), pids []int, until time.Time) (err error) {
	fds := make(map[int]int, len(pids)) // pidfd by process ID
	defer func() {
		for _, fd := range fds {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open process %d to kill it: %w", pid, err)
		}
		fds[pid] = fd
	}
	pids, err = find()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		fd, ok := fds[pid]
		if !ok {
			continue // forked just now: its turn is in the next round
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	for _, pid := range pids {
		if fd, ok := fds[pid]; ok {
			readable(fd, time.Until(until))
		}
	}
	return nil
}

// readable waits for at most d until fd has something to read; a pidfd has
// when its process has exited (pidfd_open(2)).
func readable(fd int, d time.Duration) bool {
	until := time.Now().Add(d)
	for {
		// Rounded up, or the last part of a millisecond would be a busy loop.
		ms := max(0, (time.Until(until)+time.Millisecond-1)/time.Millisecond)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(ms))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}

// proc is a process as proc_pid_stat(5) shows it.
type proc struct {
	pid     int
	session int
}

// processes lists all processes that have not exited.
func processes() ([]proc, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var procs []proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if vanished(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
		p, alive, err := parseStat(string(stat))
		if err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
		if alive {
			procs = append(procs, p)
		}
	}
	return procs, nil
}

// InSession lists the processes of a session (setsid(2)) of which any thread lives:
// the first one may be a zombie while another is stuck in the kernel. It looks at
// what can't block, whatever they are stuck in.
func InSession(session int) (pids []int, err error) {
	all, err := processes()
	for _, p := range all {
		if p.session == session {
			pids = append(pids, p.pid)
		}
	}
	return pids, err
}

func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// parseStat reads "pid (name) state ppid pgrp session …"; the name may hold
// anything, blanks and brackets too.
func parseStat(stat string) (p proc, alive bool, err error) {
	i := strings.LastIndexByte(stat, ')')
	open := strings.IndexByte(stat, '(')
	if i < 0 || open < 0 {
		return proc{}, false, fmt.Errorf("parse %q as a process's stat", stat)
	}
	f := strings.Fields(stat[i+1:])
	if len(f) < 4 {
		return proc{}, false, fmt.Errorf("parse %q as a process's stat", stat)
	}
	pid, errPid := strconv.Atoi(strings.TrimSpace(stat[:open]))
	session, errSession := strconv.Atoi(f[3])
	if err := errors.Join(errPid, errSession); err != nil {
		return proc{}, false, fmt.Errorf("parse %q as a process's stat: %w", stat, err)
	}
	// A zombie whose threads haven't all ended has system calls under way.
	// num_threads is the 18th of these: proc_pid_stat(5).
	ended := f[0] == "X" || f[0] == "Z" && (len(f) < 18 || f[17] == "0" || f[17] == "1")
	return proc{pid: pid, session: session}, !ended, nil
}
