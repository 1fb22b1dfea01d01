package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"had/internal/durable"
	hadv1 "had/proto/had/v1"
)

// farewellFile is in the data folder: what the guard of the earlier run had to
// say, as a binary hadv1.Farewell. It is renamed into place, so it is there as
// a whole or not at all.
const farewellFile = "farewell"

// folder is a data folder as the guard writes it.
type folder string

// Keep writes f so that it outlasts a crash of the host (fsync(2): the folder
// too, for the name).
func (d folder) Keep(f *hadv1.Farewell) error {
	data, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode the farewell: %w", err)
	}
	path := filepath.Join(string(d), farewellFile)
	temp := path + ".new"
	if err := writeSynced(temp, data); err != nil {
		return fmt.Errorf("write the farewell: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("put the farewell in its place: %w", err)
	}
	return d.sync()
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d folder) sync() error {
	if err := durable.SyncDir(string(d)); err != nil {
		return fmt.Errorf("sync the data folder: %w", err)
	}
	return nil
}

// read returns the farewell that is kept, nil when there is none.
func (d folder) read() (*hadv1.Farewell, error) {
	path := filepath.Join(string(d), farewellFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the earlier run's guard said: %w", err)
	}
	f := new(hadv1.Farewell)
	if err := proto.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("read what the earlier run's guard said: %s is damaged: %w. Remove it: the journal knows the same", path, err)
	}
	return f, nil
}

// ForgetFarewell removes the farewell that Settle returned, once it is in the
// log. That there is none is fine.
func ForgetFarewell(dir string) error {
	if err := os.Remove(filepath.Join(dir, farewellFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what the earlier run's guard said: %w", err)
	}
	return folder(dir).sync()
}
