package guard

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"had/storage"
)

// testDisk is a file system on a loop device, not mounted.
type testDisk struct {
	storage.Volume

	image string
}

// newDisk makes one in a file of dir. Its volume's place is in a folder of the
// test's own.
func newDisk(t testing.TB, dir, name, fstype string) testDisk {
	t.Helper()
	image := filepath.Join(dir, name+".img")
	size := int64(64 << 20)
	if fstype == "xfs" {
		size = 320 << 20 // it makes none below 300 MB
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs."+fstype, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("make a file system (needs mkfs.%s): %v: %s", fstype, err, out)
	}
	loop := attachLoop(t, image)
	d := testDisk{storage.Volume{Name: name, Device: loop, Path: filepath.Join(t.TempDir(), name), FSType: fstype}, image}
	t.Cleanup(func() {
		if mountedAt(t, d.Path) {
			if err := unix.Unmount(d.Path, 0); err != nil {
				t.Errorf("unmount %s: %v", d.Path, err)
			}
		}
	})
	return d
}

// attachLoop makes a free loop device of a file; at the test's end, and when
// nobody has it mounted, it clears itself (loop(4)).
func attachLoop(t testing.TB, image string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() // the device has a reference of its own
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}, //nolint:gosec // descriptors are small
		})
		if err == nil {
			t.Cleanup(func() { loop.Close() })
			return loop.Name()
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody was faster
			t.Fatalf("configure %s: %v", loop.Name(), err)
		}
	}
}

// mountedAt reports whether something is mounted there in this namespace.
func mountedAt(t testing.TB, path string) bool {
	t.Helper()
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.Mountpoint == path })
}

// clean fails unless the file system is whole. A journal that is to be replayed
// is no damage: the mount does it.
func (d testDisk) clean(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(d.Device, dir, d.FSType, 0, ""); err != nil {
		t.Errorf("mount it again: %v", err)
		return
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	check := []string{"fsck.ext4", "-fn", d.image}
	if d.FSType == "xfs" {
		check = []string{"xfs_repair", "-n", d.image}
	}
	if out, err := exec.CommandContext(t.Context(), check[0], check[1:]...).CombinedOutput(); err != nil {
		t.Errorf("the file system is damaged: %v: %s", err, out)
	}
}

// freeze makes every write to a file system wait, beyond the reach of SIGKILL,
// until thaw is called.
func freeze(t testing.TB, dir string) (thaw func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // include/uapi/linux/fs.h
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thawed := false
	thaw = func() {
		if thawed {
			return
		}
		thawed = true
		if err := unix.IoctlSetInt(int(f.Fd()), fiThaw, 0); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	t.Cleanup(thaw)
	return thaw
}
