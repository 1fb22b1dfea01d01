package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

var (
	// ErrAbsent says that this host has no such device now.
	ErrAbsent = errors.New("this host has no such device")

	// ErrAmbiguous says that several devices of this host could be meant.
	ErrAmbiguous = errors.New("several devices of this host match")

	// ErrUnfit says that a device or what is on it can't be a volume at all.
	ErrUnfit = errors.New("it can't be a volume")

	// ErrInUse says that something has the device, or the place, already.
	ErrInUse = errors.New("it is in use")

	// ErrMountedByOthers says that something else than had would mount it.
	ErrMountedByOthers = errors.New("something else would mount it")
)

// Volume is a file system and the one place where it belongs.
type Volume struct {
	Name string // for messages only

	// Device is "UUID=…", "LABEL=…", "PARTUUID=…" or "PARTLABEL=…", a path in
	// /dev, or what a server exports: "host:/export", "//host/share".
	Device string

	Path   string // where it is mounted: absolute, in its shortest form
	FSType string // as in /proc/filesystems; "" with a device: what is found on it

	// Options are mount options, one each, as mount(8) takes them. Those for
	// other programs (x-…, noauto, _netdev) belong in the fstab.
	Options []string

	Preen bool // fsck -p before each mount

	// Mounted is what the volume was mounted from, as Identify said; "": nobody
	// knows. With it a device that has vanished, or has another name by now, can
	// still be ended and proven to be free.
	Mounted string
}

// Network reports whether a server exports the volume: there is no device that
// the kernel could prove to be free.
func (v Volume) Network() bool {
	return slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3"}, v.FSType)
}

// check refuses what no function here could work with.
func (v Volume) check() error {
	switch {
	case v.Device == "":
		return v.errorf("it names no device")
	case !filepath.IsAbs(v.Path) || filepath.Clean(v.Path) != v.Path || v.Path == "/":
		return v.errorf("%q can't be a mount point: it takes an absolute path in its shortest form, and not /", v.Path)
	case v.Network():
		return nil
	}
	if _, _, ok := v.tag(); !ok && !strings.HasPrefix(v.Device, "/dev/") {
		return v.errorf("%q is neither UUID=, LABEL=, PARTUUID= or PARTLABEL= nor a path in /dev; what a server exports needs a file system type: nfs, nfs4, cifs or smb3", v.Device)
	}
	return nil
}

// tag splits "UUID=…" and its like.
func (v Volume) tag() (name, value string, ok bool) {
	return splitTag(v.Device)
}

func splitTag(device string) (name, value string, ok bool) {
	name, value, _ = strings.Cut(device, "=")
	ok = value != "" && slices.Contains([]string{"UUID", "LABEL", "PARTUUID", "PARTLABEL"}, name)
	return name, value, ok
}

func (v Volume) errorf(format string, args ...any) error {
	return fmt.Errorf("volume %s: "+format, append([]any{v.Name}, args...)...)
}

// within reports whether path is dir or lies below it. Both are in their
// shortest form.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
