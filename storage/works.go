package storage

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Works looks whether a mounted volume still takes writes, and brings them to
// its disk: it is where it belongs, the kernel hasn't made it read-only, and a
// file without a name (O_TMPFILE, open(2)) can be written and synced. A file
// system that has no such files, and a volume that is meant to be read only, is
// read from instead. A full one works: another host would find it as full.
//
// It may hang for as long as the device or the server doesn't answer.
func Works(v Volume) error {
	own, err := ownMounts()
	if err != nil {
		return err
	}
	m, ok := top(own, v.Path)
	readOnly := slices.Contains(v.Options, "ro")
	switch {
	case !ok:
		return v.errorf("nothing is mounted on %s any more", v.Path)
	case !readOnly && isReadOnly(m.Info):
		return v.errorf("%s has become read-only, as the kernel does with a file system that it found damaged: see dmesg, and repair it with fsck once it is unmounted", v.Path)
	case readOnly:
		return v.read()
	}
	fd, err := unix.Open(v.Path, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOENT):
		return v.read()
	case isFull(err):
		return nil
	case err != nil:
		return v.errorf("make a file on %s: %w", v.Path, err)
	}
	f := os.NewFile(uintptr(fd), v.Path)
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil && !isFull(err) {
		return v.errorf("write to %s: %w", v.Path, err)
	}
	return nil
}

// read reads the volume's first folder. Where the kernel knows it already, it
// asks nobody.
func (v Volume) read() error {
	f, err := os.Open(v.Path)
	if err != nil {
		return v.errorf("open %s: %w", v.Path, err)
	}
	defer f.Close()
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		return v.errorf("look at %s: %w", v.Path, err)
	}
	if _, err := f.ReadDir(1); err != nil && !errors.Is(err, io.EOF) {
		return v.errorf("read %s: %w", v.Path, err)
	}
	return nil
}

// isReadOnly goes by the mount and by its file system: errors=remount-ro
// (ext4(5)) changes the second.
func isReadOnly(m *mountinfo.Info) bool {
	return slices.Contains(strings.Split(m.Options+","+m.VFSOptions, ","), "ro")
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
