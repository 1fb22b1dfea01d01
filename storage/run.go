package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// errStuck says that a program doesn't end, not even when it is killed.
var errStuck = errors.New("it doesn't end: most likely a device doesn't answer")

// maxOutput is how much of a program's output is read, in bytes.
const maxOutput = 1 << 20

// program is a running program. A program that reads a dead device can't be
// killed, so nobody waits for more than its output; and it has no goroutine,
// which couldn't be joined.
type program struct {
	name   string
	proc   *os.Process
	output *os.File // both streams
}

// start starts a program that dies with the calling thread, which must be
// locked until it has ended: whoever kills this process must have stopped all
// that it does to a device (PR_SET_PDEATHSIG(2const)).
func start(name string, args ...string) (*program, error) {
	path, err := look(name)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), r.Close())
	}
	defer null.Close()
	proc, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{
		Env:   append(os.Environ(), "LC_ALL=C"),
		Files: []*os.File{null, w, w},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), r.Close())
	}
	return &program{name: name, proc: proc, output: r}, nil
}

// wait returns the program's output and exit code. When ctx ends first, it is
// killed, and given up if that doesn't end it: errStuck.
func (p *program) wait(ctx context.Context) (output string, code int, err error) {
	defer p.output.Close()
	stop := context.AfterFunc(ctx, func() { _ = p.output.SetReadDeadline(time.Unix(1, 0)) })
	b, err := io.ReadAll(io.LimitReader(p.output, maxOutput))
	if stop() && err == nil {
		state, err := p.proc.Wait()
		if err != nil {
			return "", 0, fmt.Errorf("wait for %s: %w", p.name, err)
		}
		return string(b), state.ExitCode(), nil
	}
	if err == nil {
		err = ctx.Err()
	}
	if kill := p.proc.Kill(); kill != nil && !errors.Is(kill, os.ErrProcessDone) {
		err = errors.Join(err, kill)
	}
	_ = p.proc.Release()
	if ctx.Err() != nil {
		return "", 0, fmt.Errorf("run %s: %w: %w", p.name, errStuck, context.Cause(ctx))
	}
	return "", 0, fmt.Errorf("read what %s prints: %w", p.name, err)
}

// run runs a program to its end.
func run(ctx context.Context, name string, args ...string) (output string, code int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := start(name, args...)
	if err != nil {
		return "", 0, err
	}
	return p.wait(ctx)
}

// look finds a program also where the PATH has no folder for root's.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("this host has no %s: install the package %s: %w", name, packageOf(name), err)
}

// packageOf returns where Debian has a program.
func packageOf(name string) string {
	switch {
	case name == "blkid" || name == "mount":
		return "util-linux"
	case name == "dmsetup":
		return "dmsetup"
	case name == "tune2fs" || strings.HasPrefix(name, "fsck.ext"):
		return "e2fsprogs"
	case name == "fsck.xfs":
		return "xfsprogs"
	case name == "fsck.vfat":
		return "dosfstools"
	default:
		return "that brings " + name
	}
}

// lastLines shortens a program's output to what fits in an error.
func lastLines(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}
