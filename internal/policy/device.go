package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// tags are what names a file system or partition wherever its disk is
// (mount(8), "Indicating the device and filesystem").
func tags() []string { return []string{"UUID", "LABEL", "PARTUUID", "PARTLABEL"} }

var (
	nfsSource  = regexp.MustCompile(`^(\[[0-9A-Fa-f:.%]+\]|[^/:\[\]\s]+):(/\S*)$`)
	cifsSource = regexp.MustCompile(`^//[^/\s]+/\S`)
	bareUUID   = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	bareIPv6   = regexp.MustCompile(`^([0-9A-Fa-f]*:[0-9A-Fa-f:.]*):(/.*)$`)
	// mdArray is written by the kernel of every host that has assembled it,
	// mounted or not: md(4).
	mdArray = regexp.MustCompile(`^/dev/md(/|\d|_)`)
	// numbered are device names that the kernel gives out in the order in
	// which it finds the disks.
	numbered = regexp.MustCompile(`^/dev/(sd[a-z]+|hd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n|mmcblk|dm-|loop)\d*(p?\d+)?$`)
)

// isNetworkSource reports whether a server exports the device.
func isNetworkSource(device string) bool {
	return nfsSource.MatchString(device) || cifsSource.MatchString(device)
}

// checkDevice refuses what doesn't name one device or export.
func (s *source) checkDevice(t text) bool {
	const forms = `write device = ` + exampleDevice + `, "LABEL=webstuff", "/dev/disk/by-id/…", or for a server's export "files.example.org:/export" or "//files.example.org/share"; lsblk -f shows the UUIDs`
	before := s.errors
	name, value, isTag := strings.Cut(t.value, "=")
	switch {
	case t.value == "":
		s.errorf(t.at, forms, "the device has no name")
	case strings.ContainsFunc(t.value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		s.errorf(t.at, "", "device holds a control character")
	case isNetworkSource(t.value):
	case isTag && !strings.Contains(name, "/"):
		s.checkTag(t, name, value)
	case bareUUID.MatchString(t.value):
		s.errorf(t.at, "write device = "+quote("UUID="+t.value), "%s doesn't say what it is", quote(t.value))
	case mdArray.MatchString(path.Clean(t.value)):
		s.errorf(t.at, "let the storage do the mirroring, and use what it offers as one device", "%s is written by every host that has assembled it, mounted or not: no lease could end that", quote(t.value))
	case strings.HasPrefix(t.value, "/dev/") && path.Clean(t.value) != "/dev":
		if numbered.MatchString(t.value) {
			s.warnf(t.at, "lsblk -f shows its UUID: write device = "+exampleDevice, "%s may be another disk on another node, or after the next boot", quote(t.value))
		}
	case strings.HasPrefix(t.value, "/"):
		s.errorf(t.at, forms, "%s is neither a device nor an export: nothing could prove that no other host has it mounted", quote(t.value))
	case bareIPv6.MatchString(t.value):
		m := bareIPv6.FindStringSubmatch(t.value)
		s.errorf(t.at, "an IPv6 address is written in brackets: device = "+quote("["+m[1]+"]:"+m[2]), "%s is neither a device nor an export", quote(t.value))
	default:
		s.errorf(t.at, forms, "%s is neither a device nor an export", quote(t.value))
	}
	return s.errors == before
}

// checkTag checks one NAME=value.
func (s *source) checkTag(t text, name, value string) {
	switch {
	case !slices.Contains(tags(), name):
		hint := suggest(name, tags())
		if upper := strings.ToUpper(name); slices.Contains(tags(), upper) {
			hint = "write it in capitals: " + quote(upper+"="+value)
		}
		s.errorf(t.at, hint, "unknown kind of device %s", quote(name))
	case value == "":
		s.errorf(t.at, "lsblk -f shows it", "%s= has no value", name)
	case strings.ContainsAny(value, `"'`):
		s.errorf(t.at, "write device = "+quote(name+"="+strings.Trim(value, `"'`)), "the %s is in quotes of its own", name)
	}
}

// shortestDevice is device with a path in its shortest form, and a UUID in
// lower case: as it is compared with those found on disks (fstab(5)). The
// shorter ones of FAT and NTFS are in upper case there, and stay.
func shortestDevice(device string) string {
	if name, value, _ := strings.Cut(device, "="); strings.HasSuffix(name, "UUID") && bareUUID.MatchString(value) {
		return name + "=" + strings.ToLower(value)
	}
	if strings.HasPrefix(device, "/dev/") {
		return path.Clean(device)
	}
	return device
}

// deviceKey is the same for two spellings of one device. It can't know that a
// UUID and a path are one disk: the node that mounts them does.
func deviceKey(device string) string {
	if name, value, ok := strings.Cut(device, "="); ok && strings.HasSuffix(name, "UUID") {
		return name + "=" + strings.ToLower(value)
	}
	if m := nfsSource.FindStringSubmatch(device); m != nil {
		return strings.ToLower(m[1]) + ":" + path.Clean(m[2])
	}
	if cifsSource.MatchString(device) {
		return strings.ToLower(strings.TrimRight(device, "/"))
	}
	return device
}

func networkFileSystems() []string { return []string{"nfs", "nfs4", "cifs", "smb3"} }

// withoutJournal reports whether a crash leaves the file system damaged until
// it is checked.
func withoutJournal(fstype string) bool {
	return slices.Contains([]string{"ext2", "vfat", "msdos", "exfat"}, fstype)
}

// unfit says why a file system can't be a volume, or "". The lists hold what
// people are likely to write: what the kernel doesn't know is found on the
// node.
func unfit(fstype string) (why, hint string) {
	is := func(names ...string) bool { return slices.Contains(names, fstype) }
	switch {
	case is("gfs2", "gfs", "ocfs2", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.ceph", "orangefs", "pvfs2", "afs", "coda"):
		return "several hosts mount it at once, which is what it is made for and what a volume never allows",
			"leave the block out and mount it on every node by its fstab"
	case is("btrfs", "zfs", "bcachefs"):
		return "it may span several devices, and this version of had can only prove that one is free",
			"use ext4 or xfs, on LVM if it must span several disks"
	case is("tmpfs", "ramfs", "hugetlbfs"):
		return "it is memory of one host: nothing of it would move", "leave the block out and mount it on every node by its fstab"
	case is("overlay", "overlayfs", "aufs", "unionfs", "ecryptfs", "none", "bind"):
		return "it shows other folders and has no device of its own", "make a volume of the file system that lies under it"
	case is("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "bpf", "debugfs", "tracefs", "securityfs", "configfs", "mqueue", "pstore", "efivarfs", "binfmt_misc", "autofs", "nsfs"):
		return "the kernel makes it up: nothing of it would move", "leave the block out"
	case is("linux_raid_member"):
		return "it is part of an array that every host writes which has assembled it", "let the storage do the mirroring"
	case is("swap"):
		return "it is no file system", "leave the block out"
	case is("crypto_LUKS", "LVM2_member"):
		return "it is no file system", "name the file system on it, and open it on every node before had starts"
	case is("9p", "virtiofs", "vboxsf", "drvfs", "vmhgfs"):
		return "a hypervisor shares it with any number of guests: nothing could prove that no other has it mounted", "give the guest a disk"
	case is("fuse", "fuseblk", "ntfs", "ntfs-3g", "sshfs") || strings.HasPrefix(fstype, "fuse."):
		hint = "use a file system of the kernel's"
		if strings.Contains(fstype, "ntfs") {
			hint = `use the kernel's own: fstype = "ntfs3"`
		}
		return "a process writes it, and may go on after the unmount", hint
	}
	return "", ""
}

var fstypeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+-]*$`)

// checkFileSystem refuses what can't be mounted by one host alone, and a type
// that doesn't go with its device.
func (s *source) checkFileSystem(r rawVolume) {
	t, network := r.fstype, isNetworkSource(r.device.value)
	if !t.ok {
		if r.device.ok && network {
			fstype := "nfs4"
			if cifsSource.MatchString(r.device.value) {
				fstype = "cifs"
			}
			s.errorf(r.device.at, fmt.Sprintf("add a line: fstype = %s", quote(fstype)), "%s is a server's export, and nobody can look there for its type", quote(r.device.value))
		}
		return
	}
	const leave = "leave the line out: what is on the device is looked up before it is mounted"
	why, hint := unfit(t.value)
	switch {
	case t.value == "" || t.value == "auto":
		s.errorf(t.at, leave, "fstype %s isn't a type", quote(t.value))
	case strings.HasPrefix(t.value, "no") && why == "" && t.value != "none" || strings.Contains(t.value, ","):
		s.errorf(t.at, "write one type, or leave the line out", "fstype %s is a choice, not a type", quote(t.value))
	case !fstypeName.MatchString(t.value):
		s.errorf(t.at, "write it as in fstype = \"ext4\"", "%s can't be a file system's type", quote(t.value))
	case why != "":
		s.errorf(t.at, hint, "%s can't be a volume: %s", t.value, why)
	case r.device.ok:
		s.checkSource(r, network)
	}
}

// checkSource refuses a device that isn't what the type is mounted from.
func (s *source) checkSource(r rawVolume, network bool) {
	fstype := r.fstype.value
	switch {
	case strings.HasPrefix(fstype, "nfs") && slices.Contains(networkFileSystems(), fstype) && !nfsSource.MatchString(r.device.value):
		s.errorf(r.device.at, `write device = "files.example.org:/export"`, "%s is mounted from a server, and %s names none", fstype, quote(r.device.value))
	case (fstype == "cifs" || fstype == "smb3") && !cifsSource.MatchString(r.device.value):
		s.errorf(r.device.at, `write device = "//files.example.org/share"`, "%s is mounted from a server, and %s names none", fstype, quote(r.device.value))
	case network && !slices.Contains(networkFileSystems(), fstype):
		s.errorf(r.fstype.at, "known here: "+strings.Join(networkFileSystems(), ", "), "%s isn't mounted from a server, as %s is", fstype, quote(r.device.value))
	}
}
