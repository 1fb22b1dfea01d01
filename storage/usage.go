package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// usage looks for those who use file systems.
type usage struct {
	sites []site
	// near are the places where they are mounted, if only what is there by its name
	// is worth a closer look: quick, and blind to what was unmounted lazily.
	near   []string
	quick  bool          // may decides who is looked at
	marks  [][]byte      // of their devices, as in proc_pid_maps(5)
	mounts map[int]devno // of every mount, by its ID
}

// site is a file system, and where it is or was mounted.
type site struct {
	dev  devno
	path string
}

func newUsage(all []mount, sites ...site) usage {
	l := usage{sites: sites, mounts: map[int]devno{}}
	for _, m := range all {
		l.mounts[m.ID] = m.dev()
	}
	for _, p := range sites {
		l.marks = append(l.marks, fmt.Appendf(nil, " %02x:%02x ", p.dev.major, p.dev.minor))
	}
	return l
}

// glance says what a process, by its folder in /proc, has of the file systems; empty:
// nothing. device: it only has a device itself open.
type glance func(l usage, proc string) (what string, device bool)

// glances are all, the quick ones first. The last may hang: it waits for a process
// that changes its memory while that waits for a device that doesn't answer.
func glances() []glance { return []glance{usage.opened, usage.mapped} }

// user is a glance at a process, and at its other threads where the first has ended.
func (l usage) user(pid int, at glance) (u User, device bool) {
	proc := "/proc/" + strconv.Itoa(pid)
	u.What, device = at(l, proc)
	if u.What == "" && headless(proc) {
		for _, t := range names(proc + "/task") {
			if u.What, device = at(l, proc+"/task/"+t); u.What != "" {
				break
			}
		}
	}
	if u.What != "" {
		u.PID, u.Comm, u.Device = pid, comm(pid), device
	}
	return u, device
}

// headless reports whether the first thread of a process has ended, and with it what
// the process's folder in /proc says of files, though other threads still have them
// open. It is asked after the folder said nothing, since the thread may end at any
// moment: it loses its program before its files (do_exit in kernel/exit.c of Linux).
func headless(proc string) bool {
	_, err := os.Readlink(proc + "/exe")
	return err != nil
}

// opened is a glance at files and folders.
func (l usage) opened(proc string) (what string, device bool) {
	for _, link := range []struct{ name, what string }{{"cwd", "working folder"}, {"root", "root folder"}, {"exe", "program"}} {
		path := proc + "/" + link.name
		if to := target(path); l.concerns(to) && l.leadsTo(path) {
			return link.what + " " + to, false
		}
	}
	for _, fd := range names(proc + "/fd") {
		path := proc + "/fd/" + fd
		to := target(path)
		if !strings.HasPrefix(to, "/") || !l.concerns(to) {
			continue // a socket, a pipe, or elsewhere
		}
		if strings.HasPrefix(to, "/dev/") && l.leadsTo(path) {
			what, device = "open device "+to, true
			continue
		}
		// Looking at a file of another, dead file system could take for ever,
		// and the kernel says where it is. Not so for what was unmounted lazily.
		id, _ := mountOfFD(proc + "/fdinfo/" + fd)
		switch dev, mounted := l.mounts[id]; {
		case !mounted && l.isDevice(path): // by its name elsewhere
			what, device = "open device "+to, true
		case mounted && l.at(dev), !mounted && l.leadsTo(path):
			return "open file " + to, false
		}
	}
	return what, device
}

// mapped is a glance at mapped files.
func (l usage) mapped(proc string) (what string, device bool) {
	text, _ := os.ReadFile(proc + "/maps")
	for _, mark := range l.marks {
		for rest := text; ; {
			i := bytes.Index(rest, mark)
			if i < 0 {
				break
			}
			line := rest[bytes.LastIndexByte(rest[:i], '\n')+1:]
			line, rest, _ = bytes.Cut(line, []byte{'\n'})
			f := strings.Fields(string(line))
			if len(f) >= 6 && " "+f[3]+" " == string(mark) {
				return "mapped file " + strings.Join(f[5:], " "), false
			}
		}
	}
	return "", false
}

