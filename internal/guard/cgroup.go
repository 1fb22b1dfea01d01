package guard

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cgroup is a group of the guard's own (cgroups(7), version 2), beside had's:
// what is done to the whole group of had, such as freezing, killing and
// throttling it, doesn't reach the guard.
type cgroup struct{ dir *os.File }

// newCgroup makes the group, or says why there is none. It is named after the
// data folder, so that one that an earlier guard left behind is found.
func newCgroup(dataDir string) (*cgroup, error) {
	path, err := cgroupBeside(dataDir)
	if err != nil {
		return nil, fmt.Errorf("the guard shares had's control group: %w", err)
	}
	// Made anew: one that was killed as a whole may refuse new members.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the guard shares had's control group: remove the earlier guard's: %w", err)
	}
	if err := os.Mkdir(path, 0o755); err != nil { //nolint:gosec // control groups are for all to see
		return nil, fmt.Errorf("the guard shares had's control group: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the guard shares had's control group: %w", err), os.Remove(path))
	}
	return &cgroup{dir: dir}, nil
}

// remove removes the group, whose last process has ended.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	path := c.dir.Name()
	if err := errors.Join(c.dir.Close(), os.Remove(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the guard's control group: %w", err)
	}
	return nil
}

// clearGroup removes the group of a guard that has ended and had nobody who
// could. Should it still be leaving it, the next guard's start removes it.
func clearGroup(dataDir string) {
	if path, err := cgroupBeside(dataDir); err == nil {
		_ = os.Remove(path)
	}
}

// cgroupBeside returns the path of a group beside this process's own.
func cgroupBeside(dataDir string) (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	group, err := ownGroup(string(own))
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	root, err := cgroupMount(string(mounts))
	if err != nil {
		return "", err
	}
	h := fnv.New32a()
	h.Write([]byte(dataDir))
	return filepath.Join(root, filepath.Dir(group), fmt.Sprintf("had-guard-%08x", h.Sum32())), nil
}

// ownGroup finds the version 2 line, "0::/path", of /proc/PID/cgroup.
func ownGroup(text string) (string, error) {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			if strings.HasPrefix(path, "/..") {
				return "", fmt.Errorf("this process's is outside of its namespace, at %s", path)
			}
			return path, nil
		}
	}
	return "", errors.New("this process is in none of version 2")
}

// cgroupMount finds where version 2 is mounted with its root
// (proc_pid_mountinfo(5)).
func cgroupMount(text string) (string, error) {
	for line := range strings.Lines(text) {
		mount, kind, ok := strings.Cut(line, " - ")
		f := strings.Fields(mount)
		if ok && strings.HasPrefix(kind, "cgroup2 ") && len(f) >= 5 && f[3] == "/" {
			return f[4], nil
		}
	}
	return "", errors.New("version 2 isn't mounted here")
}
