package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

func TestTags(t *testing.T) {
	ctx := t.Context()
	const uuid = "2b228ffc-b727-4910-a3b9-917cbad7134f"
	const label = `w "b\ü`
	v := newVolume(t, "ext4", "-U", uuid, "-L", label)
	for _, device := range []string{"UUID=" + uuid, "UUID=" + strings.ToUpper(uuid), "LABEL=" + label} {
		v.Device = device
		must(t, Check(ctx, v, nil))
		must(t, Mount(ctx, v, MountOptions{}))
		if err := Unused(ctx, v); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: proof while it is mounted: %v", device, err)
		}
		must(t, Secure(ctx, []Volume{v}))
		must(t, Mount(ctx, v, MountOptions{}))
		must(t, Unmount(ctx, v))
	}
}

func TestPartitionTags(t *testing.T) {
	image := newImage(t, "")
	partition(t, image, "the data")
	v := volumeOn(t, image)
	tool(t, "partx", "--add", v.Device)
	t.Cleanup(func() { tool(t, "partx", "--delete", v.Device) })
	part := v.Device + "p1"
	tool(t, "mkfs.ext4", "-q", part)
	for _, device := range []string{"PARTUUID=33221100-5544-7766-8899-aabbccddeeff", "PARTLABEL=the data", part} {
		v.Device = device
		must(t, Check(t.Context(), v, nil))
		must(t, Mount(t.Context(), v, MountOptions{}))
		own, err := ownMounts()
		must(t, err)
		if m, _ := top(own, v.Path); m.Source != part {
			t.Errorf("%s: mounted %s, want %s", device, m.Source, part)
		}
		must(t, Unmount(t.Context(), v))
	}
}

// partition writes a GUID partition table with one partition (UEFI
// specification, 5.3), whose GUID has the bytes 0x00, 0x11, … 0xff.
func partition(t *testing.T, image, name string) {
	t.Helper()
	const sector, entries, entrySize = 512, 128, 128
	const last = imageSize/sector - 1
	le := binary.LittleEndian
	table := make([]byte, entries*entrySize)
	copy(table, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}) // Linux data
	for i := range 16 {
		table[16+i] = byte(i * 0x11)
	}
	le.PutUint64(table[32:], 2048)
	le.PutUint64(table[40:], last-34)
	for i, c := range utf16.Encode([]rune(name)) {
		le.PutUint16(table[56+2*i:], c)
	}
	header := func(at, other, tableAt uint64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00")
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], at)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], 34)
		le.PutUint64(h[48:], last-33)
		copy(h[56:], "a disk of a test")
		le.PutUint64(h[72:], tableAt)
		le.PutUint32(h[80:], entries)
		le.PutUint32(h[84:], entrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	mbr := make([]byte, sector) // says that all is taken
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	copy(mbr[510:], []byte{0x55, 0xaa})
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	for _, part := range []struct {
		at    int64
		bytes []byte
	}{{0, mbr}, {1, header(1, last, 2)}, {2, table}, {last - 32, table}, {last, header(last, 1, last-32)}} {
		_, err := f.WriteAt(part.bytes, part.at*sector)
		must(t, err)
	}
}

// A copy of a disk has its UUID, too: which one is mounted must not be left to
// chance.
func TestCopiesAreRefused(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "xfs", "-L", "twice")
	twin := newVolume(t, "ext4", "-L", "twice")
	tagged := v
	tagged.Device = "LABEL=twice"
	for what, err := range map[string]error{"check": Check(ctx, tagged, nil), "mount": Mount(ctx, tagged, MountOptions{})} {
		if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), v.Device) || !strings.Contains(err.Error(), twin.Device) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, Unused(ctx, tagged)) // both are free
	must(t, Mount(ctx, twin, MountOptions{}))
	if err := Unused(ctx, tagged); !errors.Is(err, ErrInUse) {
		t.Errorf("proof while one of the two is mounted: %v", err)
	}
}

// A copy that turns up later doesn't keep the mounted one from being ended.
func TestSecureInSpiteOfACopy(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4", "-L", "later")
	v.Device = "LABEL=later"
	must(t, Mount(ctx, v, MountOptions{}))
	newVolume(t, "ext4", "-L", "later")
	must(t, Secure(ctx, []Volume{v}))
}

