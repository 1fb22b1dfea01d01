package storage

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// copyOf copies an image as it is on the disk now: as if its host had crashed.
func copyOf(t *testing.T, image string) string {
	t.Helper()
	in, err := os.Open(image)
	must(t, err)
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	must(t, err)
	defer out.Close()
	_, err = io.Copy(out, in)
	must(t, err)
	return out.Name()
}

// With the protection, ext4 waits whether another host still writes. Who knows
// that it doesn't clears that.
func TestMMP(t *testing.T) {
	ctx := t.Context()
	image := newImage(t, "ext4", "-O", "mmp", "-E", "mmp_update_interval=1")
	a := volumeOn(t, image)
	held := func(v Volume, want bool) {
		t.Helper()
		p, err := Protected(ctx, v)
		must(t, err)
		if p == nil || p.Held != want {
			t.Fatalf("protection: %+v, want held: %t", p, want)
		}
		host, err := os.Hostname()
		must(t, err)
		if want && p.Node != host {
			t.Errorf("held by %q, want %q", p.Node, host)
		}
	}
	held(a, false)
	must(t, Mount(ctx, a, MountOptions{}))
	other := volumeOn(t, image)
	held(other, true)
	crashed := volumeOn(t, copyOf(t, image))
	must(t, Unmount(ctx, a))
	held(other, false)

	held(crashed, true)
	began := time.Now()
	must(t, Mount(ctx, crashed, MountOptions{ClearMMP: true}))
	if took := time.Since(began); took > 4*time.Second { // the kernel's wait takes no less than 10
		t.Errorf("mounting took %v in spite of the evidence", took)
	}
	must(t, Secure(ctx, []Volume{crashed}))
	if p, err := Protected(ctx, newVolume(t, "xfs")); p != nil || err != nil {
		t.Errorf("xfs has protection %+v, %v", p, err)
	}
}

// A volume of another host isn't mounted because somebody asked for a mount:
// its protection is looked at until it is cleared.
func TestMMPRefusesASecondHost(t *testing.T) {
	ctx := t.Context()
	image := newImage(t, "ext4", "-O", "mmp", "-E", "mmp_update_interval=1")
	a, b := volumeOn(t, image), volumeOn(t, image)
	must(t, Mount(ctx, a, MountOptions{}))
	if err := Mount(ctx, b, MountOptions{}); err == nil {
		t.Error("two hosts have it mounted")
	}
	must(t, Unused(ctx, b))
}

// lower is a file system with an image on it: what becomes of it becomes of
// the volume on the image.
func lower(t *testing.T, fstype string) (lower, v Volume) {
	t.Helper()
	lower = newVolume(t, "ext4")
	tool(t, "resize2fs", lower.Device)
	must(t, Mount(t.Context(), lower, MountOptions{}))
	image := filepath.Join(lower.Path, "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, imageSize-80<<20))
	tool(t, "mkfs."+fstype, "-q", image)
	return lower, volumeOn(t, image)
}

// A disk that fails every request ends in a defined state: no proof as long as
// it is mounted, and one when it is not.
func TestSecureOnABrokenDisk(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		under, v := lower(t, fstype)
		must(t, Mount(ctx, v, MountOptions{}))
		must(t, os.WriteFile(filepath.Join(v.Path, "file"), []byte("not synced"), 0o600))
		own, err := ownMounts()
		must(t, err)
		m, _ := top(own, under.Path)
		must(t, thisHost().shutDown([]mount{m}, m.dev()))
		must(t, Secure(ctx, []Volume{v}))
		err = Mount(ctx, v, MountOptions{})
		if err == nil {
			t.Errorf("%s: mounted from a broken disk", fstype)
		}
		must(t, Unused(ctx, v))
	}
}

// On a disk that doesn't answer nothing ends, and nobody says that it did, while a
// write is under way. Where none is, and unmounting takes none, all ends at once.
func TestSecureOnAStalledDisk(t *testing.T) {
	for _, fstype := range fileSystems() {
		for _, underWay := range []bool{true, false} {
			under, v := lower(t, fstype)
			must(t, Mount(t.Context(), v, MountOptions{}))
			file, err := os.Create(filepath.Join(v.Path, "file"))
			must(t, err)
			_, err = file.Write(make([]byte, 1<<20))
			must(t, err)
			thaw := stall(t, under)
			if underWay { // and nobody waits for it
				must(t, unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE))
			}
			must(t, file.Close())
			done := make(chan error, 1)
			go func() { done <- Secure(t.Context(), []Volume{v}) }()
			if fstype == "xfs" && !underWay {
				must(t, <-done)
				image := filepath.Join(under.Path, "image")
				before := digest(t, image)
				thaw()
				must(t, Unused(t.Context(), v))
				if before != digest(t, image) {
					t.Error("it was written after the proof")
				}
				continue
			}
			for range 20 {
				select {
				case err := <-done:
					t.Errorf("%s: Secure ended on a stalled disk: %v", fstype, err)
					done <- err
				case <-time.After(10 * time.Millisecond):
				}
				if err := Unused(t.Context(), v); !errors.Is(err, ErrInUse) {
					t.Fatalf("%s: proof on a stalled disk: %v", fstype, err)
				}
			}
			thaw()
			must(t, <-done)
		}
	}
}

// A loop device that was taken away is there as long as it is mounted, and
// has nothing on it afterwards.
func TestVanishedDevice(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4", "-L", "vanish")
	path := v.Device
	v.Device = "LABEL=vanish"
	must(t, Mount(ctx, v, MountOptions{}))
	loop, err := os.Open(path)
	must(t, err)
	must(t, unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0))
	must(t, loop.Close())
	must(t, Secure(ctx, []Volume{v}))
}

func TestContextEndsBetweenSteps(t *testing.T) {
	v := newVolume(t, "ext4")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{"mount": Mount(ctx, v, MountOptions{}), "proof": Unused(ctx, v), "secure": Secure(ctx, []Volume{v})} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, Unused(t.Context(), v))
}

// A volume whose place lies below a folder that another file system was
// mounted over isn't lost sight of.
func TestSecureFindsWhatIsHidden(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		v := newVolume(t, fstype)
		must(t, Mount(ctx, v, MountOptions{}))
		bind := filepath.Join(t.TempDir(), "bind")
		must(t, os.Mkdir(bind, 0o755))
		t.Cleanup(func() { detach(t, bind) })
		must(t, unix.Mount(v.Path, bind, "", unix.MS_BIND, ""))
		must(t, unix.Mount("over", v.Path, "tmpfs", 0, ""))
		err := Unmount(ctx, v)
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), bind) {
			t.Errorf("%s: unmount in order: %v", fstype, err)
		}
		must(t, Secure(ctx, []Volume{v}))
	}
}
