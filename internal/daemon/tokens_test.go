package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dumpable(t *testing.T) int {
	t.Helper()
	n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMemoryIsHiddenFromCoreDumps(t *testing.T) {
	before := dumpable(t)
	defer func() {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0); err != nil { //nolint:gosec // 0 or 1
			t.Error(err)
		}
	}()
	if err := hideMemory(); err != nil || dumpable(t) != 0 {
		t.Errorf("dumpable is %d, %v", dumpable(t), err)
	}
}

func TestReloadsAreRunAndEnded(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "reload")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(script, []byte("#!/bin/sh\n"+text+"\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(script, mode); err != nil {
			t.Fatal(err)
		}
	}
	said := func(ctx context.Context, want string) {
		t.Helper()
		err := runReload(ctx, []string{script, "x"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	write(`[ "$1" = x ] && [ -z "$GOPATH$USER" ] && echo done >`+dir+`/done`, 0o755)
	said(t.Context(), "")
	if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
		t.Error(err)
	}
	write("echo the token; exit 3", 0o755)
	said(t.Context(), "exit status 3")
	write("exit 0", 0o777)
	said(t.Context(), "can be written by users other than root")
	write("sleep 60 & wait", 0o755)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	said(ctx, "deadline exceeded")
}
