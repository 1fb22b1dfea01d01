package storage

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The kernel says EBUSY for some milliseconds after the last process that
	// used a file system has died.
	unmountPatience = time.Second
	unmountPause    = time.Millisecond
)

// Unmount unmounts a volume in order: what was written is on the device when it
// returns nil, and it has proven that the volume is free, as Unused does. One
// that isn't mounted is only proven to be free. It waits about a second for
// who still uses it, or until ctx ends; then the error is a *BusyError.
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
		return Unused(ctx, v)
	}
	err = unmountPatiently(ctx, v.Path, 0)
	if errors.Is(err, unix.EBUSY) {
		return h.busy(v, m.dev(), err)
	}
	if err != nil {
		return v.errorf("unmount %s: %w", v.Path, err)
	}
	return h.freed(ctx, v, m.dev())
}

// unmountPatiently unmounts what is seen at path, and tries again while the
// kernel says that it is in use.
func unmountPatiently(ctx context.Context, path string, flags int) error {
	ctx, cancel := context.WithTimeout(ctx, unmountPatience)
	defer cancel()
	for pause := unmountPause; ; pause = min(2*pause, 20*time.Millisecond) {
		err := unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW)
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
