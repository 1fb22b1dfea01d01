package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// MountOptions is what a mount may do besides mounting.
type MountOptions struct {
	// ClearMMP takes away an ext4's multiple mount protection where it says
	// that somebody has the file system mounted: only for who knows that this
	// somebody is gone. Otherwise the kernel waits whether it is, 22 to 45 s
	// long, and refuses when it isn't (ext4(5), mmp).
	ClearMMP bool
}

// Mount mounts a volume and makes its mount point. One that is mounted already,
// where it belongs, is left as it is. The error is ErrAbsent, ErrAmbiguous,
// ErrUnfit or ErrInUse where it is one of these.
//
// When ctx ends between two steps, or Mount fails, nothing is mounted; a mount
// point that was made stays.
func Mount(ctx context.Context, v Volume, o MountOptions) error {
	if err := v.check(); err != nil {
		return err
	}
	if v.Network() {
		return mountNetwork(ctx, v)
	}
	h := thisHost()
	d, err := h.resolve(ctx, v)
	if err != nil {
		return err
	}
	if err := unfit(v, d.content); err != nil {
		return v.errorf("%s: %w", d.path, err)
	}
	all, err := allMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	if there, err := mountedAlready(v, d, all); there || err != nil {
		return err
	}
	if err := prepare(ctx, v, d, o); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return v.errorf("mount %s: %w", d.path, err)
	}
	return mountDevice(v, d)
}

// mountedAlready reports whether the device is where it belongs, and nowhere
// else.
func mountedAlready(v Volume, d device, all []mount) (bool, error) {
	here, occupied := top(own(all), v.Path)
	ours := occupied && here.dev() == d.dev && here.Root == "/"
	if occupied && !ours {
		return false, v.errorf("%w: %s is mounted on %s: umount it", ErrInUse, here.Source, v.Path)
	}
	for _, m := range of(all, d.dev) {
		// A copy of our own mount in another namespace came there by itself.
		if ours && m.Mountpoint == v.Path {
			continue
		}
		return false, v.errorf("%w: %s is mounted on %s%s: umount it there", ErrInUse, d.path, m.Mountpoint, m.where(all))
	}
	return ours, nil
}

// where says in whose mount namespace a mount is, when it isn't the first's.
func (m mount) where(all []mount) string {
	if m.namespace == all[0].namespace {
		return ""
	}
	return fmt.Sprintf(" in the mount namespace of process %d (%s)", m.pid, comm(m.pid))
}

// prepare does what comes before a mount of a device.
func prepare(ctx context.Context, v Volume, d device, o MountOptions) error {
	if o.ClearMMP {
		if err := clearMMP(ctx, d); err != nil {
			return v.errorf("%w", err)
		}
	}
	if v.Preen {
		return preen(ctx, v, d)
	}
	return nil
}

// preen repairs what is safe to repair (fsck(8)).
func preen(ctx context.Context, v Volume, d device) error {
	program := "fsck." + v.typeOf(d.content)
	out, code, err := run(ctx, program, "-p", d.path)
	if err != nil {
		return v.errorf("check the file system on %s: %w", d.path, err)
	}
	const corrected, reboot = 1, 2 // and 2 is about a mounted root only
	if code&^(corrected|reboot) != 0 {
		return v.errorf("check the file system on %s: %s -p ended with %d: %s; it needs a person: run %[3]s on one node, while had owns nothing", d.path, program, code, lastLines(out))
	}
	return nil
}

