package lab

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slice is a host's part of the control group hierarchy (cgroups(7), version
// 2): what its daemons make beside their own group is theirs, and goes with
// the host.
type slice struct {
	path    string
	daemons *os.File // the group in which the host's processes start
}

// slicePrefix begins the names of a lab's groups.
func slicePrefix(labDir string) string { return "had-lab-" + filepath.Base(labDir) + "-" }

// newSlice makes the groups of a host below this process's own. Where there is
// no hierarchy of version 2, or this process may change nothing in it, it
// returns nil: then the guards make no groups either.
func newSlice(labDir string) (*slice, error) {
	root, err := ownGroup()
	if err != nil || root == "" {
		return nil, err
	}
	path, err := os.MkdirTemp(root, slicePrefix(labDir))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	s := &slice{path: path}
	daemons := filepath.Join(path, "daemons")
	if err = os.Mkdir(daemons, 0o700); err == nil {
		s.daemons, err = os.Open(daemons)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a control group: %w", err), s.close())
	}
	return s, nil
}

// ownGroup returns the folder of this process's group; empty: there is none.
func ownGroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find this process's control group: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the control groups: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): the fifth field is the place; the type comes
		// first after the dash.
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		for group := range strings.Lines(string(groups)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(group), "0::"); ok {
				return filepath.Join(fields[4], path), nil
			}
		}
	}
	return "", nil
}

// close removes the groups. Their processes have been killed, or are on their
// way out and no longer in the host's network namespace.
func (s *slice) close() error {
	if s == nil {
		return nil
	}
	errs := []error{s.empty()}
	if s.daemons != nil {
		errs = append(errs, s.daemons.Close())
	}
	var folders []string
	err := filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			folders = append(folders, path)
		}
		return err
	})
	errs = append(errs, err)
	for i := range folders { // the innermost first
		if err := os.Remove(folders[len(folders)-1-i]); err != nil {
			errs = append(errs, fmt.Errorf("remove a control group: %w", err))
		}
	}
	return errors.Join(errs...)
}

// empty waits until no process is left in the groups.
func (s *slice) empty() error {
	events, err := os.Open(filepath.Join(s.path, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("look whether a control group is empty: %w", err)
	}
	defer events.Close()
	// cgroups(7): the file tells of itself by POLLPRI, once it has been read.
	for end := time.Now().Add(closeTimeout); ; {
		text := make([]byte, 256)
		n, err := events.ReadAt(text, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("look whether a control group is empty: %w", err)
		}
		if strings.Contains(string(text[:n]), "populated 0\n") {
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("control group %s: a process in it doesn't end", s.path)
		}
		fd := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fd, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a control group to be empty: %w", err)
		}
	}
}