func TestAbsentDevices(t *testing.T) {
	ctx := t.Context()
	v := Volume{Name: "web", Path: filepath.Join(t.TempDir(), "web")}
	for _, device := range []string{"/dev/no-such-device", "UUID=00000000-0000-4000-8000-000000000000", "LABEL=no-such-label"} {
		v.Device = device
		for what, err := range map[string]error{
			"check": Check(ctx, v, nil), "mount": Mount(ctx, v, MountOptions{}), "unmount": Unmount(ctx, v),
			"secure": Secure(ctx, []Volume{v}), "proof": Unused(ctx, v),
		} {
			if !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), device) {
				t.Errorf("%s: %s: %v", device, what, err)
			}
		}
	}
}

func TestUnfitDevices(t *testing.T) {
	ctx := t.Context()
	empty := newVolume(t, "")
	swap := newVolume(t, "")
	tool(t, "mkswap", "-q", swap.Device)
	wrong := newVolume(t, "xfs")
	wrong.FSType = "ext4"
	both := newVolume(t, "xfs")
	tool(t, "sh", "-c", "dd status=none conv=notrunc bs=1k skip=1 seek=1 count=1 if="+newVolume(t, "ext4").Device+" of="+both.Device)
	for _, tc := range []struct {
		v    Volume
		want string
	}{
		{empty, "no file system on it"},
		{swap, "swap is no file system"},
		{wrong, "should have ext4, and has xfs"},
		{both, "several file systems"},
		{Volume{Name: "web", Device: "/dev/null", Path: "/srv/web"}, "no block device"},
	} {
		for what, err := range map[string]error{"check": Check(ctx, tc.v, nil), "mount": Mount(ctx, tc.v, MountOptions{})} {
			if !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", what, err, tc.want)
			}
		}
	}
}

func TestUnfitContent(t *testing.T) {
	fs := func(fstype string) content { return content{fstype: fstype, usage: "filesystem"} }
	for _, tc := range []struct {
		fstype string // of the volume
		content
		want string
	}{
		{"", fs("ext4"), ""},
		{"ext4", fs("ext3"), ""},
		{"ntfs3", fs("ntfs"), ""},
		{"", fs("vfat"), ""},
		{"xfs", fs("ext4"), "should have xfs, and has ext4"},
		{"", fs("btrfs"), "btrfs may span several devices"},
		{"", fs("zfs_member"), "zfs_member may span several devices"},
		{"", fs("bcachefs"), "bcachefs may span several devices"},
		{"", fs("ocfs2"), "several hosts mount ocfs2 at once"},
		{"", content{fstype: "linux_raid_member", usage: "raid"}, "part of an array"},
		{"", content{fstype: "LVM2_member", usage: "raid"}, "LVM2_member is no file system"},
		{"", content{fstype: "crypto_LUKS", usage: "crypto"}, "crypto_LUKS is no file system"},
		{"", content{fstype: "ext4", usage: "filesystem", journal: "x"}, "journal is on another device"},
		{"", content{}, "no file system"},
	} {
		err := unfit(Volume{FSType: tc.fstype}, tc.content)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q on %+v: %v, want %q", tc.fstype, tc.content, err, tc.want)
		}
	}
}

// fakeSys is a sysfs with one folder for each device, and in it the files and
// links named.
func fakeSys(t *testing.T, devices map[string][]string) host {
	t.Helper()
	h := host{sys: t.TempDir()}
	dirs := map[string]string{}
	for name := range devices {
		dirs[filepath.Base(name)] = filepath.Join(h.sys, "devices", name)
	}
	for name, entries := range devices {
		dir := filepath.Join(h.sys, "devices", name)
		must(t, os.MkdirAll(filepath.Join(dir, "slaves"), 0o755))
		for _, e := range entries {
			if below, ok := strings.CutPrefix(e, "slaves/"); ok {
				must(t, os.Symlink(dirs[below], filepath.Join(dir, e)))
				continue
			}
			must(t, os.WriteFile(filepath.Join(dir, e), nil, 0o600))
		}
	}
	return h
}

