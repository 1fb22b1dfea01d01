package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"had/internal/fence"
	"had/storage"
)

// task is what a guard tells its mounter to do, one datagram.
type task struct {
	Op       Op               `json:"op"` // OpMount, OpUnmount: one volume; OpSecure, OpReserve, OpEvict, opAbandon
	Volumes  []storage.Volume `json:"volumes"`
	ClearMMP bool             `json:"clear_mmp,omitempty"`
	Key      uint64           `json:"key,omitempty"` // OpReserve, OpEvict
	// Within is how long OpSecure may look for those who use the volumes before it
	// goes on without: the lease's end doesn't wait.
	Within time.Duration `json:"within,omitempty"`
}

// opAbandon is no request of had's: see Volumes.
const opAbandon Op = "abandon"

// result is the mounter's answer.
type result struct {
	Err        string `json:"err,omitempty"` // "": it is done, and proven where there is something to prove
	NotMounted bool   `json:"not_mounted,omitempty"`
	Mounted    string `json:"mounted,omitempty"` // OpMount: for storage.Volume.Mounted

	lost bool // there was no answer
}

func (r result) err() error {
	switch {
	case r.Err == "":
		return nil
	case r.NotMounted:
		return fmt.Errorf("%w: %s", ErrNotMounted, r.Err)
	default:
		return errors.New(r.Err)
	}
}

// MounterMain is the process that mounts and unmounts for a guard, one thing
// after another. It ends with the guard's end of the socket.
func MounterMain() error {
	// As the guard: only that and SIGKILL end it.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	if err := os.WriteFile("/proc/self/comm", []byte("had-mounter"), 0); err != nil {
		return fmt.Errorf("name the mounter's process: %w", err)
	}
	conn, err := openSocket(socketFD)
	if err != nil {
		return fmt.Errorf("open the socket to the guard (the guard starts its mounter itself, nobody else can): %w", err)
	}
	defer func() { _ = conn.Close() }() // the guard sees the process end
	unix.CloseOnExec(mounterLockFD)
	buf := make([]byte, maxMessage+1)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, io.EOF) || n == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from the guard: %w", err)
		}
		var t task
		if err := decode(buf[:n], &t); err != nil {
			return err
		}
		if err := send(conn, t.carryOut(context.Background())); err != nil {
			return err
		}
	}
}

// mounterLockFD is the descriptor of mounterLock: its helpers don't get it, for
// some of them stay (rpc.statd(8)).
const mounterLockFD = socketFD + 1

func (t task) carryOut(ctx context.Context) (r result) {
	// A mount may take long, and has time; what it has to do with the margin of
	// a lease hasn't. Where a host doesn't allow it, the guard has said so.
	_ = schedule(t.Op == OpSecure)
	if err := t.call(ctx); err != nil {
		r.Err = err.Error()
		r.NotMounted = t.Op == OpMount && notMounted(ctx, t.Volumes[0], err)
	} else if t.Op == OpMount {
		r.Mounted, _ = storage.Identify(t.Volumes[0]) // unknown: the volume's name has to do
	}
	return r
}

func (t task) call(ctx context.Context) error {
	if t.Op == OpSecure {
		return secure(ctx, t.Volumes, t.Within)
	}
	if t.Op == OpReserve || t.Op == OpEvict {
		return takeDisks(ctx, t.Op, t.Volumes, fence.Key(t.Key))
	}
	if t.Op == opAbandon {
		var errs []error
		for _, v := range t.Volumes {
			errs = append(errs, storage.Abandon(v))
		}
		return errors.Join(errs...)
	}
	if len(t.Volumes) != 1 {
		return fmt.Errorf("%s: told of %d volumes", t.Op, len(t.Volumes))
	}
	switch t.Op {
	case OpMount:
		return storage.Mount(ctx, t.Volumes[0], storage.MountOptions{ClearMMP: t.ClearMMP})
	case OpUnmount:
		return storage.Unmount(ctx, t.Volumes[0])
	default:
		return fmt.Errorf("%.40q is nothing that a mounter does", t.Op)
	}
}

// notMounted reports whether nothing is left of a mount that failed. A device
// that isn't there can't prove it; but then nothing was mounted where it belongs,
// and no call is under way any more that could.
func notMounted(ctx context.Context, v storage.Volume, failed error) bool {
	if errors.Is(failed, storage.ErrAbsent) || errors.Is(failed, storage.ErrAmbiguous) {
		mounts, err := storage.Mounts()
		return err == nil && !slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.Mountpoint == v.Path })
	}
	return storage.Unused(ctx, v) == nil
}

// secure ends volumes by force. Those who use them outside of the hooks' control
// group, such as a service that a hook has started through systemd, are killed
// first, as far as they are found in time, and again when they turn out to be in
// the way.
func secure(ctx context.Context, vs []storage.Volume, within time.Duration) error {
	const rounds = 5
	limited, cancel := context.WithTimeout(ctx, within)
	_, unkilled := storage.KillUsers(limited, vs)
	cancel()
	var err error
	for range rounds {
		if err = storage.Secure(ctx, vs); err == nil {
			return nil
		}
		killed, killErr := killUsers(err)
		if killErr != nil || killed == 0 {
			return errors.Join(err, killErr, unkilled)
		}
	}
	return errors.Join(err, unkilled)
}

// killUsers kills the processes that errors name as users of a volume, and waits
// for none of them. Who only has its device open may just be looking at it, and
// isn't the reason why the file system stays: that is for a person to end.
func killUsers(err error) (killed int, _ error) {
	var errs []error
	for _, busy := range busyIn(err) {
		for _, u := range busy.Users {
			if u.PID <= 1 || u.PID == os.Getpid() || u.PID == os.Getppid() || u.Device {
				continue // nobody, init, this process, the guard; see above
			}
			if err := unix.Kill(u.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("kill %s, which uses volume %s: %w", u, busy.Volume.Name, err))
				continue
			}
			killed++
		}
	}
	return killed, errors.Join(errs...)
}

// busyIn finds every *storage.BusyError in an error's tree.
func busyIn(err error) []*storage.BusyError {
	if b, ok := err.(*storage.BusyError); ok { //nolint:errorlint // the tree is walked here
		return []*storage.BusyError{b}
	}
	var found []*storage.BusyError
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case interface{ Unwrap() error }:
		return busyIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			found = append(found, busyIn(inner)...)
		}
	}
	return found
}
