package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"had/internal/thread"
)

func TestBusyNamesWhoUsesIt(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	must(t, Mount(ctx, v, MountOptions{}))
	file := filepath.Join(v.Path, "file")
	for _, tc := range []struct{ helper, arg, what string }{
		{"open", file, "open file " + file},
		{"chdir", v.Path, "working folder " + v.Path},
		{"map", file, "mapped file " + file},
	} {
		h := startHelper(t, 0, tc.helper, tc.arg)
		err := Unmount(ctx, v)
		busy, ok := errors.AsType[*BusyError](err)
		if !ok || len(busy.Users) != 1 || busy.Users[0].PID != h.cmd.Process.Pid || busy.Users[0].What != tc.what {
			t.Errorf("%s: got %v", tc.helper, err)
		}
		if !errors.Is(err, ErrInUse) || !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: %v is neither ErrInUse nor EBUSY", tc.helper, err)
		}
		h.kill()
	}
	must(t, Unmount(ctx, v)) // right after a kill
}

// Whoever has the device open is no user of the file system, wherever the
// device's own name is: here in a mount namespace that no process shows.
func TestBusyTellsTheDeviceFromTheFileSystem(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	must(t, Mount(ctx, v, MountOptions{}))
	opened := make(chan error)
	thread.Go(func() { // its namespace ends with it
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			var fd int
			if fd, err = unix.Open(v.Device, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				t.Cleanup(func() { _ = unix.Close(fd) })
			}
		}
		opened <- err
	})
	must(t, <-opened)
	h := startHelper(t, 0, "chdir", v.Path)
	busy, ok := errors.AsType[*BusyError](Unmount(ctx, v))
	if !ok || len(busy.Users) != 1 || busy.Users[0].PID != h.cmd.Process.Pid {
		t.Errorf("in use by %v, want process %d alone", busy, h.cmd.Process.Pid)
	}
	h.kill()
	must(t, Unmount(ctx, v))
	fd, err := unix.Open(v.Device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	busy, ok = errors.AsType[*BusyError](Unused(ctx, v))
	if !ok || len(busy.Users) == 0 {
		t.Errorf("opened with O_EXCL: in use by %v", busy)
	}
}

// Who has the file open when it is killed may keep it for a moment.
func TestUnmountRightAfterAKill(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	for range 20 {
		must(t, Mount(ctx, v, MountOptions{}))
		h := startHelper(t, 0, "open", filepath.Join(v.Path, "file"))
		must(t, h.cmd.Process.Kill())
		must(t, Unmount(ctx, v))
		h.kill()
	}
}

// Containers and services with private mounts keep copies of what is mounted.
func TestCopiesInOtherNamespaces(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		v := newVolume(t, fstype)
		must(t, Mount(ctx, v, MountOptions{}))
		h := startHelper(t, unix.CLONE_NEWNS, "nothing")
		err := Unmount(ctx, v)
		busy, ok := errors.AsType[*BusyError](err)
		if !ok || len(busy.Users) != 1 || !strings.Contains(busy.Users[0].What, fmt.Sprintf("process %d", h.cmd.Process.Pid)) {
			t.Errorf("%s: unmounted here, still mounted there: %v", fstype, err)
		}
		if err := Unused(ctx, v); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: proof: %v", fstype, err)
		}
		must(t, Secure(ctx, []Volume{v}))
		must(t, Unused(ctx, v))
		h.kill()
	}
}

// What was unmounted lazily is in no table any more, and still written to.
func TestHiddenMounts(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		v := newVolume(t, fstype)
		must(t, Mount(ctx, v, MountOptions{}))
		h := startHelper(t, 0, "open", filepath.Join(v.Path, "file"))
		must(t, unix.Unmount(v.Path, unix.MNT_DETACH))
		for what, err := range map[string]error{"proof": Unused(ctx, v), "unmount": Unmount(ctx, v), "secure": Secure(ctx, []Volume{v})} {
			busy, ok := errors.AsType[*BusyError](err)
			if !ok || len(busy.Users) != 1 || busy.Users[0].PID != h.cmd.Process.Pid {
				t.Errorf("%s: %s: %v", fstype, what, err)
			}
		}
		h.kill()
		eventually(t, "the last user is gone", func() bool { return Unused(ctx, v) == nil })
	}
}

