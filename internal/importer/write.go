package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts files into a folder, which is made if it isn't there. Without
// replace it writes nothing at all when one of them exists; the error is then
// an [fs.ErrExist]. A file is replaced as a whole, and what a link in its place
// points to stays as it is.
func Write(folder string, files []File, replace bool) error {
	if !replace {
		for _, f := range files {
			if _, err := os.Lstat(filepath.Join(folder, filepath.FromSlash(f.Path))); err == nil {
				return fmt.Errorf("write %s into %s: %w", f.Path, folder, fs.ErrExist)
			}
		}
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(folder, filepath.FromSlash(f.Path)), f); err != nil {
			return fmt.Errorf("write into %s: %w", folder, err)
		}
	}
	return nil
}

func writeFile(path string, f File) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".import-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(f.Data)
	if err = errors.Join(err, tmp.Chmod(f.Mode), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
