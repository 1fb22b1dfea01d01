package guard

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"

	"had/internal/cgroup"
)

// group is a control group of the guard's own, beside had's: what is done to
// the whole group of had, such as freezing, killing and throttling it, doesn't
// reach the guard.
type group struct {
	cgroup.Group
	dir *os.File // for clone3
}

// groupPatience bounds the end of what a guard that has ended left in its group.
const groupPatience = time.Second

// newGroup makes the group, or says why there is none.
func newGroup(dataDir string) (*group, error) {
	g, err := guardGroup(dataDir)
	if err == nil {
		err = g.Make() // fails while another guard is in it
	}
	if err != nil {
		return nil, fmt.Errorf("the guard shares had's control group: %w", err)
	}
	dir, err := g.Open()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the guard shares had's control group: %w", err), g.Remove())
	}
	return &group{Group: g, dir: dir}, nil
}

// guardGroup returns the place of the guard's group. It is named after the data
// folder, so that one that an earlier guard left behind is found.
func guardGroup(dataDir string) (cgroup.Group, error) {
	own, err := cgroup.Own()
	if err != nil {
		return cgroup.Group{}, err
	}
	return own.Beside("had-guard-" + hashed(dataDir)), nil
}

// hashed is what tells the groups of several daemons on one host apart.
func hashed(dataDir string) string {
	h := fnv.New32a()
	h.Write([]byte(dataDir))
	return fmt.Sprintf("%08x", h.Sum32())
}

// remove removes the group of a guard that has ended.
func (g *group) remove() error {
	if g == nil {
		return nil
	}
	if err := errors.Join(g.dir.Close(), clearOut(g.Group)); err != nil {
		return fmt.Errorf("remove the guard's control group: %w", err)
	}
	return nil
}

// clearOut ends what is left in the group of a guard that has ended, and removes it.
func clearOut(g cgroup.Group) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupPatience)
	defer cancel()
	return errors.Join(g.Kill(ctx), g.Remove())
}

// clearGroup does that for a guard that had nobody who could. Should it still be
// leaving its group, the next guard's start removes it.
func clearGroup(dataDir string) {
	if g, err := guardGroup(dataDir); err == nil {
		_ = clearOut(g) // see above
	}
}