// Two devices over one image are as two hosts before one disk: each proves for
// itself only.
func TestTwoHosts(t *testing.T) {
	ctx := t.Context()
	image := newImage(t, "ext4", "-L", "shared")
	a, b := volumeOn(t, image), volumeOn(t, image)
	must(t, Mount(ctx, a, MountOptions{}))
	must(t, Unused(ctx, b))
	must(t, Secure(ctx, []Volume{b}))
	if err := Unused(ctx, a); !errors.Is(err, ErrInUse) {
		t.Errorf("proof of the other: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(a.Path, "file"), []byte("content"), 0o600))
	must(t, Unmount(ctx, a))
	must(t, Mount(ctx, b, MountOptions{}))
	if got, err := os.ReadFile(filepath.Join(b.Path, "file")); err != nil || string(got) != "content" {
		t.Errorf("the other host reads %q, %v", got, err)
	}
}

// What a writer was told is safe is there after it was killed and the volume
// ended by force, and read from another host.
func TestSecureLosesNothingSynced(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		image := newImage(t, fstype)
		a, b := volumeOn(t, image), volumeOn(t, image)
		for round := range 10 {
			must(t, Mount(ctx, a, MountOptions{}))
			name := fmt.Sprintf("stamps%d", round)
			h := startHelper(t, 0, "write", filepath.Join(a.Path, name))
			for range 20 {
				h.line()
			}
			safe := 20 + strings.Count(h.killed(), "\n")
			must(t, Secure(ctx, []Volume{a}))
			before := digest(t, image)

			must(t, Mount(ctx, b, MountOptions{}))
			got, err := os.ReadFile(filepath.Join(b.Path, name))
			must(t, err)
			if n := countStamps(t, got); n < safe {
				t.Errorf("%s: %d stamps were safe, %d are there", fstype, safe, n)
			}
			must(t, Unmount(ctx, b))
			clean(t, fstype, b.Device)
			if before == digest(t, image) {
				t.Errorf("%s: mounting and unmounting wrote nothing: the digest can't tell writes", fstype)
			}
		}
	}
}

// A writer that is still alive writes nothing from the moment Secure begins to
// report, and without its end there is no proof.
func TestSecureStopsWriters(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		image := newImage(t, fstype)
		v := volumeOn(t, image)
		must(t, Mount(ctx, v, MountOptions{}))
		h := startHelper(t, 0, "write", filepath.Join(v.Path, "stamps"))
		err := Secure(ctx, []Volume{v})
		busy, ok := errors.AsType[*BusyError](err)
		if !ok || len(busy.Users) != 1 || busy.Users[0].PID != h.cmd.Process.Pid {
			t.Fatalf("%s: secured below a living writer: %v", fstype, err)
		}
		if strings.Contains(err.Error(), "may still be written") {
			t.Fatalf("%s: %v", fstype, err)
		}
		before := digest(t, image)
		for line := h.line(); ; line = h.line() { // until it was told of the failure
			if _, err := strconv.Atoi(line); err != nil {
				if !strings.Contains(line, "input/output error") {
					t.Errorf("%s: the writer was told %q", fstype, line)
				}
				break
			}
		}
		h.kill()
		must(t, Secure(ctx, []Volume{v})) // tries again
		must(t, Unused(ctx, v))
		if fstype == "xfs" && before != digest(t, image) { // ext4 notes on its superblock that it was shut down
			t.Errorf("%s: the image was written after the shutdown", fstype)
		}
	}
}

// countStamps returns how many records there are in a row.
func countStamps(t testing.TB, b []byte) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(string(b)) {
		if line != fmt.Sprintf(stamp, n+1) {
			break
		}
		n++
	}
	return n
}
