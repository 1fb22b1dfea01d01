package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// User is something that keeps a volume from being unmounted.
type User struct {
	PID  int    // 0: no process, but something that What describes
	Comm string // the process's name
	What string // what it has: "working folder /srv/web", "open file /srv/web/log"

	// Device says that it has nothing of the file system, and only the device
	// itself open: that keeps it if it was opened with O_EXCL, which doesn't show.
	Device bool
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
	l := newUsage(all, site{dev, v.Path})
	var opened []User
	for _, at := range glances() {
		for _, pid := range pids {
			switch u, device := l.user(pid, at); {
			case device:
				opened = append(opened, u)
			case u.What != "":
				users = append(users, u)
			}
		}
		if len(users) > 0 {
			break
		}
	}
	if len(users) == 0 {
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
