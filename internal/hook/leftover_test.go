package hook

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/thread"
)

// Requests of linux/fs.h: every write to the file system waits, beyond the
// reach of SIGKILL, until it is thawed.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// A script writes to a file system that doesn't answer, itself or by something
// it started. That is no reason to distrust this host for good: once the file
// system answers, SIGKILL ends what it was sent to.
func TestLeftoverIsGoneOnceTheFileSystemAnswers(t *testing.T) {
	for name, script := range map[string]string{
		"the script itself":     "echo data > FROZEN/file",
		"something it started":  "(echo data > FROZEN/file) & sleep 60",
		"its child, in a shell": "sh -c 'echo data > FROZEN/file; true'",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			done := make(chan struct{})
			thread.Go(func() { // scripts are forked from this thread, in its mount namespace
				defer close(done)
				frozen := frozenFileSystem(t)
				if frozen == nil {
					return
				}
				defer func() {
					_ = unix.IoctlSetInt(int(frozen.Fd()), fiThaw, 0) // it has been, unless the test failed
					_ = frozen.Close()
				}()
				f.script("PreRel", strings.ReplaceAll(script, "FROZEN", frozen.Name()))
				f.seesItsEnd(frozen)
			})
			<-done
		})
	}
}

func (f *fixture) seesItsEnd(frozen *os.File) {
	t := f.t
	results, err := f.runner(300*time.Millisecond).Stage(t.Context(), Run{Stage: PreRel, Event: Release, VIP: testVIP()})
	if !errors.Is(err, ErrStillRunning) || len(results) != 1 || results[0].Left == nil {
		t.Errorf("Stage = %v, %v; want a script that can't be ended", results, err)
		return
	}
	left := results[0].Left
	if gone, err := left.Gone(t.Context()); gone || err != nil {
		t.Errorf("Gone = %v, %v while it is stuck", gone, err)
	}
	if want := []string{"started PreRel"}; !slices.Equal(f.record, want) {
		t.Errorf("recorded %q, want %q", f.record, want)
	}
	if err := unix.IoctlSetInt(int(frozen.Fd()), fiThaw, 0); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(long); ; runtime.Gosched() {
		gone, err := left.Gone(t.Context())
		if gone || err != nil || time.Now().After(end) {
			if !gone || err != nil {
				t.Errorf("Gone = %v, %v after it was let go on", gone, err)
			}
			break
		}
	}
	if gone, err := left.Gone(t.Context()); !gone || err != nil {
		t.Errorf("Gone again = %v, %v", gone, err)
	}
	if want := []string{"started PreRel", "finished PreRel timed out"}; !slices.Equal(f.record, want) {
		t.Errorf("recorded %q, want %q", f.record, want)
	}
}

// frozenFileSystem mounts an ext4 of its own in a mount namespace of the calling
// thread and freezes it. It needs root; it is thawed and gone with the test.
func frozenFileSystem(t *testing.T) *os.File {
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	err := errors.Join(
		os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20),
		exec.Command("mkfs.ext4", "-q", image).Run(),
		unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
	)
	if err == nil {
		err = exec.Command("mount", "-o", "loop", image, dir).Run()
	}
	if err != nil {
		t.Errorf("mount a file system to freeze: %v", err)
		return nil
	}
	f, err := os.Open(dir)
	if err == nil {
		err = unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0)
	}
	if err != nil {
		t.Errorf("freeze a file system: %v", err)
		return nil
	}
	return f
}
