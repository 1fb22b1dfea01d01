package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"had/internal/thread"
)

// Secure ends volumes by force and proves that they are free, as Unused does.
// Those given are in the order in which they are mounted. First, no file system takes
// another write; then all are unmounted, in every mount namespace, with whatever else
// is mounted on them: side by side, so that none waits for another's disk or server,
// but one that is mounted below another goes first.
// What was synced before is kept, what wasn't may be lost.
//
// Whoever writes must be dead before: a sync that is under way may otherwise
// report success for what is lost. One volume that can't be ended doesn't keep
// the others from it; the error names all. nil is the proof for all.
func Secure(ctx context.Context, vs []Volume) error { return thisHost().secure(ctx, vs) }

func (h host) secure(ctx context.Context, vs []Volume) error {
	here, err := ownMounts()
	if err != nil {
		return fmt.Errorf("end the volumes by force: %w", err)
	}
	var errs []error
	ends := make([]ending, 0, len(vs))
	for _, v := range slices.Backward(vs) {
		e, err := h.ending(ctx, v, here)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ends = append(ends, e)
	}
	var all sync.WaitGroup
	done := make([]chan struct{}, len(ends))
	results := make([]error, len(ends))
	for i := range ends {
		done[i] = make(chan struct{})
		all.Go(func() {
			defer close(done[i])
			e := &ends[i]
			if !e.Network() { // it has no such request, and to open its folder would be one to its server
				e.shut = h.shutDown(e.mounts, e.dev)
			}
			for j := range i {
				if within(ends[j].Path, e.Path) {
					<-done[j]
				}
			}
			results[i] = h.end(ctx, *e)
		})
	}
	all.Wait()
	return errors.Join(append(errs, results...)...)
}

// ending is what becomes of a volume.
type ending struct {
	Volume

	dev    devno   // of its file system
	mounts []mount // of it; none: it isn't mounted
	shut   error   // why its file system may still take writes
}

// ending finds out what there is to end. Mostly, the volume is where it
// belongs, and a look at the others' namespaces, and at disks, can wait.
func (h host) ending(ctx context.Context, v Volume, here []mount) (ending, error) {
	if err := v.check(); err != nil {
		return ending{}, err
	}
	if m, mounted := h.mountedHere(ctx, v, here); mounted {
		return ending{Volume: v, dev: m.dev(), mounts: of(here, m.dev())}, nil
	}
	all, err := allMounts()
	if err != nil {
		return ending{}, v.errorf("%w", err)
	}
	var devs []devno
	if v.Network() {
		for _, m := range all {
			if sameSource(m.Source, v.Device) {
				devs = append(devs, m.dev())
			}
		}
	} else {
		if devs, err = h.suspects(ctx, v); err != nil {
			return ending{}, err
		}
	}
	for _, dev := range devs {
		if ms := of(all, dev); len(ms) > 0 {
			return ending{Volume: v, dev: dev, mounts: ms}, nil
		}
	}
	return ending{Volume: v}, nil
}

func (h host) end(ctx context.Context, e ending) error {
	if len(e.mounts) == 0 {
		return h.proof(ctx, e.Volume)
	}
	err := h.unmountByForce(ctx, e)
	if err != nil && e.shut != nil {
		err = errors.Join(err, e.errorf("it may still be written: %w", e.shut))
	}
	return err
}

func (h host) unmountByForce(ctx context.Context, e ending) error {
	here, err := ownMounts()
	if err == nil {
		err = unmountIn(ctx, e, here)
	}
	if err != nil {
		return h.stillThere(e.Volume, e.dev, err)
	}
	err = h.freed(ctx, e.Volume, e.dev)
	if !errors.Is(err, errStillMounted) {
		return err
	}
	if err := unmountElsewhere(ctx, e); err != nil {
		return h.stillThere(e.Volume, e.dev, err)
	}
	return h.freed(ctx, e.Volume, e.dev)
}

// Abandon has whatever waits for the server of a network file system fail, so that
// who waits can be killed, and unmounts it if nobody uses it: what was written and isn't
// with the server is lost. It is for servers that don't answer. It proves nothing.
func Abandon(v Volume) error {
	here, err := ownMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	if m, there := top(here, v.Path); !v.Network() || !there || !sameSource(m.Source, v.Device) {
		return nil
	}
	err = unix.Unmount(v.Path, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: they have still to end
		return v.errorf("give up what waits for its server: %w", err)
	}
	return nil
}

// unmountElsewhere unmounts the file system in every mount namespace that has
// it.
func unmountElsewhere(ctx context.Context, e ending) error {
	all, err := allMounts()
	if err != nil {
		return err
	}
	for left := of(all, e.dev); len(left) > 0; {
		ns := left[0].namespace
		there := slices.DeleteFunc(slices.Clone(all), func(m mount) bool { return m.namespace != ns })
		if err := inNamespace(left[0], func() error { return unmountIn(ctx, e, there) }); err != nil {
			return fmt.Errorf("%w%s", err, left[0].where(all))
		}
		left = slices.DeleteFunc(left, func(m mount) bool { return m.namespace == ns })
	}
	return nil
}

// unmountIn unmounts in the namespace of the calling thread, the last mounted
// first.
func unmountIn(ctx context.Context, e ending, mounts []mount) error {
	var flags int
	if e.Network() {
		flags = unix.MNT_FORCE // requests that wait for the server fail: umount(2)
	}
	var places []string
	for _, m := range of(mounts, e.dev) {
		places = append(places, m.Mountpoint)
	}
	for _, m := range slices.Backward(mounts) {
		if !slices.ContainsFunc(places, func(p string) bool { return within(m.Mountpoint, p) }) {
			continue
		}
		err := unmountPatiently(ctx, m.Mountpoint, flags)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it went with another one
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// inNamespace calls f on a thread in the mount namespace of a mount.
func inNamespace(m mount, f func() error) error {
	ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(m.pid), "ns/mnt"))
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	thread.Go(func() {
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
		}
		if err == nil {
			err = f()
		}
		done <- err
	})
	return <-done
}

// Requests to a file system: XFS_IOC_GOINGDOWN of fs/xfs/libxfs/xfs_fs.h, which
// ext4 and f2fs took over as EXT4_IOC_SHUTDOWN and F2FS_IOC_SHUTDOWN, with how
// much is still written.
const (
	iocShutdown   = 0x8004587d
	shutdownLog   = 1 // the log
	shutdownNoLog = 2 // nothing: see DESIGN.md, "By force"
)

// shutdown makes every write to a file system fail from now on, whoever has it
// open, however it is mounted besides. For one that can't do that, such as vfat
// or nfs, unmounting is all that there is.
func (h host) shutDown(mounts []mount, dev devno) error {
	var err error
	for _, m := range mounts {
		if err = shutdownAt(fmt.Sprintf("/proc/%d/root%s", m.pid, m.Mountpoint), dev, h.shutdown); err == nil {
			return nil
		}
	}
	return err
}

func shutdownAt(path string, dev devno, how int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("shut down its file system: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("shut down its file system: %w", err)
	}
	if devnoOf(st.Dev) != dev {
		return fmt.Errorf("shut down its file system: another one is mounted over it on %s", f.Name())
	}
	for {
		err = unix.IoctlSetPointerInt(int(f.Fd()), iocShutdown, how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err == nil, errors.Is(err, unix.EIO): // EIO: it was shut down before
		return nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		return nil
	default:
		return fmt.Errorf("shut down its file system: %w", err)
	}
}
