package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stall keeps a file system's disk from taking any write until the test is over, or
// thaw is called.
func stall(t *testing.T, lower Volume) (thaw func()) {
	t.Helper()
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878 // include/uapi/linux/fs.h
	f, err := os.Open(lower.Path)
	must(t, err)
	must(t, unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0))
	thaw = func() { _ = unix.IoctlSetInt(int(f.Fd()), fiThaw, 0) } // it may be thawed
	t.Cleanup(func() { thaw(); f.Close() })
	return thaw
}

// A shutdown on a disk that takes no writes: none is accepted any more, at once. The
// call itself returns at once on xfs, and on ext4 with the disk's answer.
func TestShutdownOnAStalledDisk(t *testing.T) {
	for _, fstype := range fileSystems() {
		under, v := lower(t, fstype)
		must(t, Mount(t.Context(), v, MountOptions{}))
		file, err := os.Create(filepath.Join(v.Path, "file"))
		must(t, err)
		_, err = file.WriteString("not synced")
		must(t, err)
		own, err := ownMounts()
		must(t, err)
		m, _ := top(own, v.Path)
		thaw := stall(t, under)
		ended := make(chan error, 1)
		go func() { ended <- thisHost().shutDown([]mount{m}, m.dev()) }()
		if fstype == "xfs" {
			select {
			case err := <-ended:
				must(t, err)
				ended <- nil
			case <-time.After(5 * time.Second):
				t.Error("xfs: the shutdown waits for the disk")
			}
		}
		eventually(t, fstype+": no write is accepted", func() bool {
			_, err := file.WriteString("x")
			return errors.Is(err, unix.EIO)
		})
		thaw()
		must(t, <-ended)
		file.Close()
		must(t, Secure(t.Context(), []Volume{v}))
	}
}

// One volume whose disk stalls doesn't keep the others' file systems open, nor
// mounted.
func TestAStalledDiskLeavesNoOtherOpen(t *testing.T) {
	under, stuck := lower(t, "ext4")
	other := newVolume(t, "ext4")
	must(t, Mount(t.Context(), other, MountOptions{}))
	must(t, Mount(t.Context(), stuck, MountOptions{}))
	must(t, os.WriteFile(filepath.Join(stuck.Path, "file"), []byte("not synced"), 0o600))
	thaw := stall(t, under)
	ended := make(chan error, 1)
	go func() { ended <- Secure(t.Context(), []Volume{other, stuck}) }()
	eventually(t, "the other is shut down", func() bool {
		err := os.WriteFile(filepath.Join(other.Path, "file"), []byte("late"), 0o600)
		return err == nil && Unused(t.Context(), other) == nil || errors.Is(err, unix.EIO)
	})
	eventually(t, "the other is unmounted", func() bool { return Unused(t.Context(), other) == nil })
	thaw()
	must(t, <-ended)
}
