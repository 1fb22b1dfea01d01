package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Volume is a disk that every server sees.
type Volume struct {
	Name   string // a file name; also that of its device and of its mount point
	FSType string // "ext4" or "xfs": what mkfs makes on it
}

// Where a volume is on every server. Both folders are a server's own: what is
// in them, or mounted below, no other host sees.
const (
	volumeDevices = "/dev/shm"
	volumePlaces  = "/srv"
)

// Device returns the path of the volume's device on every server.
func (v Volume) Device() string { return filepath.Join(volumeDevices, v.Name) }

// Path returns where it is to be mounted on a server.
func (v Volume) Path() string { return filepath.Join(volumePlaces, v.Name) }

// volumeSize is more than the 300 MB that xfs demands; only what is written
// takes space.
const volumeSize = 320 << 20

// plug is one server's end of a volume: a loop device over the disk's file. Two
// of them share no cache, so that a file system on one knows as little of what
// another host writes as on two machines.
type plug struct {
	Volume

	loop *os.File // keeps the device for as long as the lab lives
	dev  string   // its number, as mountinfo has it: "7:3"
}

func validVolumes(volumes []Volume) error {
	var names []string
	for _, v := range volumes {
		if v.Name == "" || v.Name != filepath.Base(v.Name) || slices.Contains(names, v.Name) {
			return fmt.Errorf("name a volume %q: use a file name, and each once", v.Name)
		}
		if v.FSType != "ext4" && v.FSType != "xfs" {
			return fmt.Errorf("make a volume of type %q: use ext4 or xfs", v.FSType)
		}
		names = append(names, v.Name)
	}
	return nil
}

// VolumeImage returns the file that is a volume's disk, as the client sees it.
func (l *Lab) VolumeImage(name string) string { return filepath.Join(l.array(), "volume-"+name) }

// array is the folder with the volumes' disks.
func (l *Lab) array() string { return filepath.Join(l.dir, "array") }

// arraySize has room for all volumes; only what is written takes space.
const arraySize = 2 << 30

// makeVolumes makes the disks. The client, which takes no part, sees them.
func (l *Lab) makeVolumes() error {
	if len(l.cfg.Volumes) == 0 {
		return nil
	}
	if err := os.MkdirAll(l.array(), 0o700); err != nil {
		return fmt.Errorf("create the folder of the volumes: %w", err)
	}
	if l.cfg.Array {
		if err := l.makeArray(); err != nil {
			return err
		}
	}
	for _, v := range l.cfg.Volumes {
		image := l.VolumeImage(v.Name)
		if err := l.Client.keeper.do(func() error { return makeImage(image, volumeSize) }); err != nil {
			return fmt.Errorf("make the disk of volume %s: %w", v.Name, err)
		}
		if _, err := l.Client.Exec(context.Background(), "mkfs."+v.FSType, "-q", image); err != nil {
			return fmt.Errorf("make a file system on volume %s (needs e2fsprogs and xfsprogs): %w", v.Name, err)
		}
	}
	return nil
}

