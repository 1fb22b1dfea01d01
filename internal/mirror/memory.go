package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"had/internal/durable"
)

// File is a Memory in a file: one JSON object, times by name.
type File string

// Load returns nothing when there is no file yet.
func (f File) Load() (map[string]time.Time, error) {
	ages := map[string]time.Time{}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return ages, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &ages)
	}
	if err != nil {
		return nil, fmt.Errorf("read how old the copies are from %s (remove it if it is damaged): %w", f, err)
	}
	return ages, nil
}

// Save replaces the file as a whole.
func (f File) Save(ages map[string]time.Time) error {
	text, err := json.Marshal(ages)
	if err == nil {
		err = replace(string(f), text)
	}
	if err != nil {
		return fmt.Errorf("save how old the copies are: %w", err)
	}
	return nil
}

func replace(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return durable.SyncDir(filepath.Dir(path))
}
