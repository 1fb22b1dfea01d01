package fence

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DisksOf returns the disks that a block device is on, in /dev and sorted: what must
// be reserved so that others can't write to it. A partition is on its disk, what
// LVM or dm-crypt makes is on what it is made of; a multipath device stands for its
// paths.
func DisksOf(device string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return nil, fmt.Errorf("find the disk of %s: %w", device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("find the disk of %s: it is no block device", device)
	}
	return DisksOfNumber(int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev)))
}

// DisksOfNumber is DisksOf for a device's number. The error is fs.ErrNotExist if the
// kernel has no such block device.
func DisksOfNumber(major, minor int) ([]string, error) {
	disks, err := disksBelow(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return nil, fmt.Errorf("find the disk of device %d:%d: %w", major, minor, err)
	}
	slices.Sort(disks)
	return slices.Compact(disks), nil
}

// disksBelow is DisksOf for a device's folder in sysfs.
func disksBelow(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return disksBelow(filepath.Dir(dir))
	}
	parts, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if len(parts) == 0 || isMultipath(dir) {
		return []string{"/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/")}, nil
	}
	var disks []string
	for _, p := range parts {
		below, err := disksBelow(filepath.Join(dir, "slaves", p.Name()))
		if err != nil {
			return nil, err
		}
		disks = append(disks, below...)
	}
	return disks, nil
}

func isMultipath(dir string) bool { return strings.HasPrefix(attribute(dir, "dm/uuid"), "mpath-") }

// deadPath returns an error for a multipath device with a path that is known to be
// dead. It couldn't be registered, and if it came back in the middle of a turn what
// is written by it would fail.
func deadPath(disk string) error {
	return deadPathIn(filepath.Join("/sys/class/block", strings.ReplaceAll(strings.TrimPrefix(disk, "/dev/"), "/", "!")), disk)
}

func deadPathIn(dir, disk string) error {
	paths, _ := os.ReadDir(filepath.Join(dir, "slaves")) // none: it is one itself
	for _, p := range paths {
		if state := attribute(dir, "slaves/"+p.Name()+"/device/state"); state != "running" {
			return fmt.Errorf("path %s of %s is %q: it can't be reserved before that works again or is removed", p.Name(), disk, state)
		}
	}
	return nil
}

// CommandsOf says what a disk (of DisksOf) can do about commands under way. Only
// LIO can't abort, where its initiator is in the same kernel or in a guest of it.
func CommandsOf(disk string) UnderWay {
	return commandsOf(filepath.Join("/sys/class/block", strings.ReplaceAll(strings.TrimPrefix(disk, "/dev/"), "/", "!")), "/sys/class/scsi_host")
}

func commandsOf(dir, hosts string) UnderWay {
	if paths, _ := os.ReadDir(filepath.Join(dir, "slaves")); len(paths) > 0 {
		dir = filepath.Join(dir, "slaves", paths[0].Name())
	}
	address, err := filepath.EvalSymlinks(filepath.Join(dir, "device")) // …/HOST:CHANNEL:TARGET:LUN
	if err != nil || attribute(dir, "device/vendor") != "LIO-ORG" {
		return Abort
	}
	host, _, _ := strings.Cut(filepath.Base(address), ":")
	switch attribute(hosts, "host"+host+"/proc_name") {
	case "tcm_loopback", "virtio_scsi":
		return Finish
	}
	return Abort
}

// attribute returns a file of sysfs; "": there is none.
func attribute(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b))
}
