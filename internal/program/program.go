// Package program runs other people's programs with the care that hook scripts
// get: without a shell, in a session and with an environment of their own, for a
// bounded time, with bounded output, and only what nobody but root can change.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/hook"
)

// searchPath is Debian's PATH for root: what is run must not depend on how the
// daemon was started.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	defaultTimeout = time.Minute
	leftWait       = time.Second     // for what a program left behind to close its output
	stuckWait      = 2 * time.Second // for the kernel to carry out a SIGKILL
)

var (
	// ErrTimeout says that a program had no time left.
	ErrTimeout = errors.New("it didn't end in time and was killed")
	errStuck   = errors.New("it doesn't end on SIGKILL: it is stuck in the kernel, most likely on a device or network file system that doesn't answer")
)

// Program is one run of a program.
type Program struct {
	Argv    []string      // its name in root's PATH, or an absolute path; then its arguments
	Env     []string      // name=value, beyond PATH, HOME and LANG; none of the daemon's own is passed on
	Input   string        // what it reads on its standard input
	Timeout time.Duration // 0: a minute
	Secrets []string      // not to be shown when it prints them
	Hint    string        // what to do when its name isn't found; may be empty
}

// Result is what a program left.
type Result struct {
	Code   int    // its exit code, if there was no error
	Stdout string // the last of it; may hold secrets
	Said   string // the last that it printed, without secrets, in one line
}

// Run runs the program to its end, or until its time is up or ctx ends: then
// its whole process group is killed. It returns soon after that even when the
// kernel doesn't carry it out; only then the goroutine that waits for the
// process outlives the call. The error says why there is no exit code.
func (p Program) Run(ctx context.Context) (Result, error) {
	path, err := Find(p.Argv[0], p.Hint)
	if err != nil {
		return Result{}, err
	}
	timeout := p.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w (timeout %s)", ErrTimeout, timeout))
	defer cancel()
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, path, p.Argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8"}, p.Env...)
	cmd.Stdin = strings.NewReader(p.Input)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = leftWait

	ended := make(chan error, 1)
	go func() { ended <- startAndWait(cmd) }()
	stuck := false
	select {
	case err = <-ended:
	case <-ctx.Done():
		late := time.NewTimer(stuckWait)
		defer late.Stop()
		select {
		case err = <-ended:
		case <-late.C:
			stuck = true
		}
	}
	r := Result{Stdout: stdout.String(), Said: said(p.Secrets, stderr.String(), stdout.String())}
	switch {
	case stuck:
		return r, errStuck
	case cmd.ProcessState == nil:
		return r, fmt.Errorf("start %s: %w", path, err)
	case cmd.ProcessState.Exited():
		r.Code = cmd.ProcessState.ExitCode()
		return r, nil
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	default:
		return r, errors.New(cmd.ProcessState.String())
	}
}

// startAndWait keeps its thread until the program has ended: Linux sends the
// parent-death signal when the thread that forked ends (PR_SET_PDEATHSIG(2const)),
// and it is meant for the death of the whole daemon. A program that outlived
// the daemon would act on what has changed since.
func startAndWait(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := clock.Unrelaxed(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

// Find returns the path of a program that only root can have changed. hint is
// what to do when it isn't installed.
func Find(name, hint string) (string, error) {
	path := name
	if !filepath.IsAbs(name) {
		path = ""
		for _, dir := range filepath.SplitList(searchPath) {
			p := filepath.Join(dir, name)
			if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				path = p
				break
			}
		}
		if path == "" {
			if hint != "" {
				hint = " (" + hint + ")"
			}
			return "", fmt.Errorf("find %s: it is in none of %s%s", name, searchPath, hint)
		}
	}
	if err := hook.CheckTrusted(path); err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return path, nil
}