// may reports whether a process may have something of the file systems open, by
// names alone: quickly, since it is asked of every process.
func (l usage) may(pid int) bool {
	proc, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // it has ended
	}
	defer unix.Close(proc)
	buf := make([]byte, 4096)
	leads := func(dir int, name string) bool {
		n, err := unix.Readlinkat(dir, name, buf)
		return err == nil && l.concerns(string(buf[:n]))
	}
	if leads(proc, "cwd") || leads(proc, "root") || leads(proc, "exe") {
		return true
	}
	if fds, err := unix.Openat(proc, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		defer unix.Close(fds)
		entries := make([]byte, 8192)
		for n, err := unix.ReadDirent(fds, entries); n > 0 && err == nil; n, err = unix.ReadDirent(fds, entries) {
			_, _, names := unix.ParseDirent(entries[:n], -1, nil)
			if slices.ContainsFunc(names, func(fd string) bool { return leads(fds, fd) }) {
				return true
			}
		}
	}
	if _, err := unix.Readlinkat(proc, "exe", buf); err == nil {
		return false
	}
	// One without a program is the kernel's, a zombie, or headless.
	var tasks unix.Stat_t
	return unix.Fstatat(proc, "task", &tasks, 0) == nil && tasks.Nlink > threadless+1
}

// threadless is how many links to /proc/PID/task there would be without threads;
// each adds one.
const threadless = 2

// concerns reports whether what has this name may be on the file systems. To follow
// a link to it could take for ever, on a server that doesn't answer.
func (l usage) concerns(name string) bool {
	return l.near == nil || slices.ContainsFunc(l.near, func(p string) bool { return within(name, p) })
}

func (l usage) at(dev devno) bool {
	return slices.ContainsFunc(l.sites, func(p site) bool { return p.dev == dev })
}

// leadsTo reports whether a link of /proc leads to one of the file systems or its
// device. One that was shut down may say nothing of itself but EIO.
func (l usage) leadsTo(link string) bool {
	on, device, err := deviceOf(link)
	if err != nil {
		return errors.Is(err, unix.EIO) && slices.ContainsFunc(l.sites, func(p site) bool { return within(target(link), p.path) })
	}
	return l.at(on) || device != devno{} && l.at(device)
}

// isDevice reports whether a link of /proc leads to the device of one of the file
// systems.
func (l usage) isDevice(link string) bool {
	_, device, err := deviceOf(link)
	return err == nil && device != devno{} && l.at(device)
}

// onDevice reports whether a path leads to the file system on a device, or to
// the device itself. No server is asked.
func onDevice(path string, dev devno) (bool, error) {
	on, device, err := deviceOf(path)
	return err == nil && (on == dev || device == dev), err
}

// deviceOf returns the device of the file system that a path leads to, and which
// one the path is itself; zero: it is none.
func deviceOf(path string) (on, device devno, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return devno{}, devno{}, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		device = devno{st.Rdev_major, st.Rdev_minor}
	}
	return devno{st.Dev_major, st.Dev_minor}, device, nil
}

// mountOfFD reads the ID of the mount that a descriptor's file is on
// (proc_pid_fdinfo(5)).
func mountOfFD(fdinfo string) (id int, ok bool) {
	b, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if value, found := strings.CutPrefix(line, "mnt_id:"); found {
			id, err := strconv.Atoi(strings.TrimSpace(value))
			return id, err == nil
		}
	}
	return 0, false
}

// names lists a folder, as far as it can be.
func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Readdirnames(-1)
	return all
}

func target(link string) string {
	t, err := os.Readlink(link)
	if err != nil {
		return "?"
	}
	return t
}
