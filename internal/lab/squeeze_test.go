package lab

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestMemoryIsTakenAndGivenBack(t *testing.T) {
	t.Parallel()
	must(t, CanSqueeze())
	// It asks for a megabyte after another, as soon as it is told to.
	greedy := filepath.Join(t.TempDir(), "had")
	must(t, os.WriteFile(greedy, []byte("#!/bin/sh\ntrap 'while :; do x=$x$(head -c 1000000 /dev/zero | tr \"\\0\" x); done' USR1\nwhile :; do sleep 0.01; done\n"), 0o700))
	dir := t.TempDir()
	l := newLab(t, Config{HadBinary: greedy, Dir: dir})
	alpha := l.Host("alpha")
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()

	must(t, alpha.StartDaemon())
	stop, err := alpha.Squeeze(8 << 20)
	must(t, err)
	must(t, stop())
	if !alpha.Running() {
		t.Error("the daemon died although it asked for nothing")
	}

	stop, err = alpha.Squeeze(8 << 20)
	must(t, err)
	must(t, alpha.Kill(syscall.SIGUSR1))
	if err := alpha.Wait(ctx); ctx.Err() != nil {
		t.Errorf("the daemon has more memory than it may: %v", err)
	}
	must(t, stop())
}

func TestHogsEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	stop, err := l.Host("alpha").Hog(2)
	must(t, err)
	stop()
	if killed, err := sweepOnce(t.Context(), map[uint64]bool{l.Host("alpha").ns.ino: true}); err != nil || killed != 0 {
		t.Errorf("%d processes are left (%v)", killed, err)
	}
}

func TestGuardsAreFoundByTheirName(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	alpha, out := l.Host("alpha"), filepath.Join(t.TempDir(), "out")
	_, err := alpha.Start(out, "tail", "-f", os.DevNull, "guard")
	must(t, err)
	_, err = l.Host("beta").Start(out, "tail", "guard", "-f", os.DevNull)
	must(t, err)
	if n, err := alpha.SignalGuard(syscall.SIGKILL); n != 0 || err != nil {
		t.Errorf("found %d guards where none is (%v)", n, err)
	}
	guard, err := alpha.Start(out, "tail", "guard", "-f", os.DevNull)
	must(t, err)
	if n, err := alpha.SignalGuard(syscall.SIGKILL); n != 1 || err != nil {
		t.Errorf("found %d guards where one is (%v)", n, err)
	}
	if err := guard.Wait(ctx); ctx.Err() != nil {
		t.Errorf("the guard wasn't killed: %v", err)
	}
}
