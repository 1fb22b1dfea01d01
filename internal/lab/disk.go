package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the small disk below one server's data folder: ext4 on a loop
// device. It is mounted in the host's own mount namespace, and the loop device
// clears itself when it is unmounted, so nothing of it outlives the lab's
// process, unless that is killed while the disk is stalled.
type disk struct {
	image   string
	broken  bool
	stalled bool
}

const (
	diskSize = 256 << 20 // of which only what is written takes space

	// Requests to a file system, from include/uapi/linux/fs.h and
	// fs/ext4/ext4.h. Shutdown with this flag drops what is not on disk yet
	// and makes everything after it fail with EIO, as a dead disk does.
	fiFreeze       = 0xc0045877
	fiThaw         = 0xc0045878
	ext4Shutdown   = 0x8004587d
	shutdownNoSync = 2

	loopDevices     = "/dev/loop-control"
	unmountPatience = 5 * time.Second
)

// addDisk makes a disk and mounts it as the host's data folder.
func (h *Host) addDisk() error {
	d := &disk{image: filepath.Join(h.dir, "disk.img")}
	f, err := os.OpenFile(d.image, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create the disk of host %s: %w", h.Name, err)
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return fmt.Errorf("size the disk of host %s: %w", h.Name, err)
	}
	// No reserved blocks: a full disk is full for root, too.
	if _, err := h.Exec(context.Background(), "mkfs.ext4", "-q", "-m", "0", d.image); err != nil {
		return fmt.Errorf("make a file system on a disk (needs mkfs.ext4, of e2fsprogs): %w", err)
	}
	if err := os.MkdirAll(h.DataDir(), 0o700); err != nil {
		return fmt.Errorf("create the data folder of host %s: %w", h.Name, err)
	}
	h.disk = d
	return h.mountDisk()
}

func (h *Host) mountDisk() error {
	err := h.keeper.do(func() error {
		loop, err := attachLoop(h.disk.image)
		if err != nil {
			return err
		}
		// The mount holds the device from now on.
		return errors.Join(unix.Mount(loop.Name(), h.DataDir(), "ext4", 0, ""), loop.Close())
	})
	if err != nil {
		return fmt.Errorf("mount the disk of host %s: %w", h.Name, err)
	}
	return nil
}

// attachLoop makes a free loop device of a file; it is free again when nobody
// has it open or mounted (loop(4)).
func attachLoop(image string) (*os.File, error) {
	control, err := os.OpenFile(loopDevices, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("look for a free loop device: %w", err)
	}
	defer control.Close()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the device has a reference of its own
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("look for a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return loop, nil
		}
		if err := errors.Join(loop.Close(), err); !errors.Is(err, unix.EBUSY) { // EBUSY: somebody was faster
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
}

// onDisk calls f with the data folder opened in the host's mount namespace.
func (h *Host) onDisk(what string, f func(dir *os.File) error) error {
	if h.disk == nil {
		return fmt.Errorf("%s of host %s: the lab was built without disks", what, h.Name)
	}
	err := h.keeper.do(func() error {
		dir, err := os.Open(h.DataDir())
		if err != nil {
			return err
		}
		return errors.Join(f(dir), dir.Close())
	})
	if err != nil {
		return fmt.Errorf("%s of host %s: %w", what, h.Name, err)
	}
	return nil
}

// fillerName is the file that takes the space of a full disk.
const fillerName = "filler"

// FillDisk leaves no space on the data folder's disk. To one that is broken it
// does nothing, and to one that is stalled: that would have this process wait.
func (h *Host) FillDisk() error {
	if h.disk != nil && (h.disk.broken || h.disk.stalled) {
		return nil
	}
	return h.onDisk("fill the disk", func(dir *os.File) error {
		return fill(dir.Name(), diskSize)
	})
}

// fill takes all the space of the file system at dir, which has this size.
func fill(dir string, size int64) error {
	f, err := os.OpenFile(filepath.Join(dir, fillerName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, 2)
	for err == nil && size >= 4096 {
		err = unix.Fallocate(int(f.Fd()), 0, end, size)
		if errors.Is(err, unix.ENOSPC) {
			size, err = size/2, nil
			continue
		}
		end += size
	}
	return errors.Join(err, f.Close())
}

// StallDisk makes every write to the data folder's disk wait, beyond the reach
// of SIGKILL, until MendDisk. A broken disk goes on failing at once.
func (h *Host) StallDisk() error {
	if h.disk != nil && h.disk.broken {
		return nil
	}
	return h.onDisk("stall the disk", func(dir *os.File) error {
		h.disk.stalled = true
		return ignore(unix.EBUSY, unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0)) // EBUSY: it is stalled
	})
}

// BreakDisk makes every access to the data folder's disk fail with EIO, until
// MendDisk. What was not on disk yet is lost.
func (h *Host) BreakDisk() error {
	return h.onDisk("break the disk", func(dir *os.File) error {
		h.disk.broken = true
		return unix.IoctlSetPointerInt(int(dir.Fd()), ext4Shutdown, shutdownNoSync)
	})
}

// MendDisk ends every fault of the data folder's disk. A broken one is
// replaced by another with the same content, for which the daemon is killed;
// StartDaemon is up to the caller. Without disks it does nothing.
func (h *Host) MendDisk(ctx context.Context) error {
	if h.disk == nil {
		return nil
	}
	if err := h.thawDisk(); err != nil {
		return err
	}
	if h.disk.broken {
		return h.replaceDisk(ctx)
	}
	return h.onDisk("empty the disk", func(dir *os.File) error {
		return ignore(fs.ErrNotExist, os.Remove(filepath.Join(dir.Name(), fillerName)))
	})
}

func (h *Host) thawDisk() error {
	return h.onDisk("let the disk go on", func(dir *os.File) error {
		err := ignore(unix.EINVAL, unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0)) // EINVAL: it goes on
		h.disk.stalled = h.disk.stalled && err != nil
		return err
	})
}

func (h *Host) replaceDisk(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, unmountPatience)
	defer cancel()
	// Whoever has a file of it open keeps it mounted.
	if err := sweep(ctx, map[uint64]bool{h.ns.ino: true}); err != nil {
		return fmt.Errorf("kill who uses the broken disk of host %s: %w", h.Name, err)
	}
	if p := h.Daemon(); p != nil {
		<-p.Done()
	}
	err := h.keeper.do(func() error { return unix.Unmount(h.DataDir(), 0) })
	if err != nil {
		return fmt.Errorf("unmount the broken disk of host %s: %w", h.Name, err)
	}
	h.disk.broken = false
	return h.mountDisk()
}

// ignore returns err unless it is expected.
func ignore(expected, err error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