func makeImage(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// makeArray mounts a file system for the disks, in the client's namespace.
func (l *Lab) makeArray() error {
	image := filepath.Join(l.dir, "array.img")
	err := makeImage(image, arraySize)
	if err == nil {
		_, err = l.Client.Exec(context.Background(), "mkfs.ext4", "-q", image)
	}
	if err == nil {
		err = l.Client.keeper.do(func() error {
			loop, err := attachLoop(image)
			if err != nil {
				return err
			}
			return errors.Join(unix.Mount(loop.Name(), l.array(), "ext4", 0, ""), loop.Close())
		})
	}
	if err != nil {
		return fmt.Errorf("make a disk array (needs mkfs.ext4, of e2fsprogs): %w", err)
	}
	return nil
}

// StallVolumes makes every write to a volume's disk wait, as an array does that
// fails over, until ResumeVolumes. Who waits is out of SIGKILL's reach.
func (l *Lab) StallVolumes() error {
	return l.onArray("stall the volumes", func(fd int) error {
		return ignore(unix.EBUSY, unix.IoctlSetInt(fd, fiFreeze, 0)) // EBUSY: it is stalled
	})
}

// ResumeVolumes ends StallVolumes.
func (l *Lab) ResumeVolumes() error {
	return l.onArray("let the volumes go on", func(fd int) error {
		return ignore(unix.EINVAL, unix.IoctlSetInt(fd, fiThaw, 0)) // EINVAL: it goes on
	})
}

func (l *Lab) onArray(what string, f func(fd int) error) error {
	if !l.cfg.Array {
		return fmt.Errorf("%s: the lab was built without an array", what)
	}
	err := l.Client.keeper.do(func() error {
		dir, err := os.Open(l.array())
		if err != nil {
			return err
		}
		return errors.Join(f(int(dir.Fd())), dir.Close())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// plugVolumes gives a server its own ends of all volumes.
func (h *Host) plugVolumes() error {
	if len(h.lab.cfg.Volumes) == 0 {
		return nil
	}
	err := h.keeper.do(func() error {
		for dir, mode := range map[string]string{volumeDevices: "1777", volumePlaces: "0755"} {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode="+mode); err != nil {
				return fmt.Errorf("give host %s its own %s: %w", h.Name, dir, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, v := range h.lab.cfg.Volumes {
		var loop *os.File
		err := h.lab.Client.keeper.do(func() (err error) {
			loop, err = attachLoop(h.lab.VolumeImage(v.Name))
			return err
		})
		if err != nil {
			return fmt.Errorf("plug volume %s into host %s: %w", v.Name, h.Name, err)
		}
		h.plugs = append(h.plugs, plug{Volume: v, loop: loop})
		var st unix.Stat_t
		if err := unix.Fstat(int(loop.Fd()), &st); err != nil {
			return fmt.Errorf("plug volume %s into host %s: %w", v.Name, h.Name, err)
		}
		h.plugs[len(h.plugs)-1].dev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		if err := h.PlugVolume(v.Name); err != nil {
			return err
		}
	}
	return nil
}

// PlugVolume brings a volume's device back that UnplugVolume took.
func (h *Host) PlugVolume(name string) error {
	p := h.plug(name)
	return h.keeper.do(func() error {
		if err := os.Symlink(p.loop.Name(), p.Device()); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("plug volume %s into host %s: %w", name, h.Name, err)
		}
		return nil
	})
}

// UnplugVolume takes the name of a volume's device away from a server, which
// then can't find it. One that is mounted stays so.
func (h *Host) UnplugVolume(name string) error {
	p := h.plug(name)
	return h.keeper.do(func() error {
		if err := os.Remove(p.Device()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unplug volume %s from host %s: %w", name, h.Name, err)
		}
		return nil
	})
}

// FillVolume leaves no space on a volume that is mounted on the host.
func (h *Host) FillVolume(name string) error {
	return h.inVolume("fill", name, func(dir string) error { return fill(dir, volumeSize) })
}

// EmptyVolume ends FillVolume, on whichever host the volume is mounted now.
func (h *Host) EmptyVolume(name string) error {
	return h.inVolume("empty", name, func(dir string) error {
		return ignore(os.ErrNotExist, os.Remove(filepath.Join(dir, fillerName)))
	})
}

// BreakVolume makes every access to a volume fail with EIO on the host that has it
// mounted, until it is mounted again. What was not on disk yet is lost.
func (h *Host) BreakVolume(name string) error {
	return h.inVolume("break", name, func(path string) error {
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		// The request is xfs's, too.
		return errors.Join(unix.IoctlSetPointerInt(int(dir.Fd()), ext4Shutdown, shutdownNoSync), dir.Close())
	})
}

func (h *Host) inVolume(what, name string, f func(dir string) error) error {
	if err := h.keeper.do(func() error { return f(h.plug(name).Path()) }); err != nil {
		return fmt.Errorf("%s volume %s on host %s: %w", what, name, h.Name, err)
	}
	return nil
}

// plug panics when there is no such volume, as Lab.Host does.
func (h *Host) plug(name string) plug {
	for _, p := range h.plugs {
		if p.Name == name {
			return p
		}
	}
	panic(fmt.Sprintf("host %s has no volume %q", h.Name, name))
}

// mountinfo returns the host's mounts (proc_pid_mountinfo(5)).
func (h *Host) mountinfo() (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/mountinfo", h.keeper.thread))
	if err != nil {
		return "", fmt.Errorf("read the mounts of host %s: %w", h.Name, err)
	}
	return string(b), nil
}

// alive reports whether the host's kernel has the volume's file system: it is
// mounted, or was and something still holds it, wherever that is.
func (p plug) alive(mounts string) bool {
	if strings.Contains(mounts, " "+p.dev+" ") {
		return true
	}
	_, err := os.Stat(filepath.Join("/sys/fs", p.FSType, filepath.Base(p.loop.Name())))
	return err == nil
}
