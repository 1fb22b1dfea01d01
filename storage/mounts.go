package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mount is one entry of a mount namespace's table (proc_pid_mountinfo(5)).
type mount struct {
	*mountinfo.Info

	namespace uint64 // inode of /proc/PID/ns/mnt
	pid       int    // one of the processes in it
}

func (m mount) dev() devno { return devno{uint32(m.Major), uint32(m.Minor)} }

// devno is a device's number, or the made-up one of a file system without a
// device.
type devno struct{ major, minor uint32 }

func (d devno) String() string { return fmt.Sprintf("%d:%d", d.major, d.minor) }

func devnoOf(rdev uint64) devno { return devno{unix.Major(rdev), unix.Minor(rdev)} }

// Mounts lists what is mounted in this process's mount namespace, in the order
// in which it must be mounted.
func Mounts() ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	return infos, nil
}

// ownMounts is Mounts for those who look into other namespaces, too.
func ownMounts() ([]mount, error) {
	own, err := namespaceOf("self")
	if err != nil {
		return nil, err
	}
	infos, err := Mounts()
	if err != nil {
		return nil, err
	}
	ms := make([]mount, len(infos))
	for i, info := range infos {
		ms[i] = mount{Info: info, namespace: own, pid: os.Getpid()}
	}
	return ms, nil
}

// allMounts lists what is mounted in every mount namespace in which a process
// lives that this one can see, its own first.
func allMounts() ([]mount, error) {
	all, err := ownMounts()
	if err != nil {
		return nil, err
	}
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	seen := map[uint64]bool{}
	known := map[int]bool{} // the kernel gives each mount an ID of its own
	for _, m := range all {
		seen[m.namespace], known[m.ID] = true, true
	}
	for _, pid := range pids {
		ns, err := namespaceOf(strconv.Itoa(pid))
		// That of a process with more privileges than this one is hidden, but
		// not what it has mounted (ptrace(2), access mode checking).
		hidden := errors.Is(err, unix.EACCES)
		if gone(err) || seen[ns] && !hidden {
			continue
		}
		if err != nil && !hidden {
			return nil, err
		}
		ms, err := mountsOf(pid, ns)
		if gone(err) {
			continue // another process of that namespace has its turn, or it is gone
		}
		if err != nil {
			return nil, err
		}
		// A process in a chroot(2) sees a part of its namespace only.
		root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
		seen[ns] = !hidden && err == nil && root == "/"
		for _, m := range ms {
			if !known[m.ID] {
				known[m.ID] = true
				all = append(all, m)
			}
		}
	}
	return all, nil
}

// mountsOf lists what a process sees. An ns of 0 is a hidden namespace.
func mountsOf(pid int, ns uint64) ([]mount, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read what process %d has mounted: %w", pid, err)
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("read what process %d has mounted: %w", pid, err)
	}
	ms := make([]mount, len(infos))
	for i, info := range infos {
		ms[i] = mount{Info: info, namespace: ns, pid: pid}
	}
	return ms, nil
}

// namespaceOf returns the mount namespace of a process.
func namespaceOf(pid string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(filepath.Join("/proc", pid, "ns/mnt"), &st)
	if errors.Is(err, unix.EACCES) { // also said of a process that ends just now
		if _, gone := os.Stat(filepath.Join("/proc", pid)); gone != nil {
			err = gone
		}
	}
	if err != nil {
		return 0, fmt.Errorf("look which mount namespace process %s is in: %w", pid, err)
	}
	return st.Ino, nil
}

// processes lists the IDs of all processes that this one can see.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// gone reports whether an error only says that a process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}

// own returns those in this process's namespace, of allMounts.
func own(all []mount) []mount {
	return slices.DeleteFunc(slices.Clone(all), func(m mount) bool { return m.namespace != all[0].namespace })
}

// of returns the mounts of one device.
func of(all []mount, dev devno) []mount {
	return slices.DeleteFunc(slices.Clone(all), func(m mount) bool { return m.dev() != dev })
}

// top returns what is seen at path: the last that was mounted there.
func top(own []mount, path string) (mount, bool) {
	for _, m := range slices.Backward(own) {
		if m.Mountpoint == path {
			return m, true
		}
	}
	return mount{}, false
}
