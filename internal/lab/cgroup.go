package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"had/internal/cgroup"
)

// slice is a host's part of the control group hierarchy (cgroups(7), version
// 2): what its daemons make beside their own group is theirs, and goes with
// the host.
type slice struct {
	group   cgroup.Group
	daemons *os.File // the group in which the host's processes start
}

// slicePrefix begins the names of a lab's groups.
func slicePrefix(labDir string) string { return "had-lab-" + filepath.Base(labDir) + "-" }

// newSlice makes the groups of a host below this process's own. Where there is
// no hierarchy of version 2, or this process may change nothing in it, it
// returns nil: then the guards make no groups either.
func newSlice(labDir string) (*slice, error) {
	own, err := cgroup.Own()
	if err != nil {
		return nil, nil //nolint:nilerr // there is none
	}
	path, err := os.MkdirTemp(own.Path(), slicePrefix(labDir))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	s := &slice{group: own.Child(filepath.Base(path))}
	daemons := s.group.Child("daemons")
	if err = daemons.Make(); err == nil {
		s.daemons, err = daemons.Open()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close removes the groups. Their processes have been killed, or are on their
// way out and no longer in the host's network namespace.
func (s *slice) close() error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	errs := []error{s.group.Wait(ctx)}
	if s.daemons != nil {
		errs = append(errs, s.daemons.Close())
	}
	return errors.Join(append(errs, s.group.Remove())...)
}
