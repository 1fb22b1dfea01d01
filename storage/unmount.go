package storage

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The kernel says EBUSY for some milliseconds after the last process that
	// used a file system has died.
	busyPatience = time.Second
	busyPause    = time.Millisecond
)

// Unmount unmounts a volume in order: what was written is on the device when it
// returns nil, and it has proven that the volume is free, as Unused does. One
// that isn't mounted is only proven to be free. It waits about a second for
// who still uses it, or until ctx ends; then the error is a *BusyError. When
// something of what was written couldn't be brought to the device, it says so
// and leaves the volume mounted.
func Unmount(ctx context.Context, v Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	own, err := ownMounts()
	if err != nil {
		return v.errorf("%w", err)
	}
	h := thisHost()
	m, mounted := h.mountedHere(ctx, v, own)
	if !mounted {
		return h.proof(ctx, v)
	}
	if err := Flush(v); err != nil { // unmounting doesn't say what was lost
		return err
	}
	if err := unmountPatiently(ctx, v.Path, 0); err != nil {
		return h.stillThere(v, m.dev(), err)
	}
	return h.freed(ctx, v, m.dev())
}

// Flush writes all that there is to write to a mounted volume, which may be in use:
// unmounted soon after, it is so quickly.
func Flush(v Volume) error {
	f, err := os.OpenFile(v.Path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return v.errorf("write what isn't on its disk yet: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return v.errorf("write what isn't on its disk yet, on %s: %w; what was acknowledged as synced is there, the rest may be lost", v.Path, err)
	}
	return nil
}

// unmountPatiently unmounts what is seen at path, and tries again while the
// kernel says that it is in use.
func unmountPatiently(ctx context.Context, path string, flags int) error {
	return patiently(ctx, func() error { return unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW) })
}

// patiently calls f again for about a second as long as it says EBUSY.
func patiently(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, busyPatience)
	defer cancel()
	for pause := busyPause; ; pause = min(2*pause, 20*time.Millisecond) {
		err := f()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// mountedHere finds the volume's mount where it belongs. Something else that
// is mounted there isn't ours to unmount; what can't be told from the volume,
// because its device doesn't answer, is taken for it.
func (h host) mountedHere(ctx context.Context, v Volume, own []mount) (mount, bool) {
	m, there := top(own, v.Path)
	if !there {
		return mount{}, false
	}
	if v.Network() {
		return m, sameSource(m.Source, v.Device)
	}
	if was, known := parseIdentity(v.Mounted); known && was.dev == m.dev() && h.fateOf(was) != replaced {
		return m, true
	}
	name, value, ok := v.tag()
	if !ok {
		dev, err := stat(v)
		return m, m.Source == v.Device || err == nil && dev == m.dev() // a link may lead elsewhere by now
	}
	if dev, ok := linked(name, value); ok && dev == m.dev() {
		return m, true
	}
	d, err := h.named(m.dev())
	if err != nil {
		return m, m.Major != 0 // a device that has vanished; 0: there never was one
	}
	silent, err := search(ctx, []*device{&d})
	return m, err != nil || len(silent) > 0 || d.has(name, value)
}
