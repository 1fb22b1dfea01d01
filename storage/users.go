package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// KillUsers kills every process that uses one of the volumes, in whichever mount
// namespace and control group: that has something of it open, mapped, or as a
// working or root folder or a program. It returns whom it has killed once they are
// dead. It is for those whom Secure would find in its way, and, before it, for
// writers: see there. Init, this process and its parent are spared.
//
// A look at a process, or its death, may take for ever. When ctx ends before they
// are done the error says so, and the thread that looks is left behind: this
// process should end soon.
func KillUsers(ctx context.Context, vs []Volume) (killed []User, err error) {
	return thisHost().killUsers(ctx, vs)
}

func (h host) killUsers(ctx context.Context, vs []Volume) (killed []User, err error) {
	all, err := allMounts()
	if err != nil {
		return nil, fmt.Errorf("look who uses the volumes: %w", err)
	}
	here := own(all)
	var used []mount
	for _, v := range vs {
		if m, mounted := h.mountedHere(ctx, v, here); mounted {
			used = append(used, m)
		}
	}
	pids, err := processes()
	if err != nil {
		return nil, fmt.Errorf("look who uses the volumes: %w", err)
	}
	var errs []error
	for i, at := range glances() {
		used = slices.DeleteFunc(used, func(m mount) bool { return m.Major != 0 && len(of(all, m.dev())) == 1 && idle(m) })
		if len(used) == 0 {
			break
		}
		l := near(all, used)
		l.quick = i == 0
		victims, err := l.kill(ctx, pids, at)
		errs = append(errs, err)
		for _, v := range victims {
			if err := v.wait(ctx); err != nil {
				errs = append(errs, fmt.Errorf("kill %s: %w", v.User, err))
			} else {
				killed = append(killed, v.User)
			}
		}
	}
	return killed, errors.Join(errs...)
}

// near is a quick look at who uses mounts.
func near(all, used []mount) usage {
	var sites []site
	var places []string
	for _, m := range used {
		sites = append(sites, site{m.dev(), m.Mountpoint})
		for _, c := range of(all, m.dev()) {
			places = append(places, c.Mountpoint)
		}
	}
	l := newUsage(all, sites...)
	l.near = places
	return l
}

// idle reports whether nobody uses a mount. Without a look at any process: what
// could be unmounted after a while of no use is marked by the first such call, and
// unmounted by the second only if it wasn't used in between (MNT_EXPIRE of
// umount(2)). It isn't asked of what a server exports: to use that could take for
// ever.
func idle(m mount) bool {
	f, err := os.Open(m.Mountpoint) // a use
	if err != nil {
		return false
	}
	if err := f.Close(); err != nil {
		return false
	}
	return errors.Is(unix.Unmount(m.Mountpoint, unix.MNT_EXPIRE|unix.UMOUNT_NOFOLLOW), unix.EAGAIN)
}

// victim is a process that is being killed.
type victim struct {
	User

	pidfd int
	err   error
}

const (
	lookersAtOnce = 4 // a host with thousands of processes has more than one processor
	deathPause    = time.Millisecond
)

// kill kills those among the processes that use the file systems.
func (l usage) kill(ctx context.Context, pids []int, at glance) ([]victim, error) {
	var next atomic.Int64
	looked := make(chan *victim, len(pids)) // nobody waits for a reader
	spared := []int{1, os.Getpid(), os.Getppid()}
	for range min(lookersAtOnce, len(pids)) {
		go func() { // not joined: it may hang
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(pids) {
					return
				}
				var v *victim
				if !slices.Contains(spared, pids[i]) && (!l.quick || l.may(pids[i])) {
					v = l.killIfUser(pids[i], at)
				}
				looked <- v
			}
		}()
	}
	var victims []victim
	for done := range pids {
		select {
		case v := <-looked:
			if v != nil {
				victims = append(victims, *v)
			}
		case <-ctx.Done():
			return victims, fmt.Errorf("look who uses the volumes: %d of %d processes were not looked at: %w", len(pids)-done, len(pids), context.Cause(ctx))
		}
	}
	return victims, nil
}

// killIfUser returns nil for a process that uses nothing.
func (l usage) killIfUser(pid int, at glance) *victim {
	u, device := l.user(pid, at)
	if u.What == "" || device {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return &victim{User: u, pidfd: -1, err: err}
	}
	// Again: the number may have become another's before it was opened.
	if u, device = l.user(pid, at); u.What == "" || device {
		_ = unix.Close(fd)
		return nil
	}
	v := &victim{User: u, pidfd: fd}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		v.err = err
	}
	return v
}

// wait returns nil once all threads of the process have ended.
func (v victim) wait(ctx context.Context) error {
	if v.pidfd < 0 {
		return v.err
	}
	defer unix.Close(v.pidfd)
	for v.err == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(v.pidfd), Events: unix.POLLIN}}, int(deathPause/time.Millisecond))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("it doesn't end: %w", context.Cause(ctx))
		}
	}
	return v.err
}
