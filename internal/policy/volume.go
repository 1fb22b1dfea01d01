package policy

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"had/internal/hook"
)

// Volume is a file system that is mounted where the owner is, and nowhere
// else.
type Volume struct {
	Name    string
	Device  string   // UUID=, LABEL=, PARTUUID=, PARTLABEL=, a path in /dev, or what a server exports
	Path    string   // absolute, in its shortest form; never a place the host itself needs
	FSType  string   // "" with a device only: whatever is found there
	Options []string // for mount(8), one each; none that mounts at another time or place
	Fsck    Fsck
}

// Fsck says whether a file system is checked before it is mounted.
type Fsck string

const (
	FsckNever Fsck = "never" // mounting replays the journal, which is enough where there is one
	FsckPreen Fsck = "preen" // fsck -p: repairs what is safe to repair, and refuses the rest (fsck(8))
)

// Network reports whether a server exports the volume: there is no device
// that the kernel could prove to be free.
func (v Volume) Network() bool { return slices.Contains(networkFileSystems(), v.FSType) }

const (
	exampleDevice = `"UUID=2b228ffc-b727-2910-a3b9-917cbad7134f"`
	examplePath   = `"/srv/web"`
)

func volumeShape() shape {
	const inFence = "it belongs in the fence block, which is for all volumes together"
	return shape{
		what:   `volume "webstuff"`,
		labels: 1,
		attrs: map[string]string{
			"device": exampleDevice, "path": examplePath, "fstype": `"ext4"`, "options": `["noatime"]`, "fsck": quote(string(FsckPreen)),
		},
		others: map[string]string{
			"fence": inFence, "methods": inFence, "release_grace": "it belongs at the top level of the policy",
			"mountpoint": `it is called "path"`, "mount_point": `it is called "path"`, "source": `it is called "device"`,
			"type": `it is called "fstype"`, "uuid": "write device = " + exampleDevice, "label": `write device = "LABEL=webstuff"`,
		},
	}
}

type rawVolume struct {
	name, device, path, fstype, fsck text
	options                          []text
	at                               hcl.Range // of the block's first line
}

func (s *source) rawVolume(b *hclsyntax.Block) rawVolume {
	return rawVolume{
		name:    label(b),
		device:  s.required(b, "device", exampleDevice),
		path:    s.required(b, "path", examplePath),
		fstype:  s.optional(b.Body, "fstype", `"ext4"`),
		fsck:    s.optional(b.Body, "fsck", quote(string(FsckPreen))),
		options: s.list(b.Body, "options", `["noatime"]`),
		at:      b.DefRange(),
	}
}

func (s *source) validVolumes(raw []rawVolume) []Volume {
	var volumes []Volume
	devices := map[string]text{}
	for _, r := range raw {
		v := Volume{Name: r.name.value, Device: r.device.value, FSType: r.fstype.value}
		if r.device.ok && s.checkDevice(r.device) {
			v.Device = shortestDevice(v.Device)
			key := deviceKey(v.Device)
			if first, twice := devices[key]; twice {
				s.errorf(r.device.at, fmt.Sprintf("the first is on line %d; leave one of them out", first.at.Start.Line), "two volumes have the device %s", quote(v.Device))
			} else {
				devices[key] = r.device
			}
		}
		s.checkFileSystem(r)
		if r.path.ok {
			v.Path = s.mountPoint(r.path)
		}
		v.Options = s.mountOptions(r.options)
		v.Fsck = s.fsck(r)
		volumes = append(volumes, v)
	}
	s.checkVolumeNames(raw)
	s.checkPaths(raw, volumes)
	return volumes
}

// checkVolumeNames refuses names that a hook couldn't tell apart: each becomes
// part of a variable's name.
func (s *source) checkVolumeNames(raw []rawVolume) {
	seen := map[string]text{}
	for _, r := range raw {
		name := r.name.value
		if !validIdentifier(name) {
			s.errorf(r.name.at, identHint, "%s can't be a volume's name", quote(name))
			continue
		}
		first, twice := seen[hook.VolumeVariable(name)]
		hint := fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line)
		switch {
		case twice && first.value == name:
			s.errorf(r.name.at, hint, "two volumes are called %s", quote(name))
		case twice:
			s.errorf(r.name.at, hint, "hooks get the paths of %s and %s in one variable, %s", quote(first.value), quote(name), hook.VolumeVariable(name))
		default:
			seen[hook.VolumeVariable(name)] = r.name
		}
	}
}

// checkPaths refuses two volumes in one place, and one that the next would
// hide: they are mounted in file order.
func (s *source) checkPaths(raw []rawVolume, volumes []Volume) {
	for i, r := range raw {
		if volumes[i].Path == "" {
			continue
		}
		for j, other := range volumes[:i] {
			switch {
			case other.Path == volumes[i].Path:
				s.errorf(r.path.at, fmt.Sprintf("the first is on line %d; give each a folder of its own", raw[j].path.at.Start.Line), "two volumes have the path %s", quote(other.Path))
			case within(other.Path, volumes[i].Path):
				s.errorf(r.at, fmt.Sprintf("volumes are mounted in the order they are written: move this block before line %d", raw[j].at.Start.Line),
					"volume %s would hide volume %s, which lies under it", quote(r.name.value), quote(raw[j].name.value))
			}
		}
	}
}

func (s *source) fsck(r rawVolume) Fsck {
	switch f := Fsck(r.fsck.value); {
	case !r.fsck.ok:
		if withoutJournal(r.fstype.value) {
			s.warnf(r.fstype.at, `add a line: fsck = "preen"`, "%s has no journal: after a crash it is damaged until it is checked", r.fstype.value)
		}
		return FsckNever
	case f != FsckNever && f != FsckPreen:
		s.errorf(r.fsck.at, suggest(r.fsck.value, []string{string(FsckNever), string(FsckPreen)}), "unknown fsck %s", quote(r.fsck.value))
		return FsckNever
	case f == FsckPreen && (isNetworkSource(r.device.value) || slices.Contains(networkFileSystems(), r.fstype.value)):
		s.errorf(r.fsck.at, "leave the line out: its server checks it", "a network file system can't be checked from here")
		return FsckNever
	case f == FsckPreen && r.fstype.value == "xfs":
		s.warnf(r.fsck.at, "leave the line out: mounting replays the journal, and a damaged xfs needs xfs_repair and a person", "fsck does nothing for xfs (fsck.xfs(8))")
		return f
	default:
		return f
	}
}
