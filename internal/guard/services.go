package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/cgroup"
)

// services are the control groups in which hook scripts of epochs with volumes
// run, and all that they leave running: one group an epoch, beside had's own,
// so that had's end isn't theirs.
type services struct{ cgroup.Group }

// servicesOf returns those of a data folder.
func servicesOf(dataDir string) (services, error) {
	own, err := cgroup.Own()
	if err != nil {
		return services{}, err
	}
	return services{own.Beside("had-hooks-" + hashed(dataDir))}, nil
}

func (s services) of(epoch uint64) cgroup.Group {
	return s.Child("epoch-" + strconv.FormatUint(epoch, 10))
}

// Open implements Services. A group that is there is kept, with who is in it:
// another guard had made it for the same epoch. Those of epochs that are over
// go, if nobody is in them.
func (s services) Open(epoch uint64) error {
	g := s.of(epoch)
	if others, err := s.Children(); err == nil {
		for _, o := range others {
			if o != g {
				_ = o.Remove() // what still runs there, Recover ends
			}
		}
	}
	if _, err := os.Stat(g.Path()); err == nil {
		return nil
	}
	return g.Make()
}

// End implements Services. Whoever was about to start in the group fails once it
// is gone, so it goes before this returns nil.
func (s services) End(ctx context.Context, epoch uint64) error { return s.of(epoch).End(ctx) }

// endAll ends what earlier epochs left.
func (s services) endAll(ctx context.Context) error {
	groups, err := s.Children()
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := g.End(ctx); err != nil {
			return err
		}
	}
	return s.Remove()
}

// OpenServices opens the control group in which the hook scripts of an epoch
// with volumes start, for hook.Config. It fails with fs.ErrNotExist where there
// is none: the guard doesn't hold the epoch, has ended it, or could make no
// group on this host.
func OpenServices(dataDir string, epoch uint64) (*os.File, error) {
	s, err := servicesOf(dataDir)
	if err != nil {
		return nil, fmt.Errorf("open the hooks' control group: %w: %w", fs.ErrNotExist, err)
	}
	return s.of(epoch).Open()
}

// StopServices ends in order what hook scripts of an epoch have left running:
// SIGTERM, and after grace SIGKILL. left names who had to be told, as
// "name[pid]"; after a nil error nobody is left.
func StopServices(ctx context.Context, dataDir string, epoch uint64, grace time.Duration) (left []string, err error) {
	s, err := servicesOf(dataDir)
	if err != nil {
		return nil, nil //nolint:nilerr // without groups no script ran in one
	}
	g := s.of(epoch)
	pids, err := g.Processes()
	if err != nil || len(pids) == 0 {
		return nil, err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("%s[%d]", comm(pid), pid))
		if err := terminate(pid, g); err != nil {
			return left, err
		}
	}
	patient, cancel := context.WithTimeout(ctx, grace)
	err = g.Wait(patient)
	cancel()
	if err == nil {
		return left, nil
	}
	return left, g.Kill(ctx)
}

// terminate sends SIGTERM to a process that is in the group still.
func terminate(pid int, g cgroup.Group) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d to end it: %w", pid, err)
	}
	defer unix.Close(fd)
	// Looked at after it was opened: the number can't become another's.
	if its, err := cgroup.Of(pid); err != nil || its != g {
		return nil // it has ended
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}

// comm returns a process's name (proc_pid_comm(5)).
func comm(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}
