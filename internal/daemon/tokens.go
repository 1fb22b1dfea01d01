package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/policy"
	"had/internal/reconnect"
)

// hideMemory keeps what this process has in its memory out of core dumps, and out
// of reach of other processes of its user (PR_SET_DUMPABLE(2const)): contents of
// reconnect tokens pass through it. The kernel sets it back for every program
// that is executed, the guard and scripts among them, and those have none.
func hideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep this process out of core dumps: %w", err)
	}
	return nil
}

// places implements reconnect.Config's Look in a child process.
func (l *localState) places(ctx context.Context, tokens []policy.Token, volumes []policy.Volume) (places []reconnect.Place, err error) {
	err = l.surveyor.answer(ctx, inspection{Op: inspectTokens, Tokens: tokens, Policy: volumes}, &places)
	if errors.Is(err, errHangs) {
		err = fmt.Errorf("a look at its location hangs in the kernel: a server doesn't answer (%w)", err)
	}
	return places, err
}

// runReload runs a policy's reload: a program that only root can change, without a
// shell, which ends with the daemon. What it prints is not kept: it has seen the
// token.
func runReload(ctx context.Context, argv []string) error {
	if err := hook.CheckTrusted(argv[0]); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	// The parent-death signal is sent when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := clock.Unrelaxed(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", argv[0], errors.Join(context.Cause(ctx), err))
	}
	return nil
}