// mountDevice mounts a device by the calls of fsopen(2), not by mount(8): so
// the kernel itself says what is wrong, the device is looked at before anybody
// sees it, and the folder is the one that was opened, whatever its name leads
// to by then.
func mountDevice(v Volume, d device) error {
	fsfd, err := configure(v, d)
	if err != nil {
		return v.errorf("%w", err)
	}
	defer unix.Close(fsfd)
	_, attrs, err := splitOptions(v.Options)
	if err != nil {
		return v.errorf("%w", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return v.errorf("mount %s: %w", d.path, told(fsfd, err))
	}
	defer unix.Close(fd) // without a place, the mount ends with it
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return v.errorf("look at what was mounted from %s: %w", d.path, err)
	}
	if got := devnoOf(st.Dev); got != d.dev {
		return v.errorf("%s was device %s and is %s now: a disk was unplugged and another one plugged in: look with lsblk -f", d.path, d.dev, got)
	}
	dir, err := makePlace(v.Path)
	if err != nil {
		return v.errorf("%w", err)
	}
	defer dir.Close()
	if err := unix.MoveMount(fd, "", int(dir.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return v.errorf("mount %s on %s: %w", d.path, v.Path, err)
	}
	own, err := ownMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	if m, there := top(own, v.Path); !there || m.dev() != d.dev {
		// The folder was renamed meanwhile.
		err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH)
		return v.errorf("%w", errors.Join(fmt.Errorf("%s was mounted, but isn't seen on %s: somebody renamed a folder there", d.path, v.Path), err))
	}
	return nil
}

// configure makes the file system's superblock; the descriptor holds it.
func configure(v Volume, d device) (fsfd int, err error) {
	fstype := v.typeOf(d.content)
	fsfd, err = unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount %s as %s: %w", d.path, fstype, err)
	}
	params, _, err := splitOptions(v.Options)
	if err == nil {
		err = unix.FsconfigSetString(fsfd, "source", d.path)
	}
	for _, p := range params {
		if err != nil {
			break
		}
		key, value, ok := strings.Cut(p, "=")
		if ok {
			err = unix.FsconfigSetString(fsfd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fsfd, key)
		}
		if err != nil {
			err = fmt.Errorf("option %q: %w", p, err)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		err = fmt.Errorf("mount %s as %s: %w", d.path, fstype, told(fsfd, err))
		return -1, errors.Join(err, unix.Close(fsfd))
	}
	return fsfd, nil
}

// told adds what the kernel says of a failure: a line at a time, with a letter
// for its severity in front.
func told(fsfd int, err error) error {
	var lines []string
	buf := make([]byte, 4096)
	for range 16 {
		n, rerr := unix.Read(fsfd, buf)
		if rerr != nil || n <= 0 {
			break
		}
		_, text, _ := strings.Cut(string(buf[:n]), " ")
		lines = append(lines, strings.TrimSpace(text))
	}
	switch {
	case len(lines) > 0:
		return fmt.Errorf("%w: %s", err, strings.Join(lines, "; "))
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: something has the device: look with lsblk and fuser -v", errors.Join(ErrInUse, err))
	default:
		return fmt.Errorf("%w: the kernel's log (dmesg) says more", err)
	}
}

// mountNetwork leaves it to mount(8) and its helpers, which alone know how to
// talk to a server.
func mountNetwork(ctx context.Context, v Volume) error {
	own, err := ownMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	if m, there := top(own, v.Path); there {
		if sameSource(m.Source, v.Device) {
			return nil
		}
		return v.errorf("%w: %s is mounted on %s: umount it", ErrInUse, m.Source, v.Path)
	}
	dir, err := makePlace(v.Path)
	if err != nil {
		return v.errorf("%w", err)
	}
	defer dir.Close()
	args := []string{"--no-canonicalize", "-t", v.FSType}
	if len(v.Options) > 0 {
		args = append(args, "-o", strings.Join(v.Options, ","))
	}
	out, code, err := run(ctx, "mount", append(args, "--", v.Device, v.Path)...)
	if err == nil && code != 0 {
		err = fmt.Errorf("mount ended with %d: %s", code, lastLines(out))
	}
	if err != nil {
		return v.errorf("mount %s on %s: %w", v.Device, v.Path, err)
	}
	if own, err = ownMounts(); err != nil {
		return v.errorf("%w", err)
	}
	if m, there := top(own, v.Path); !there || !sameSource(m.Source, v.Device) {
		return v.errorf("%s was mounted, but isn't seen on %s: somebody changed a folder there", v.Device, v.Path)
	}
	return nil
}

// sameSource compares what a server exports as it was asked for with how the
// kernel shows it.
func sameSource(a, b string) bool {
	trim := func(s string) string { return strings.TrimRight(s, "/") }
	return strings.EqualFold(trim(a), trim(b))
}

// comm is a process's name, for messages.
func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "ended"
	}
	return strings.TrimSpace(string(b))
}
