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

// securedFile is beside it: what a guard said of the volumes of a had that
// lived, as a binary hadv1.Secured.
const securedFile = "secured"

// folder is a data folder as the guard writes it.
type folder string

// Keep writes f so that it outlasts a crash of the host (fsync(2): the folder
// too, for the name).
func (d folder) Keep(f *hadv1.Farewell) error {
	return d.keep(farewellFile, f)
}

// KeepSecured does the same with what the guard says of volumes.
func (d folder) KeepSecured(s *hadv1.Secured) error { return d.keep(securedFile, s) }

func (d folder) keep(name string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the file %s: %w", name, err)
	}
	path := filepath.Join(string(d), name)
	temp := path + ".new"
	if err := writeSynced(temp, data); err != nil {
		return fmt.Errorf("write the file %s: %w", name, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("put the file %s in its place: %w", name, err)
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
	f := new(hadv1.Farewell)
	if is, err := d.load(farewellFile, f); err != nil || !is {
		return nil, err
	}
	return f, nil
}

// load reads a file that keep wrote, if it is there.
func (d folder) load(name string, into proto.Message) (is bool, err error) {
	path := filepath.Join(string(d), name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read what the earlier run's guard said: %w", err)
	}
	if err := proto.Unmarshal(data, into); err != nil {
		return false, fmt.Errorf("read what the earlier run's guard said: %s is damaged: %w. Remove it: the journal knows the same", path, err)
	}
	return true, nil
}

// KeptSecured returns what the guard of an earlier run said of volumes while
// that run lived; nil: nothing is kept. It needs to be told only for an epoch
// that is still open and that this start could not give back itself.
func KeptSecured(dir string) (*hadv1.Secured, error) {
	s := new(hadv1.Secured)
	if is, err := folder(dir).load(securedFile, s); err != nil || !is {
		return nil, err
	}
	return s, nil
}

// ForgetSecured removes what KeptSecured returned. That there is none is fine.
func ForgetSecured(dir string) error { return folder(dir).forget(securedFile) }

// ForgetFarewell removes the farewell that Settle returned, once it is in the
// log. That there is none is fine.
func ForgetFarewell(dir string) error { return folder(dir).forget(farewellFile) }

func (d folder) forget(name string) error {
	if err := os.Remove(filepath.Join(string(d), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what the earlier run's guard said: %w", err)
	}
	return d.sync()
}
