package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fit refuses a device, or what is on it, that another host could write while
// it isn't mounted there, or that this kernel can't mount.
func (h host) fit(ctx context.Context, v Volume, d device) error {
	if err := unfit(v, d.content); err != nil {
		return v.errorf("%s: %w", d.path, err)
	}
	if !known(v.typeOf(d.content)) {
		return v.errorf("%s: %w: this kernel doesn't know %s, which is on it: install what brings it, and look with modprobe %[3]s", d.path, ErrUnfit, v.typeOf(d.content))
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", d.dev.String()))
	if err != nil {
		return v.errorf("look at what %s is made of: %w", d.path, err)
	}
	if err := h.shareable(ctx, dir); err != nil {
		return v.errorf("%s: %w", d.path, err)
	}
	return nil
}

// typeOf returns the file system to mount.
func (v Volume) typeOf(c content) string {
	switch {
	case v.FSType != "":
		return v.FSType
	case c.fstype == "ntfs": // the kernel's own driver is called
		return "ntfs3"
	default:
		return c.fstype
	}
}

// unfit refuses what is no file system, or one that spans devices of which
// only one could be proven free.
func unfit(v Volume, c content) error {
	switch {
	case c.fstype == "":
		return fmt.Errorf("%w: there is no file system on it that blkid knows; make one with mkfs, once, on one host", ErrUnfit)
	case slices.Contains([]string{"btrfs", "zfs_member", "bcachefs", "bcache"}, c.fstype):
		return fmt.Errorf("%w: %s may span several devices, and only one could be proven free: use ext4 or xfs, on LVM if it must span several disks", ErrUnfit, c.fstype)
	case c.usage == "raid" && c.fstype != "LVM2_member":
		return fmt.Errorf("%w: it is part of an array (%s), which every host writes that has assembled it: let the storage do the mirroring", ErrUnfit, c.fstype)
	case c.usage != "filesystem":
		return fmt.Errorf("%w: %s is no file system: name what is inside of it, and have it opened on every node before had starts", ErrUnfit, c.fstype)
	case slices.Contains([]string{"gfs2", "gfs", "ocfs2", "lustre"}, c.fstype):
		return fmt.Errorf("%w: several hosts mount %s at once: mount it on every node by its fstab", ErrUnfit, c.fstype)
	case c.journal != "":
		return fmt.Errorf("%w: its journal is on another device, and only one could be proven free: move it with tune2fs -O ^has_journal, then tune2fs -j", ErrUnfit)
	case v.FSType != "" && !mounts(v.FSType, c.fstype):
		return fmt.Errorf("%w: it should have %s, and has %s: name the right device, or leave fstype out", ErrUnfit, v.FSType, c.fstype)
	}
	return nil
}

// mounts reports whether the kernel's driver of one name mounts what blkid
// calls by the other.
func mounts(driver, found string) bool {
	// One driver mounts them all, and blkid goes by the features in use.
	ext := []string{"ext2", "ext3", "ext4"}
	return driver == found || driver == "ntfs3" && found == "ntfs" || slices.Contains(ext, driver) && slices.Contains(ext, found)
}

// known reports whether the kernel has a file system, or a module for it.
func known(fstype string) bool {
	has := func(file string, match func(line string) bool) bool {
		b, err := os.ReadFile(file)
		return err == nil && slices.ContainsFunc(strings.Split(string(b), "\n"), match)
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	modules := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	return has("/proc/filesystems", func(line string) bool { return strings.TrimPrefix(line, "\t") == fstype }) ||
		has(filepath.Join(modules, "modules.dep"), func(line string) bool {
			name, _, _ := strings.Cut(line, ":")
			return strings.HasPrefix(filepath.Base(name), fstype+".ko")
		}) ||
		has(filepath.Join(modules, "modules.alias"), func(line string) bool { return strings.HasPrefix(line, "alias fs-"+fstype+" ") })
}

// shareable refuses what a device is made of, at any depth, when two hosts
// that have it activated write it without any mount. dir is its folder in
// sysfs.
func (h host) shareable(ctx context.Context, dir string) error {
	name := filepath.Base(dir)
	has := func(file string) bool { _, err := os.Stat(filepath.Join(dir, file)); return err == nil }
	switch {
	case has("md"):
		return fmt.Errorf("%w: %s is an array of md, which every host writes that has assembled it: let the storage do the mirroring", ErrUnfit, name)
	case has("bcache"):
		return fmt.Errorf("%w: %s is cached on this host, and what is in the cache isn't on the disk", ErrUnfit, name)
	case strings.HasPrefix(name, "zram"), strings.HasPrefix(name, "ram"):
		return fmt.Errorf("%w: %s is memory of this host", ErrUnfit, name)
	case has("dm"):
		if err := mapped(ctx, name); err != nil {
			return err
		}
	case has("partition"):
		return h.shareable(ctx, filepath.Dir(dir))
	}
	slaves, _ := os.ReadDir(filepath.Join(dir, "slaves")) // none: it is made of itself
	for _, s := range slaves {
		below, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", s.Name()))
		if err != nil {
			return fmt.Errorf("look at what %s is made of: %w", name, err)
		}
		if err := h.shareable(ctx, below); err != nil {
			return err
		}
	}
	return nil
}

// mapped refuses a device of the device mapper with a target that keeps notes
// of its own on the disks. name is as in sysfs: dm-0.
func mapped(ctx context.Context, name string) error {
	out, code, err := run(ctx, "dmsetup", "table", filepath.Join("/dev", name))
	if err != nil {
		return fmt.Errorf("look at what %s is made of: %w", name, err)
	}
	if code != 0 {
		return fmt.Errorf("look at what %s is made of: dmsetup table ended with %d: %s", name, code, lastLines(out))
	}
	return unfitTable(name, out)
}

// unfitTable judges lines of "start length target arguments" (dmsetup(8)).
func unfitTable(name, table string) error {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		// What only passes requests on. The rest has metadata: thin,
		// thin-pool, cache, writecache, raid, mirror, snapshot, vdo, integrity
		// and whatever comes next.
		if !slices.Contains([]string{"linear", "striped", "multipath", "crypt", "delay", "flakey", "error"}, f[2]) {
			return fmt.Errorf("%w: %s has a target %q of the device mapper, which every host writes that has activated it: use a plain LVM volume (lvcreate --type linear or striped)", ErrUnfit, name, f[2])
		}
	}
	return nil
}
