package storage

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// splitOptions separates what is a mount's own from what is the file system's.
// mount(8) does the same, but the kernel's new calls want the first apart
// (fsmount(2)). Later options win.
func splitOptions(options []string) (params []string, attrs int, err error) {
	for _, o := range options {
		if ignored(o) {
			continue
		}
		if strings.HasPrefix(strings.ToLower(o), "x-") {
			return nil, 0, fmt.Errorf("option %q is for other programs: it belongs in the fstab, on a line with noauto", o)
		}
		set, unset := attribute(o)
		if set == 0 && unset == 0 {
			params = append(params, o)
		}
		attrs = attrs&^unset | set
	}
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		params = append(params, "ro") // of the superblock, too: else it is written on mount
	}
	return params, attrs, nil
}

// ignored reports whether an option says what holds anyway, or means something
// in the fstab only.
func ignored(o string) bool {
	switch o {
	case "defaults", "async", "silent", "loud", "norelatime", "nostrictatime", "nolazytime", "noauto", "_netdev", "nouser", "nomand":
		return true
	default:
		return false
	}
}

// attribute translates the options of a mount itself (mount_setattr(2)).
func attribute(o string) (set, unset int) {
	switch o {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0
	case "symfollow":
		return 0, unix.MOUNT_ATTR_NOSYMFOLLOW
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME
	case "strictatime":
		return unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME
	case "relatime", "atime":
		return 0, unix.MOUNT_ATTR__ATIME
	default:
		return 0, 0
	}
}
