package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// identity tells a device from all others that this kernel has or had: its
// number may be another's by now, its place in the sequence of all disks is not
// (Linux Documentation/ABI/stable/sysfs-block, diskseq).
type identity struct {
	dev devno
	seq uint64 // 0: the kernel doesn't tell (before Linux 5.15)
}

// String is for Volume.Mounted.
func (id identity) String() string { return fmt.Sprintf("%s/%d", id.dev, id.seq) }

func parseIdentity(s string) (id identity, ok bool) {
	_, err := fmt.Sscanf(s, "%d:%d/%d", &id.dev.major, &id.dev.minor, &id.seq)
	return id, err == nil && id.String() == s
}

// Identify returns what a volume is mounted from, for Volume.Mounted. It is to be
// called right after Mount. For what a server exports it returns "".
func Identify(v Volume) (string, error) {
	if v.Network() {
		return "", nil
	}
	own, err := ownMounts()
	if err != nil {
		return "", v.errorf("%w", err)
	}
	m, there := top(own, v.Path)
	if !there {
		return "", v.errorf("nothing is mounted on %s", v.Path)
	}
	id, _ := thisHost().identify(m.dev())
	return id.String(), nil
}

// identify completes a device's number. It reports whether the kernel has such a
// device.
func (h host) identify(dev devno) (id identity, there bool) {
	id.dev = dev
	dir := filepath.Join(h.sys, "dev/block", dev.String())
	if _, err := os.Stat(dir); err != nil {
		_, blind := os.Stat(filepath.Dir(dir)) // without sysfs nobody can say so
		return id, blind != nil || !errors.Is(err, fs.ErrNotExist)
	}
	for _, file := range []string{"/diskseq", "/../diskseq"} { // a partition's is its disk's
		b, err := os.ReadFile(dir + file)
		if err != nil {
			continue
		}
		if id.seq, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			return id, true
		}
	}
	return id, true
}

// fate is what has become of a device.
type fate int

const (
	present  fate = iota
	deleted       // by the kernel
	replaced      // likewise, and another has its number by now
)

// fateOf rests on what the kernel does when a disk is unplugged: whatever of it is
// still open, mounted or queued fails from then on, for good. A disk that comes
// back is a new one, even if it is the same piece of hardware.
func (h host) fateOf(id identity) fate {
	now, there := h.identify(id.dev)
	switch {
	case !there:
		return deleted
	case id.seq != 0 && now.seq != 0 && now.seq != id.seq:
		return replaced
	default:
		return present
	}
}

// suspects lists the devices by which this host could write to a volume: all that
// its name fits now, and what it was mounted from. When that one is known a name
// that fits none is no error: the device is there under another one, or this
// kernel has deleted it.
func (h host) suspects(ctx context.Context, v Volume) ([]devno, error) {
	ds, err := h.candidates(ctx, v)
	devs := numbers(ds)
	was, known := parseIdentity(v.Mounted)
	if !known || err != nil && !errors.Is(err, ErrAbsent) {
		return devs, err
	}
	if h.fateOf(was) != replaced && !slices.Contains(devs, was.dev) {
		devs = append(devs, was.dev)
	}
	return devs, nil
}
