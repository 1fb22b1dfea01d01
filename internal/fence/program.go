package fence

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

// searchPath is Debian's PATH for root: what switches hosts off must not depend
// on how the daemon was started.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const (
	defaultTimeout = time.Minute
	leftWait       = time.Second     // for what a program left behind to close its output
	stuckWait      = 2 * time.Second // for the kernel to carry out a SIGKILL
)

var (
	errTimeout = errors.New("it didn't end in time and was killed")
	errStuck   = errors.New("it doesn't end on SIGKILL: it is stuck in the kernel, most likely on a device or network file system that doesn't answer")
)

// program is one run of a program.
type program struct {
	argv    []string
	input   string        // what it reads on its standard input
	timeout time.Duration // 0: a minute
	secrets []string      // not to be shown when it prints them
}

// result is what a program left.
type result struct {
	code   int    // its exit code, if there was no error
	stdout string // the last of it; may hold secrets
	said   string // the last that it printed, without secrets, in one line
}

// run runs the program to its end, or until its time is up or ctx ends: then
// its whole process group is killed. It returns soon after that even when the
// kernel doesn't carry it out; only then the goroutine that waits for the
// process outlives the call. The error says why there is no exit code.
func (p program) run(ctx context.Context) (result, error) {
	path, err := find(p.argv[0])
	if err != nil {
		return result{}, err
	}
	timeout := p.timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w (timeout %s)", errTimeout, timeout))
	defer cancel()
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, path, p.argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8", "PYTHONWARNINGS=ignore"} // none of the daemon's own is passed on
	cmd.Stdin = strings.NewReader(p.input)
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
	r := result{stdout: stdout.String(), said: said(p.secrets, stderr.String(), stdout.String())}
	switch {
	case stuck:
		return r, errStuck
	case cmd.ProcessState == nil:
		return r, fmt.Errorf("start %s: %w", path, err)
	case cmd.ProcessState.Exited():
		r.code = cmd.ProcessState.ExitCode()
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
// the daemon could switch a host off that has returned since.
func startAndWait(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := clock.Unrelaxed(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}

// find returns the path of a program that only root can have changed.
func find(name string) (string, error) {
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
			return "", fmt.Errorf("find %s: it is in none of %s (apt-get install fence-agents)", name, searchPath)
		}
	}
	if err := hook.CheckTrusted(path); err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return path, nil
}
