package storage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Unused proves that a volume is free: on this host nobody can write to it any
// more by way of a mount. It changes nothing. nil is the proof:
//
//   - no process that this one can see has it mounted, in whichever mount
//     namespace,
//   - and, but for a network file system, its device could be opened with
//     O_EXCL, which the kernel allows only while nothing else claims it: no
//     mount, hidden ones included, and no device that is made of it (open(2)).
//
// A device that isn't there proves nothing: ErrAbsent. Only when it is known
// which one it was (Volume.Mounted), and the kernel has deleted that, it does:
// what is left of it writes nowhere any more. Where several devices match, all of
// them must be free. When one isn't, the error is a *BusyError.
func Unused(ctx context.Context, v Volume) error {
	if err := v.check(); err != nil {
		return err
	}
	return thisHost().proof(ctx, v)
}

func (h host) proof(ctx context.Context, v Volume) error {
	if v.Network() {
		return h.free(ctx, v, nil, exclusive)
	}
	devs, err := h.suspects(ctx, v)
	if err != nil {
		return err
	}
	return h.free(ctx, v, devs, exclusive)
}

func numbers(ds []device) []devno {
	devs := make([]devno, len(ds))
	for i, d := range ds {
		devs[i] = d.dev
	}
	return devs
}

// freed is the proof for a volume that was unmounted from a device just now.
func (h host) freed(ctx context.Context, v Volume, dev devno) error {
	if v.Network() {
		return h.free(ctx, v, nil, exclusive)
	}
	// What the kernel closes late, and a look of udev's, take a moment.
	err := h.free(ctx, v, []devno{dev}, func(path string) error {
		return patiently(ctx, func() error { return exclusive(path) })
	})
	if _, there := h.identify(dev); err == nil && !there { // unplugged, and maybe back under another name
		v.Mounted = identity{dev: dev}.String()
		return h.proof(ctx, v)
	}
	return err
}

// free is the proof, for devices by their numbers. open is exclusive.
func (h host) free(ctx context.Context, v Volume, devs []devno, open func(path string) error) error {
	if err := ctx.Err(); err != nil {
		return v.errorf("look whether it is free: %w", err)
	}
	all, err := allMounts()
	if err != nil {
		return v.errorf("look whether it is free: %w", err)
	}
	for _, m := range all {
		if slices.Contains(devs, m.dev()) || v.Network() && sameSource(m.Source, v.Device) {
			users := h.users(v, m.dev(), all)
			if m.Mountpoint == v.Path && m.namespace == all[0].namespace {
				users = append(users, User{What: "its mount on " + v.Path})
			}
			return &BusyError{Volume: v, Err: errStillMounted, Users: users}
		}
	}
	for _, dev := range devs {
		if _, there := h.identify(dev); !there {
			continue // see fateOf
		}
		d, err := h.named(dev)
		if err == nil {
			err = open(d.path)
		}
		switch {
		case errors.Is(err, unix.EBUSY):
			return &BusyError{Volume: v, Err: err, Users: h.users(v, dev, all)}
		case err != nil:
			return v.errorf("look whether it is free: %w", err)
		}
	}
	return nil
}

// exclusive opens a device as a mount would, and closes it again.
func exclusive(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("open %s with O_EXCL: %w: %w", path, ErrAbsent, err)
	}
	if err != nil {
		return fmt.Errorf("open %s with O_EXCL: %w", path, err)
	}
	return unix.Close(fd)
}

// linked finds the device of a tag among udev's links, without a look at any
// disk. A link leads to one device, even if several have the tag.
func linked(name, value string) (devno, bool) {
	var st unix.Stat_t
	err := unix.Stat(filepath.Join("/dev/disk/by-"+strings.ToLower(name), udevName(value)), &st)
	return devnoOf(st.Rdev), err == nil
}

// udevName is a value as udev has it in a link's name. Bytes beyond ASCII stay
// as they are.
func udevName(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		alnum := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= 0x80
		if alnum || strings.IndexByte("#+-.:=@_", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