// What two hosts write without any mount is found at any depth.
func TestUnfitBelow(t *testing.T) {
	h := fakeSys(t, map[string][]string{
		"sda": nil, "sdb": nil, "sda/sda1": {"partition"},
		"md0": {"md", "slaves/sda", "slaves/sdb"}, "md0/md0p1": {"partition"},
		"dm-0": {"dm", "slaves/sda"}, "dm-1": {"dm", "slaves/md0"}, "dm-2": {"dm", "slaves/dm-1"}, "dm-3": {"dm", "slaves/dm-4"}, "dm-4": {"dm", "slaves/sda"},
		"zram0": nil, "bcache0": {"bcache", "slaves/sda"},
	})
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "dmsetup"), []byte(`#!/bin/sh
[ "$1" = table ] || exit 1
case "$2" in
/dev/dm-3) echo "0 2097152 thin 254:4 1" ;;
/dev/dm-*) echo "0 1048576 linear 8:0 2048"; echo "1048576 1048576 linear 8:0 9999" ;;
*) exit 1 ;;
esac
`), 0o700))
	t.Setenv("PATH", bin)
	for name, want := range map[string]string{
		"sda": "", "sda/sda1": "", "dm-0": "",
		"md0": "md0 is an array", "md0/md0p1": "md0 is an array", "dm-1": "md0 is an array", "dm-2": "md0 is an array",
		"dm-3": `dm-3 has a target "thin"`, "zram0": "memory of this host", "bcache0": "cached on this host",
	} {
		err := h.shareable(t.Context(), filepath.Join(h.sys, "devices", name))
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// The paths of a multipath device carry its UUID, too, and are no copies.
func TestPathsOfAMultipathDevice(t *testing.T) {
	h := fakeSys(t, map[string][]string{"sda": nil, "sdb": nil, "sdc": nil, "dm-0": {"dm", "slaves/sda", "slaves/sdb"}, "dm-1": {"dm", "slaves/dm-0"}})
	must(t, os.MkdirAll(filepath.Join(h.sys, "dev/block"), 0o755))
	must(t, os.Symlink(filepath.Join(h.sys, "devices"), filepath.Join(h.sys, "class")))
	must(t, os.Symlink(".", filepath.Join(h.sys, "devices/block")))
	var ds []*device
	for i, name := range []string{"sda", "dm-1", "sdb", "dm-0", "sdc"} {
		dev := devno{9, uint32(i)}
		must(t, os.Symlink(filepath.Join(h.sys, "devices", name), filepath.Join(h.sys, "dev/block", dev.String())))
		ds = append(ds, &device{dev: dev, path: "/dev/" + name})
	}
	var got []string
	for _, d := range h.withoutParts(ds) {
		got = append(got, d.path)
	}
	if fmt.Sprint(got) != "[/dev/dm-1 /dev/sdc]" {
		t.Errorf("left are %v", got)
	}
}

// A dead disk among the others holds nothing up for long.
func TestSearchPassesOverDeadDevices(t *testing.T) {
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "blkid"), []byte(`#!/bin/sh
for arg; do [ "$arg" != /dev/dead ] || exec /bin/sleep 3600; done
for arg; do [ "$arg" != /dev/alive ] || printf 'DEVNAME=/dev/alive\nLABEL=web\nTYPE=ext4\n'; done
`), 0o700))
	t.Setenv("PATH", bin)
	dead, alive := &device{path: "/dev/dead"}, &device{path: "/dev/alive"}
	start := time.Now()
	silent, err := search(t.Context(), []*device{dead, alive})
	if err != nil || fmt.Sprint(silent) != "[/dev/dead]" || !alive.has("LABEL", "web") {
		t.Errorf("silent %v, alive %+v, %v", silent, alive, err)
	}
	if took := time.Since(start); took > 5*probePatience {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no time")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := search(ctx, []*device{dead, alive}); !errors.Is(err, why) || !errors.Is(err, errStuck) {
		t.Errorf("ended before: %v", err)
	}
}

func TestProgramsThatAreMissing(t *testing.T) {
	_, _, err := run(t.Context(), "fsck.no-such-type", "-p")
	if err == nil || !strings.Contains(err.Error(), "install") {
		t.Errorf("got %v", err)
	}
}
