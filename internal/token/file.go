package token

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is where a content is kept: how it has to be there for the service.
type File struct {
	Path  string // absolute
	Owner string // "user" or "user:group"; a user alone brings its own group
	Mode  fs.FileMode
}

// ErrAbsent means that there is no file.
var ErrAbsent = errors.New("there is no file")

// Previous is the file of the content n versions before the current one, for
// services that still accept what earlier ones made; 0 is the current one's.
func (f File) Previous(n int) File {
	if n > 0 {
		f.Path = fmt.Sprintf("%s.%d", f.Path, n)
	}
	return f
}

// ids looks the owner up on this host.
func (f File) ids() (uid, gid int, err error) {
	name, group, grouped := strings.Cut(f.Owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("this host has no user %q: %w", name, err)
	}
	id := u.Gid
	if grouped {
		g, err := user.LookupGroup(group)
		if err != nil {
			return 0, 0, fmt.Errorf("this host has no group %q: %w", group, err)
		}
		id = g.Gid
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("user %q has the ID %q", name, u.Uid)
	}
	if gid, err = strconv.Atoi(id); err != nil {
		return 0, 0, fmt.Errorf("the group of %q has the ID %q", f.Owner, id)
	}
	return uid, gid, nil
}

// Check says why a content could not be put there: no such user, no folder, or
// one in which any user could put something else in its place. It changes
// nothing.
func (f File) Check() error {
	if _, _, err := f.ids(); err != nil {
		return err
	}
	dir := filepath.Dir(f.Path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("the folder of %s can't be used: %w (mkdir -p %s)", f.Path, err, dir)
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("every user can write to %s: chmod o-w it, or take another place", dir)
	}
	return nil
}

// Read returns the content. It follows no symbolic or hard link: who may write
// in the folder must not have had read anything else. The error is ErrAbsent
// when there is no file or it is empty, as one that is being written is. The
// caller clears the content when it is done with it.
func (f File) Read() ([]byte, error) {
	file, err := os.OpenFile(f.Path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w at %s", ErrAbsent, f.Path)
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%s is a symbolic link: a token is a file of its own", f.Path)
	case err != nil:
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	switch st := info.Sys().(*syscall.Stat_t); {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", f.Path)
	case st.Nlink > 1: // 0: it was replaced since, and is whole
		return nil, fmt.Errorf("%s has %d names: a token is a file of its own", f.Path, st.Nlink)
	case info.Size() == 0:
		return nil, fmt.Errorf("%w at %s but an empty one", ErrAbsent, f.Path)
	case info.Size() > MaxSize:
		return nil, fmt.Errorf("%s has %d bytes: at most %d travel in the log", f.Path, info.Size(), MaxSize)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(file, b); err != nil {
		clear(b)
		return nil, fmt.Errorf("read %s, which somebody writes meanwhile: %w", f.Path, err)
	}
	return b, nil
}

// Wrong says what is not as it should be about the file that is there: its kind,
// owner or mode. It is for files that somebody else writes.
func (f File) Wrong() error {
	uid, gid, err := f.ids()
	if err != nil {
		return err
	}
	info, err := os.Lstat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w at %s: its service makes it, or you do", ErrAbsent, f.Path)
	}
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", f.Path)
	case int(st.Uid) != uid || int(st.Gid) != gid:
		return fmt.Errorf("%s belongs to %d:%d and should to %s: chown %s %s", f.Path, st.Uid, st.Gid, f.Owner, f.Owner, f.Path)
	case info.Mode().Perm() != f.Mode.Perm():
		return fmt.Errorf("%s has mode %04o and should have %04o: chmod %04o %s", f.Path, info.Mode().Perm(), f.Mode.Perm(), f.Mode.Perm(), f.Path)
	}
	return nil
}

// Put makes content be there with owner and mode, all at once: whoever opens the
// path gets the old file or the new one. It replaces a link by a file, and
// what was put survives a crash of the host.
func (f File) Put(content []byte) error {
	uid, gid, err := f.ids()
	if err != nil {
		return fmt.Errorf("put %s in place: %w", f.Path, err)
	}
	return put(f.Path, content, func(file *os.File) error {
		return errors.Join(file.Chown(uid, gid), file.Chmod(f.Mode.Perm()))
	})
}

// put replaces a file; own gives the new one owner and mode before anybody can
// find it under its name. The folder is held open, so that it can't become
// another one meanwhile.
func put(path string, content []byte, own func(*os.File) error) error {
	if err := replace(filepath.Dir(path), filepath.Base(path), content, own); err != nil {
		return fmt.Errorf("put %s in place: %w", path, err)
	}
	return nil
}

func replace(folder, name string, content []byte, own func(*os.File) error) (err error) {
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	suffix, err := Random(8)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf(".%s.had-%x", name, suffix)
	file, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, own(file), file.Sync(), file.Close()); err == nil {
		err = dir.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(tmp))
	}
	names, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(names.Sync(), names.Close())
}
