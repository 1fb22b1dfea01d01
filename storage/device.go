package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is where a system keeps what is looked at here; tests make others.
type host struct {
	sys   string   // where sysfs is mounted
	fstab string   // the file
	units []string // folders with systemd's units, the most important first

	shutdown int // what a file system still writes when it is shut down
}

func thisHost() host {
	return host{
		sys:      "/sys",
		fstab:    "/etc/fstab",
		shutdown: shutdownNoLog,
		units: []string{
			"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator.early", "/run/systemd/generator",
			"/run/systemd/generator.late", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
		},
	}
}

// DeviceOf returns the path in /dev of the one block device that a volume is on.
func DeviceOf(ctx context.Context, v Volume) (string, error) {
	if err := v.check(); err != nil {
		return "", err
	}
	if v.Network() {
		return "", v.errorf("it is a server's: it has no device here")
	}
	d, err := thisHost().resolve(ctx, v)
	return d.path, err
}

// device is a block device of this host.
type device struct {
	content

	dev  devno
	path string // in /dev: as the kernel calls it, or as the volume does
}

// resolve finds the one device of a volume, and what is on it. The error is
// ErrAbsent or ErrAmbiguous where there is none, or more than one.
func (h host) resolve(ctx context.Context, v Volume) (device, error) {
	ds, err := h.candidates(ctx, v)
	if err != nil {
		return device{}, err
	}
	if len(ds) > 1 {
		var paths []string
		for _, d := range ds {
			paths = append(paths, d.path)
		}
		return device{}, v.errorf("%w: %s is on %s; one is most likely a copy, and mounting the wrong one would go unnoticed: give the copy another (tune2fs -U random, xfs_admin -U generate, -L for labels) or unplug it",
			ErrAmbiguous, v.Device, strings.Join(paths, ", "))
	}
	d := ds[0]
	if d.content, err = inspect(ctx, d.path); err != nil {
		return device{}, v.errorf("%s: %w", d.path, err)
	}
	return d, nil
}

// candidates finds every device that a volume's name fits, at least one.
func (h host) candidates(ctx context.Context, v Volume) ([]device, error) {
	name, value, ok := v.tag()
	if !ok {
		dev, err := stat(v)
		return []device{{dev: dev, path: v.Device}}, err
	}
	all, err := h.blockDevices()
	if err != nil {
		return nil, v.errorf("look for %s: %w", v.Device, err)
	}
	silent, err := search(ctx, all)
	if err != nil {
		return nil, v.errorf("look for %s: %w", v.Device, err)
	}
	found := slices.DeleteFunc(all, func(d *device) bool { return !d.has(name, value) })
	found = h.withoutParts(found)
	if len(found) == 0 {
		hint := "lsblk -f shows what there is: look whether the disk is connected and its LVM activated"
		if len(silent) > 0 {
			hint = strings.Join(silent, ", ") + " didn't answer"
		}
		return nil, v.errorf("%w: none has %s; %s", ErrAbsent, v.Device, hint)
	}
	ds := make([]device, len(found))
	for i, d := range found {
		ds[i] = *d
	}
	return ds, nil
}

// stat returns the number of the device that a path names.
func stat(v Volume) (devno, error) {
	var st unix.Stat_t
	err := unix.Stat(v.Device, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return devno{}, v.errorf("%w: %s isn't there: look whether the disk is connected and its LVM activated", ErrAbsent, v.Device)
	case err != nil:
		return devno{}, v.errorf("look at %s: %w", v.Device, err)
	case st.Mode&unix.S_IFMT != unix.S_IFBLK:
		return devno{}, v.errorf("%w: %s is no block device", ErrUnfit, v.Device)
	}
	return devnoOf(st.Rdev), nil
}

// blockDevices lists the devices that could hold a file system: no empty ones,
// no memory, and no disk that is divided into partitions.
func (h host) blockDevices() ([]*device, error) {
	entries, err := os.ReadDir(filepath.Join(h.sys, "class/block"))
	if err != nil {
		return nil, err
	}
	var ds []*device
	for _, e := range entries {
		dir := filepath.Join(h.sys, "class/block", e.Name())
		if parts, _ := filepath.Glob(filepath.Join(dir, "*/partition")); len(parts) > 0 {
			continue
		}
		d, err := h.block(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // unplugged just now
		}
		if err != nil {
			return nil, err
		}
		if size, _ := os.ReadFile(filepath.Join(dir, "size")); strings.TrimSpace(string(size)) != "0" {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// block reads a device's number and name from its folder in sysfs.
func (h host) block(dir string) (*device, error) {
	b, err := os.ReadFile(filepath.Join(dir, "uevent"))
	if err != nil {
		return nil, err
	}
	d := &device{}
	for line := range strings.Lines(string(b)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); name {
		case "MAJOR":
			_, err = fmt.Sscan(value, &d.dev.major)
		case "MINOR":
			_, err = fmt.Sscan(value, &d.dev.minor)
		case "DEVNAME":
			d.path = filepath.Join("/dev", value)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s/uevent: %w", dir, err)
		}
	}
	if d.path == "" {
		return nil, fmt.Errorf("read %s/uevent: it has no DEVNAME", dir)
	}
	return d, nil
}

// named returns the device of a number.
func (h host) named(dev devno) (device, error) {
	d, err := h.block(filepath.Join(h.sys, "dev/block", dev.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return device{}, fmt.Errorf("%w as %s any more", ErrAbsent, dev)
	}
	if err != nil {
		return device{}, err
	}
	return *d, nil
}

// withoutParts leaves out the devices that another of the list is made of: the
// paths of a multipath device show what is on it, too.
func (h host) withoutParts(ds []*device) []*device {
	parts := map[string]bool{} // by their names in sysfs
	for _, d := range ds {
		for _, below := range h.below(filepath.Join(h.sys, "dev/block", d.dev.String())) {
			parts[below] = true
		}
	}
	return slices.DeleteFunc(ds, func(d *device) bool {
		return parts[strings.ReplaceAll(strings.TrimPrefix(d.path, "/dev/"), "/", "!")]
	})
}

// below lists the devices that the one with this folder in sysfs is made of,
// at any depth, by their names there.
func (h host) below(dir string) []string {
	var names []string
	slaves, _ := os.ReadDir(filepath.Join(dir, "slaves")) // none: it is made of itself
	for _, s := range slaves {
		if !slices.Contains(names, s.Name()) {
			names = append(names, s.Name())
			names = append(names, h.below(filepath.Join(h.sys, "class/block", s.Name()))...)
		}
	}
	return names
}
