package policy

import (
	"slices"
	"strings"

	"had/internal/redact"
)

// objection is what stands against a mount option.
type objection struct {
	options []string // without "=value", unless it is about that value
	why     string
	hint    string
}

// find returns the objection to an option, or nil.
func find(objections []objection, option string) *objection {
	name, _, _ := strings.Cut(option, "=")
	for _, o := range objections {
		if slices.Contains(o.options, name) || slices.Contains(o.options, option) {
			return &o
		}
	}
	return nil
}

const (
	inFstab   = "leave it out here; it belongs in the fstab, on a line with noauto"
	inBetween = "it puts a device in between, and nothing could prove the one below it free"
)

// refusedOptions would mount at another time, in another place or another
// thing than the lease allows, or lose what was acknowledged (mount(8),
// ext4(5), xfs(5), nfs(5), mount.cifs(8)).
func refusedOptions() []objection {
	const leave = "leave it out"
	return []objection{
		{[]string{"bg"}, "a mount that goes on trying in the background may succeed when the lease is long over", leave},
		{[]string{"remount", "move"}, "it changes another mount instead of making one", leave},
		{
			[]string{"bind", "rbind", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"},
			"the file system would be in more than one place, and ending one of them proves nothing", leave,
		},
		{[]string{"auto"}, "only had may decide when a volume is mounted", leave},
		{[]string{"user", "users", "owner", "group", "pamconsole"}, "anybody on the host could mount and unmount it", leave},
		{[]string{"nofail"}, "an owner whose volume is missing must not carry on without it", leave},
		{[]string{"noauto", "_netdev", "comment"}, "it means something in the fstab only", inFstab},
		{[]string{"loop", "offset", "sizelimit", "encryption"}, inBetween, "name the block device itself"},
		{[]string{"logdev", "rtdev", "journal_dev", "journal_path"}, "a second device holds part of the file system, and nothing would prove that one free", "keep all of the file system on one device; LVM makes one of several"},
		{[]string{"noload", "norecovery", "nologreplay"}, "without its journal the file system is as it was some time before the crash", leave},
		{[]string{"nouuid"}, "another copy of this file system is about, and either could be mounted", "give the copy a UUID of its own: xfs_admin -U generate"},
		{[]string{"helper", "uhelper"}, "another program would unmount it", leave},
		{[]string{"abort"}, "it ends the file system as soon as it is mounted", leave},
	}
}

// doubtfulOptions are for those who know what they give up.
func doubtfulOptions() []objection {
	return []objection{
		{[]string{"nobarrier", "barrier=0"}, "what was acknowledged as synced is lost in a crash, unless the disk's cache outlives it", "leave it out"},
		{[]string{"soft", "softerr"}, "a write that the server is slow to take is dropped, and few programs look", "leave it out: hard is the default"},
		{[]string{"ro"}, "services can't write to it, and mounting it still replays the journal on the device", "leave it out unless that is meant"},
	}
}

// mountOptions returns what is handed to mount, in order.
func (s *source) mountOptions(raw []text) []string {
	var options []string
	for _, t := range raw {
		if slices.Contains(options, t.value) {
			s.errorf(t.at, "name each option once", "options name %s twice", quote(t.value))
			continue
		}
		s.checkMountOption(t)
		options = append(options, t.value)
	}
	return options
}

func (s *source) checkMountOption(t text) {
	name, value, _ := strings.Cut(t.value, "=")
	refuse := func(o objection) {
		s.errorf(t.at, o.hint, "option %s can't be used for a volume: %s", quote(name), o.why)
	}
	switch {
	case name == "" || strings.ContainsFunc(t.value, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		s.errorf(t.at, `write each as in options = ["noatime", "commit=30"]`, "%s can't be a mount option", quote(t.value))
		return
	case strings.Contains(t.value, ","):
		s.errorf(t.at, "write an item for each: "+quoteAll(strings.Split(t.value, ",")), "%s is several mount options", quote(t.value))
		return
	case holdsPassword(name, value):
		s.hide(t)
		s.errorf(t.at, "write \"credentials=/etc/had/secrets/…\", a file on every node that only root can read (mount.cifs(8))", "option %s holds a password, and a policy is in the log and shown", quote(name))
		return
	case name == "user" && value != "": // so mount.cifs(8) calls its user
		return
	}
	if o := find(refusedOptions(), t.value); o != nil {
		refuse(*o)
	} else if strings.HasPrefix(strings.ToLower(name), "x-") {
		refuse(objection{why: "it is for other programs, which would mount it by themselves or somewhere else", hint: inFstab})
	} else if strings.HasPrefix(name, "verity.") {
		refuse(objection{why: inBetween, hint: "name the block device itself"})
	} else if o := find(doubtfulOptions(), t.value); o != nil {
		s.warnf(t.at, o.hint, "option %s: %s", quote(t.value), o.why)
	}
}

// holdsPassword reports whether a mount option carries a secret: mount.cifs(8)
// takes several such.
func holdsPassword(name, value string) bool {
	_, secret := redact.Option(name)
	return secret || name == "pass" || (name == "user" || name == "username") && strings.Contains(value, "%")
}

func quoteAll(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = quote(item)
	}
	return strings.Join(quoted, ", ")
}
