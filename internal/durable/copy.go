package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// CopyDir copies the folder src to dst, which must not exist, and makes the copy
// last. Modes are kept; what is neither a file nor a folder is left out, and so are
// the entries of src itself that are named in without.
func CopyDir(dst, src string, without ...string) error {
	skip := map[string]bool{}
	for _, name := range without {
		skip[name] = true
	}
	var folders []string
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, name)
		switch {
		case skip[name] && d.IsDir():
			return fs.SkipDir
		case skip[name]:
			return nil
		case d.IsDir():
			folders = append(folders, to)
			return os.Mkdir(to, 0o700)
		case d.Type().IsRegular():
			return copyFile(to, path)
		}
		return nil
	})
	for _, f := range folders {
		if err == nil {
			err = SyncDir(f)
		}
	}
	if err == nil {
		err = SyncDir(filepath.Dir(dst))
	}
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	return nil
}

func copyFile(dst, src string) (err error) {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// WriteFile puts data into the file path with the mode 0600: after a crash at any
// moment it isn't there, holds what it held before, or all of data, and after a nil
// error the last. A file that is there already is replaced if that is asked for, and
// an fs.ErrExist otherwise.
func WriteFile(path string, data []byte, replace bool) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(f.Name()); err == nil && !errors.Is(gone, fs.ErrNotExist) {
			err = gone
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // unlike rename(2), not over another
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
