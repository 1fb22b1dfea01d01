package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends every process in the group and in those below it, and waits until
// they are gone. After nil there is none, nor one on its way in: what was about
// to be forked is killed too. When ctx ends first, the error names who is left:
// such a process is stuck in the kernel. A group that isn't there has none.
func (g Group) Kill(ctx context.Context) error {
	populated, err := g.Populated()
	if err != nil || !populated {
		return err
	}
	err = os.WriteFile(filepath.Join(g.Path(), "cgroup.kill"), []byte("1"), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = g.killEach(ctx) // Linux has cgroup.kill since 5.14
	case errors.Is(err, unix.ENODEV): // it was removed meanwhile
		return nil
	case err != nil:
		return fmt.Errorf("kill all in the control group %s: %w", g.Path(), err)
	}
	return errors.Join(err, g.Wait(ctx))
}

// End kills all in the group and removes it: whoever was about to be started in
// it fails once this has returned nil.
func (g Group) End(ctx context.Context) error {
	for {
		if err := g.Kill(ctx); err != nil {
			return err
		}
		err := g.Remove()
		if !errors.Is(err, unix.EBUSY) {
			return err // one that was started in between is killed in the next round
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// killEach kills one process after the other until all are gone. When ctx ends
// first, Wait says who is left.
func (g Group) killEach(ctx context.Context) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		pids, err := g.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := killMember(pid, g); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// killMember kills a process if it is in the group still, once a pidfd keeps its
// number from becoming another's.
func killMember(pid int, g Group) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d to kill it: %w", pid, err)
	}
	defer unix.Close(fd)
	pids, err := g.Processes()
	if err != nil {
		return err
	}
	for _, p := range pids {
		if p != pid {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// Processes returns who is in the group and in those below it.
func (g Group) Processes() ([]int, error) {
	var pids []int
	text, err := os.ReadFile(filepath.Join(g.Path(), "cgroup.procs"))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list who is in a control group: %w", err)
	}
	for field := range bytes.FieldsSeq(text) {
		pid, err := strconv.Atoi(string(field))
		if err != nil {
			return nil, fmt.Errorf("list who is in the control group %s: %w", g.Path(), err)
		}
		pids = append(pids, pid)
	}
	children, err := g.Children()
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		more, err := c.Processes()
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// Populated reports whether a process is in the group or in one below it.
func (g Group) Populated() (bool, error) {
	text, err := os.ReadFile(filepath.Join(g.Path(), "cgroup.events"))
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether a control group is empty: %w", err)
	}
	return populated(text), nil
}

func populated(events []byte) bool { return !bytes.Contains(events, []byte("populated 0\n")) }

const lookAgain = 20 // ms

// Wait waits until no process is in the group or in one below it. When ctx ends
// first, the error names who is left.
func (g Group) Wait(ctx context.Context) error {
	events, err := os.Open(filepath.Join(g.Path(), "cgroup.events"))
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for a control group to be empty: %w", err)
	}
	defer events.Close()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("wait for a control group to be empty: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{7: 1}) // whatever the order of bytes, it isn't zero
	})
	defer func() {
		if !stop() {
			<-woken // or it would write to a descriptor that is another's by then
		}
	}()
	for {
		text := make([]byte, 256)
		n, err := events.ReadAt(text, 0)
		if gone(err) {
			return nil
		}
		if n == 0 {
			return fmt.Errorf("wait for a control group to be empty: %w", err)
		}
		if !populated(text[:n]) {
			return nil
		}
		if ctx.Err() != nil {
			pids, err := g.Processes()
			return errors.Join(fmt.Errorf("processes %v in the control group %s don't end: %w", pids, g.Path(), context.Cause(ctx)), err)
		}
		// cgroups(7): the file tells of itself by POLLPRI, once it has been read. It
		// does so every 10 ms at most, and what it has put off it never tells once the
		// group is removed (kernel/cgroup/cgroup.c, cgroup_file_notify): so look again.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}, {Fd: int32(wake), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		if _, err := unix.Poll(fds, lookAgain); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a control group to be empty: %w", err)
		}
	}
}
