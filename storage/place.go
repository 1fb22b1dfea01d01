package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// place opens the folder where a volume belongs, or the nearest one above it
// that exists, without following a link. The rest is what is missing below it.
// A folder that was opened so stays the same one, whatever is renamed.
func place(path string) (dir *os.File, missing []string, err error) {
	names := strings.Split(strings.TrimPrefix(path, "/"), "/")
	at, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /: %w", err)
	}
	for i, name := range names {
		next, err := enter(at, name)
		if errors.Is(err, fs.ErrNotExist) {
			return os.NewFile(uintptr(at), "/"+filepath.Join(names[:i]...)), names[i:], nil
		}
		_ = unix.Close(at)
		if err != nil {
			return nil, nil, explainPlace(path, "/"+filepath.Join(names[:i+1]...), err)
		}
		at = next
	}
	return os.NewFile(uintptr(at), path), nil, nil
}

func enter(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func explainPlace(path, at string, err error) error {
	// With O_DIRECTORY, Linux says ENOTDIR of a link, too.
	if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("look at the mount point %s: %w", path, err)
	}
	info, lerr := os.Lstat(at)
	switch {
	case lerr != nil:
		return fmt.Errorf("look at the mount point %s: %w", path, lerr)
	case info.Mode()&fs.ModeSymlink == 0:
		return fmt.Errorf("the mount point %s can't be: %s is no folder", path, at)
	}
	hint := "whoever can change the link decides where the volume is mounted"
	if to, err := filepath.EvalSymlinks(path); err == nil {
		hint = "write path = \"" + to + "\""
	}
	return fmt.Errorf("the mount point %s can't be: %s is a symbolic link; %s", path, at, hint)
}

// makePlace opens the folder where a volume belongs, and makes what is missing.
func makePlace(path string) (*os.File, error) {
	dir, missing, err := place(path)
	if err != nil {
		return nil, err
	}
	for _, name := range missing {
		at := filepath.Join(dir.Name(), name)
		err := unix.Mkdirat(int(dir.Fd()), name, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("make the mount point %s: %w", at, err), dir.Close())
		}
		fd, err := enter(int(dir.Fd()), name)
		_ = dir.Close()
		if err != nil {
			return nil, explainPlace(path, at, err)
		}
		dir = os.NewFile(uintptr(fd), at)
	}
	return dir, nil
}

// checkPlace refuses a mount point on which the volume can't be mounted, or
// where it would hide another, or be hidden. before are those that are mounted
// before it, which need not be there yet.
func checkPlace(v Volume, before []Volume, own []mount) error {
	for _, o := range before {
		switch {
		case o.Path == v.Path:
			return v.errorf("volume %s has the mount point %s, too: give each a folder of its own", o.Name, v.Path)
		case within(o.Path, v.Path):
			return v.errorf("mounted on %s it would hide volume %s, which is mounted before it on %s: change the order", v.Path, o.Name, o.Path)
		}
	}
	if m, there := top(own, v.Path); there {
		return v.errorf("%w: %s is mounted on %s: umount it, or take another folder", ErrInUse, m.Source, v.Path)
	}
	for _, m := range own {
		if within(m.Mountpoint, v.Path) {
			return v.errorf("%w: mounted on %s it would hide %s, which is mounted on %s: umount that, or take another folder", ErrInUse, v.Path, m.Source, m.Mountpoint)
		}
	}
	for _, o := range before {
		if within(v.Path, o.Path) {
			return nil // what is there belongs to that volume, and may not be mounted yet
		}
	}
	dir, missing, err := place(v.Path)
	if err != nil {
		return v.errorf("%w", err)
	}
	defer dir.Close()
	if len(missing) == 0 {
		return nil
	}
	if err := unix.Faccessat(int(dir.Fd()), ".", unix.W_OK, 0); err != nil {
		return v.errorf("the mount point %s isn't there and can't be made in %s: %w", v.Path, dir.Name(), err)
	}
	return nil
}
