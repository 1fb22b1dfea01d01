package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// process is a started script: the leader of a session of its own, so that
// everything it starts can be found and killed with it, unless that leaves the
// session as services do.
type process struct {
	os    *os.Process
	pidfd *os.File // in the runtime's poller: readable once the script has exited
}

// start runs a script. The calling goroutine must be locked to its
// thread until the script has ended: Linux sends the parent-death signal when
// the *thread* that forked exits (PR_SET_PDEATHSIG(2const)), and the signal is
// meant for the death of the whole daemon.
func start(s program, out *os.File) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open a hook's standard input: %w", err)
	}
	defer null.Close()
	fd := -1
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, PidFD: &fd}
	if s.group != nil {
		// Into the group at birth, so that not even its first child is outside.
		sys.UseCgroupFD, sys.CgroupFD = true, int(s.group.Fd())
	}
	var proc *os.Process
	err = clock.Unrelaxed(func() (err error) {
		proc, err = os.StartProcess(s.Path, append([]string{s.Path}, s.args...), &os.ProcAttr{
			Dir:   "/",
			Env:   s.env,
			Files: []*os.File{null, out, out},
			Sys:   sys,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	p := &process{os: proc}
	if fd >= 0 {
		err = unix.SetNonblock(fd, true) // what makes os.NewFile use the poller
	} else {
		err = errors.New("the kernel has no pidfd; had needs Linux 5.4 or later")
	}
	if err != nil {
		killErr := proc.Kill()
		_, waitErr := proc.Wait()
		return nil, errors.Join(fmt.Errorf("watch a hook's process: %w", err), killErr, waitErr)
	}
	p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	return p, nil
}

// wait reports whether the script has exited, after at most d or until ctx
// ends. It does not reap: until reap, the process ID still names the script
// and its session.
func (p *process) wait(ctx context.Context, d time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("wait for a hook: %w", err)
	}
	interrupt := func() { _ = p.pidfd.SetReadDeadline(longAgo()) }
	for {
		if err := p.pidfd.SetReadDeadline(time.Time{}); err != nil {
			return false, fmt.Errorf("wait for a hook: %w", err)
		}
		stop := context.AfterFunc(ctx, interrupt)
		exited := false
		err := raw.Read(func(fd uintptr) bool {
			exited = readable(int(fd), 0)
			return exited
		})
		stop()
		// An interrupt of an earlier wait may come late and end this one: only
		// the context says whether the time is up.
		if exited || ctx.Err() != nil {
			return exited, nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, fmt.Errorf("wait for a hook: %w", err)
		}
	}
}

// terminate asks the script's process group to end.
func (p *process) terminate() {
	// It fails only if nobody is left, which wait will notice.
	_ = unix.Kill(-p.os.Pid, unix.SIGTERM)
}

// kill ends every process of the script's session and waits for that, until
// the given time.
func (p *process) kill(until time.Time) error { return killAll(p.session, until) }

// session returns the living processes of the script's session.
func (p *process) session() ([]int, error) {
	procs, err := processes()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, q := range procs {
		if q.session == p.os.Pid {
			pids = append(pids, q.pid)
		}
	}
	return pids, nil
}

// reap collects the exit status of a script that has exited.
func (p *process) reap() (syscall.WaitStatus, error) {
	defer p.pidfd.Close()
	state, err := p.os.Wait()
	if err != nil {
		return 0, fmt.Errorf("collect a hook's exit status: %w", err)
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// startHint turns execve's terse errors into what to do about them.
func startHint(err error, s program) string {
	name := filepath.Base(s.Path)
	interpreter, isScript := bytes.CutPrefix([]byte(s.file.firstLine), []byte("#!"))
	switch {
	case s.group != nil && unix.Faccessat(int(s.group.Fd()), "cgroup.procs", unix.F_OK, 0) != nil:
		return fmt.Sprintf("%s could not start in its control group, which was ended meanwhile", name)
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Sprintf("%s is neither a program for this machine nor a script: add #!/bin/sh as its first line", name)
	case errors.Is(err, syscall.ENOENT) && isScript:
		return fmt.Sprintf("the interpreter %q in the first line of %s isn't there", bytes.TrimLeft(interpreter, " \t"), name)
	case errors.Is(err, syscall.ETXTBSY):
		return fmt.Sprintf("%s is being written by another process: close it there", name)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("the kernel won't execute %s: it or its interpreter isn't executable, or is on a file system mounted noexec", name)
	default:
		return err.Error()
	}
}
