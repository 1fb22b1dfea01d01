package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hog keeps n of the machine's cores busy from this host until stop is called.
// The machine is everybody's: keep it short.
func (h *Host) Hog(n int) (stop func(), err error) {
	var hogs []*Process
	stop = func() {
		for _, p := range hogs {
			_ = p.Signal(syscall.SIGKILL) // it has no end of its own
			<-p.Done()
		}
	}
	for range n {
		p, err := h.Start(os.DevNull, "sh", "-c", "while :; do :; done")
		if err != nil {
			stop()
			return nil, err
		}
		hogs = append(hogs, p)
	}
	return stop, nil
}

// memoryGroup is the memory controller of the first cgroup hierarchy
// (cgroups(7)), below the group that this process is in.
const memoryGroup = "/sys/fs/cgroup/memory"

// CanSqueeze says why memory can't be taken from a host's daemon on this
// machine; nil when it can.
func CanSqueeze() error {
	_, err := ownMemoryGroup()
	return err
}

func ownMemoryGroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find this process's memory group: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":memory:"); ok {
			dir := filepath.Join(memoryGroup, path)
			_, err := os.Stat(filepath.Join(dir, "memory.limit_in_bytes"))
			return dir, err
		}
	}
	return "", errors.New("find this process's memory group: there is no cgroup v1 memory controller")
}

// Squeeze lets the daemon have no more than that many bytes of memory beyond
// what it has: it waits for pages, and when none can be found the kernel kills
// it. stop ends that.
func (h *Host) Squeeze(more int64) (stop func() error, err error) {
	own, err := ownMemoryGroup()
	if err != nil {
		return nil, err
	}
	p := h.Daemon()
	if p == nil {
		return nil, fmt.Errorf("squeeze the daemon of host %s: it never ran", h.Name)
	}
	group, err := os.MkdirTemp(own, "had-lab-"+h.Name+"-")
	if err != nil {
		return nil, fmt.Errorf("squeeze the daemon of host %s: %w", h.Name, err)
	}
	stop = func() error { return leaveGroup(group, own) }
	// Pages are charged where they were asked for: the group begins at none.
	if err = os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), strconv.AppendInt(nil, more, 10), 0); err == nil {
		err = os.WriteFile(filepath.Join(group, "cgroup.procs"), strconv.AppendInt(nil, int64(p.Pid()), 10), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("squeeze the daemon of host %s: %w", h.Name, err), stop())
	}
	return stop, nil
}

// leaveGroup moves everybody from a group to another and removes it.
func leaveGroup(group, to string) error {
	for {
		procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("list who is in %s: %w", group, err)
		}
		for pid := range bytes.FieldsSeq(procs) {
			// It may be gone by now.
			if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), pid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s to %s: %w", pid, to, err)
			}
		}
		err = unix.Rmdir(group)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) { // EBUSY: one forked meanwhile, or is about to be gone
			return fmt.Errorf("remove %s: %w", group, err)
		}
	}
}

// SignalGuard sends a signal to every guard of the host, a process that runs
// `had guard`, and returns how many there are. Guards of dead daemons count.
func (h *Host) SignalGuard(sig syscall.Signal) (int, error) {
	pids, err := h.guards()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, pid := range pids {
		switch err := unix.Kill(pid, sig); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ESRCH):
			return n, fmt.Errorf("send %v to guard %d of host %s: %w", sig, pid, h.Name, err)
		}
	}
	return n, nil
}

// guards lists the processes of the host that run `had guard`.
func (h *Host) guards() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || netInode(pid) != h.ns.ino {
			continue
		}
		words, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if argv := bytes.Split(words, []byte{0}); err == nil && len(argv) > 1 && string(argv[1]) == "guard" {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
