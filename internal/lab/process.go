package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Process is a program running in a host. It dies with the lab.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// Pid returns the process's number; namespaces don't change it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal; os.ErrProcessDone when the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, p.Pid(), err)
	}
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns when the process has ended, nil after exit code 0 and an
// *exec.ExitError otherwise, or when ctx does.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", p.Pid(), context.Cause(ctx))
	}
}

// command prepares argv to be started by the keeper.
func (h *Host) command(ctx context.Context, argv []string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, fmt.Errorf("run a command on host %s: none given", h.Name)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), h.lab.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A child that outlives the command may keep its output open.
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// Exec runs a command in the host to its end and returns its standard output.
// The error of a failed command ends with its standard error.
func (h *Host) Exec(ctx context.Context, argv ...string) (string, error) {
	cmd, err := h.command(ctx, argv)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err = h.keeper.do(cmd.Start); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("run %v on host %s: %w: %s", argv, h.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Start starts a program in the host, in a process group of its own (the
// terminal's Ctrl-C is for the lab), with its output appended to the file at
// output.
func (h *Host) Start(output string, argv ...string) (*Process, error) {
	cmd, err := h.command(context.Background(), argv)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Setpgid = true
	if h.slice != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(h.slice.daemons.Fd())
	}
	out, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the output of %s on host %s: %w", argv[0], h.Name, err)
	}
	defer out.Close() // the child has its own descriptor
	cmd.Stdout, cmd.Stderr = out, out

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.procs == nil {
		return nil, ErrClosed
	}
	if err := h.keeper.do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %v on host %s: %w", argv, h.Name, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	h.procs[p] = true
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.procs, p)
	}()
	return p, nil
}

// Install has the host's daemon be another program from its next start on, as an
// upgrade does.
func (h *Host) Install(had string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.had = had
}

func (h *Host) program() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return cmp.Or(h.had, h.lab.cfg.HadBinary)
}

// StartDaemon starts the host's daemon, `had run`, and doesn't wait for it to
// be ready.
func (h *Host) StartDaemon() error {
	if h.Running() {
		return fmt.Errorf("start the daemon of host %s: it runs already", h.Name)
	}
	if h.Off() {
		return fmt.Errorf("start the daemon of host %s: %w", h.Name, ErrOff)
	}
	had := h.program()
	if had == "" {
		return fmt.Errorf("start the daemon of host %s: the lab has no had binary", h.Name)
	}
	p, err := h.Start(h.Log(), had, "run", "--config", h.Config())
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.daemon = p
	return nil
}

// Daemon returns the latest run of the daemon; nil before the first.
func (h *Host) Daemon() *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.daemon
}

// Running reports whether the daemon runs (or is stopped by Pause).
func (h *Host) Running() bool {
	p := h.Daemon()
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill sends the daemon a signal and doesn't wait for what it does.
func (h *Host) Kill(sig syscall.Signal) error {
	p := h.Daemon()
	if p == nil {
		return fmt.Errorf("send %v to the daemon of host %s: it never ran", sig, h.Name)
	}
	return p.Signal(sig)
}

// Pause stops the daemon where it is, as a hung process would be.
func (h *Host) Pause() error { return h.Kill(syscall.SIGSTOP) }

// Resume lets a paused daemon go on.
func (h *Host) Resume() error { return h.Kill(syscall.SIGCONT) }

// Wait waits for the daemon's end; see Process.Wait.
func (h *Host) Wait(ctx context.Context) error {
	p := h.Daemon()
	if p == nil {
		return fmt.Errorf("wait for the daemon of host %s: it never ran", h.Name)
	}
	return p.Wait(ctx)
}

// Restart ends the daemon with SIGTERM, waits for its end and starts it again.
// The exit code of the old run doesn't matter.
func (h *Host) Restart(ctx context.Context) error {
	if err := h.Kill(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-h.Daemon().Done():
		return h.StartDaemon()
	case <-ctx.Done():
		return fmt.Errorf("wait for the daemon of host %s to end: %w", h.Name, context.Cause(ctx))
	}
}
