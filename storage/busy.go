package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// User is something that keeps a volume from being unmounted.
type User struct {
	PID  int    // 0: no process, but something that What describes
	Comm string // the process's name
	What string // what it has: "working folder /srv/web", "open file /srv/web/log"
}

func (u User) String() string {
	if u.PID == 0 {
		return u.What
	}
	return fmt.Sprintf("%s[%d]: %s", u.Comm, u.PID, u.What)
}

// errStillMounted is what free says itself, in the kernel's place.
var errStillMounted = errors.New("it is still mounted")

// BusyError says that a volume couldn't be unmounted, or is still held after
// that, and who keeps it. errors.Is says that it is ErrInUse.
type BusyError struct {
	Volume Volume
	Err    error  // what the kernel said
	Users  []User // one entry a process; none: nobody was found
}

func (e *BusyError) Error() string {
	const most = 10
	var who []string
	for _, u := range e.Users[:min(most, len(e.Users))] {
		who = append(who, u.String())
	}
	if n := len(e.Users) - most; n > 0 {
		who = append(who, fmt.Sprintf("and %d more", n))
	}
	if len(who) == 0 {
		who = []string{"nobody was found: look with lsblk, swapon and losetup -a, and whether it is exported by NFS"}
	}
	return fmt.Sprintf("volume %s isn't free: %v; in use by %s", e.Volume.Name, e.Err, strings.Join(who, ", "))
}

// Unwrap returns what the kernel said, and ErrInUse.
func (e *BusyError) Unwrap() []error { return []error{e.Err, ErrInUse} }

// users looks for whoever keeps the file system or the device. What it can't
// look at it leaves out: it explains a failure, and proves nothing.
func (h host) users(v Volume, dev devno, all []mount) []User {
	users := h.holders(dev)
	for _, m := range all {
		switch {
		case m.dev() == dev && (m.Mountpoint != v.Path || m.namespace != all[0].namespace):
			users = append(users, User{What: "the mount on " + m.Mountpoint + m.where(all)})
		case m.namespace == all[0].namespace && m.Mountpoint != v.Path && within(m.Mountpoint, v.Path):
			users = append(users, User{What: fmt.Sprintf("%s, mounted on %s", m.Source, m.Mountpoint)})
		}
	}
	pids, err := processes()
	if err != nil {
		return users
	}
	l := usage{dev: dev, path: v.Path, mounts: map[int]devno{}}
	for _, m := range all {
		l.mounts[m.ID] = m.dev()
	}
	var opened []User
	for _, pid := range pids {
		switch what, device := l.uses(filepath.Join("/proc", strconv.Itoa(pid))); {
		case device:
			opened = append(opened, User{PID: pid, Comm: comm(pid), What: what})
		case what != "":
			users = append(users, User{PID: pid, Comm: comm(pid), What: what})
		}
	}
	if len(users) == 0 { // the device keeps only who opened it with O_EXCL, which doesn't show
		return opened
	}
	return users
}

// holders lists what has a device but no process: those in front of it, swap,
// and loop devices on its files.
func (h host) holders(dev devno) []User {
	var users []User
	above, _ := os.ReadDir(filepath.Join(h.sys, "dev/block", dev.String(), "holders"))
	for _, a := range above {
		users = append(users, User{What: "device /dev/" + a.Name() + ", which is made of it"})
	}
	loops, _ := filepath.Glob(filepath.Join(h.sys, "class/block/loop*/loop/backing_file"))
	for _, l := range loops {
		file, _ := os.ReadFile(l)
		name := strings.TrimSpace(string(file))
		if is, _ := onDevice(name, dev); is {
			users = append(users, User{What: fmt.Sprintf("/dev/%s on the file %s", filepath.Base(filepath.Dir(filepath.Dir(l))), name)})
		}
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(swaps)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if is, _ := onDevice(f[0], dev); is {
			users = append(users, User{What: "swap on " + f[0]})
		}
	}
	return users
}

// usage looks for those who use one file system.
type usage struct {
	dev    devno
	path   string        // where it is or was mounted
	mounts map[int]devno // of every mount, by its ID
}

// uses says what a process has of the file system, by its folder in /proc, or
// that it only has the device itself open.
func (l usage) uses(proc string) (what string, device bool) {
	for _, link := range []struct{ name, what string }{{"cwd", "working folder"}, {"root", "root folder"}, {"exe", "program"}} {
		if path := filepath.Join(proc, link.name); l.leadsTo(path) {
			return link.what + " " + target(path), false
		}
	}
	fds, _ := os.ReadDir(filepath.Join(proc, "fd"))
	for _, fd := range fds {
		path := filepath.Join(proc, "fd", fd.Name())
		// Looking at a file of another, dead file system could take for ever,
		// and the kernel says where it is. Not so for what was unmounted
		// lazily, and for devices.
		id, _ := mountOfFD(filepath.Join(proc, "fdinfo", fd.Name()))
		dev, mounted := l.mounts[id]
		switch to := target(path); {
		case mounted && dev == l.dev, !mounted && l.leadsTo(path):
			return "open file " + to, false
		case strings.HasPrefix(to, "/dev/") && l.leadsTo(path):
			what, device = "open device "+to, true
		}
	}
	maps, _ := os.ReadFile(filepath.Join(proc, "maps"))
	mark := fmt.Sprintf("%02x:%02x", l.dev.major, l.dev.minor)
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) >= 6 && f[3] == mark {
			return "mapped file " + strings.Join(f[5:], " "), false
		}
	}
	return what, device
}

// leadsTo reports whether a link of /proc leads to the file system or its
// device. One that was shut down may say nothing of itself but EIO.
func (l usage) leadsTo(link string) bool {
	is, err := onDevice(link, l.dev)
	return is || errors.Is(err, unix.EIO) && within(target(link), l.path)
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

// onDevice reports whether a path leads to the file system on a device, or to
// the device itself. No server is asked.
func onDevice(path string, dev devno) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return false, err
	}
	is := devno{st.Dev_major, st.Dev_minor} == dev
	return is || st.Mode&unix.S_IFMT == unix.S_IFBLK && devno{st.Rdev_major, st.Rdev_minor} == dev, nil
}

func target(link string) string {
	t, err := os.Readlink(link)
	if err != nil {
		return "?"
	}
	return t
}

// stillThere explains why a volume couldn't be unmounted.
func (h host) stillThere(v Volume, dev devno, err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return v.errorf("unmount %s: %w", v.Path, err)
	}
	all, lost := allMounts()
	if lost != nil {
		return &BusyError{Volume: v, Err: errors.Join(err, lost)}
	}
	return &BusyError{Volume: v, Err: err, Users: h.users(v, dev, all)}
}
