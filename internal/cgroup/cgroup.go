// Package cgroup makes control groups of version 2 (cgroups(7)), and ends
// everything in one of them.
//
// A host may have version 1 alone, none, or one that this process may not
// change. Each is an error with a sentence: what the groups are for is then
// done another way, or not at all.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is a place in the hierarchy, where a group may be or not.
type Group struct {
	mount string // where the hierarchy is mounted
	name  string // below it, "/" alone for the top
}

// Own returns the group of this process.
func Own() (Group, error) {
	g, err := find("self")
	if err != nil {
		return Group{}, fmt.Errorf("find this process's control group: %w", err)
	}
	return g, nil
}

// Of returns the group of another process.
func Of(pid int) (Group, error) {
	g, err := find(strconv.Itoa(pid))
	if err != nil {
		return Group{}, fmt.Errorf("find the control group of process %d: %w", pid, err)
	}
	return g, nil
}

func find(process string) (Group, error) {
	groups, err := os.ReadFile("/proc/" + process + "/cgroup")
	if err != nil {
		return Group{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Group{}, err
	}
	return own(string(groups), string(mounts))
}

// own finds the group in /proc/PID/cgroup (the line "0::/path" is version 2's)
// and /proc/PID/mountinfo (proc_pid_mountinfo(5): the fourth field is what of
// the hierarchy is mounted, the fifth where, and the type comes first after the
// dash).
func own(groups, mounts string) (Group, error) {
	path := ""
	for line := range strings.Lines(groups) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	switch {
	case path == "":
		return Group{}, errors.New("it is in none of version 2")
	case strings.HasPrefix(path, "/.."):
		return Group{}, fmt.Errorf("it is outside of this process's namespace, at %s", path)
	}
	seen := false
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(f) < 5 {
			continue
		}
		seen = true
		if name, ok := below(f[3], path); ok {
			return Group{mount: f[4], name: name}, nil
		}
	}
	if seen {
		return Group{}, fmt.Errorf("%s isn't in what is mounted of version 2", path)
	}
	return Group{}, errors.New("version 2 isn't mounted on this host")
}

// below cuts the root of a mount off a path.
func below(root, path string) (string, bool) {
	if root == "/" {
		return path, true
	}
	name, ok := strings.CutPrefix(path, root)
	if !ok || name != "" && name[0] != '/' {
		return "", false
	}
	return filepath.Join("/", name), true
}

// Path returns the group's folder.
func (g Group) Path() string { return filepath.Join(g.mount, g.name) }

// Name returns the last part of the group's path; "/" for the top.
func (g Group) Name() string { return filepath.Base(g.name) }

// Child returns the group of that name in g.
func (g Group) Child(name string) Group {
	return Group{mount: g.mount, name: filepath.Join(g.name, name)}
}

// Beside returns the group of that name with g's own parent. At the top of what
// is mounted that is a child.
func (g Group) Beside(name string) Group {
	return Group{mount: g.mount, name: filepath.Join(filepath.Dir(g.name), name)}
}

// Children returns the groups in g; none when there is no g.
func (g Group) Children() ([]Group, error) {
	entries, err := os.ReadDir(g.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the control groups in %s: %w", g.Path(), err)
	}
	var children []Group
	for _, e := range entries {
		if e.IsDir() {
			children = append(children, g.Child(e.Name()))
		}
	}
	return children, nil
}

// Make makes the group, and the ones it is in. An empty one that is there
// already is made anew, for one that was killed may refuse new members.
func (g Group) Make() error {
	if err := g.Remove(); err != nil {
		return err
	}
	if err := os.MkdirAll(g.Path(), 0o755); err != nil { //nolint:gosec // control groups are for all to see
		return fmt.Errorf("make a control group: %w", err)
	}
	return nil
}

// Open opens the group, for clone3(2) to start processes in it
// (syscall.SysProcAttr.CgroupFD).
func (g Group) Open() (*os.File, error) {
	f, err := os.Open(g.Path())
	if err != nil {
		return nil, fmt.Errorf("open a control group: %w", err)
	}
	return f, nil
}

// Remove removes the group and those in it. It fails while a process is in one
// of them, and succeeds when there is none.
func (g Group) Remove() error {
	children, err := g.Children()
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := c.Remove(); err != nil {
			return err
		}
	}
	err = unix.Rmdir(g.Path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("remove the control group %s: there are processes in it: %w", g.Path(), err)
	case err != nil:
		return fmt.Errorf("remove the control group %s: %w", g.Path(), err)
	}
	return nil
}
