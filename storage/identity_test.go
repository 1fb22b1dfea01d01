package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// without is this host after a device has been unplugged: sysfs has no device.
func without(t *testing.T) host {
	t.Helper()
	h := thisHost()
	h.sys = t.TempDir()
	must(t, os.MkdirAll(filepath.Join(h.sys, "dev/block"), 0o700))
	must(t, os.MkdirAll(filepath.Join(h.sys, "class/block"), 0o700))
	return h
}

// replug puts another disk in a device's place.
func (h host) replug(t *testing.T, dev devno, seq int) {
	t.Helper()
	dir := filepath.Join(h.sys, "dev/block", dev.String())
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "diskseq"), fmt.Appendln(nil, seq), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "uevent"), fmt.Appendf(nil, "MAJOR=%d\nMINOR=%d\nDEVNAME=null\n", dev.major, dev.minor), 0o600))
}

// labelled is a volume that is found by its label, which nothing has in sysfs, and
// is mounted from a loop device.
func labelled(t *testing.T) (Volume, identity) {
	t.Helper()
	v := newVolume(t, "ext4", "-L", "vanished")
	must(t, Mount(t.Context(), v, MountOptions{}))
	mounted, err := Identify(v)
	must(t, err)
	id, ok := parseIdentity(mounted)
	if !ok || id.seq == 0 {
		t.Fatalf("it is mounted from %q", mounted)
	}
	v.Device, v.Mounted = "LABEL=vanished", mounted
	return v, id
}

func TestAVanishedDeviceIsEndedAndProven(t *testing.T) {
	ctx := t.Context()
	v, _ := labelled(t)
	h := without(t)
	must(t, h.secure(ctx, []Volume{v}))
	if own, err := ownMounts(); err != nil {
		t.Error(err)
	} else if m, there := top(own, v.Path); there {
		t.Errorf("%s is still mounted on %s", m.Source, v.Path)
	}
	must(t, h.secure(ctx, []Volume{v}))
	must(t, h.proof(ctx, v))

	v.Mounted = ""
	for what, err := range map[string]error{"secure": h.secure(ctx, []Volume{v}), "proof": h.proof(ctx, v)} {
		if !errors.Is(err, ErrAbsent) {
			t.Errorf("%s of a device that nobody has seen: %v", what, err)
		}
	}
	v.Mounted = "7:1/1"
	h.sys = filepath.Join(h.sys, "nowhere")
	if h.proof(ctx, v) == nil {
		t.Error("without sysfs it is proven that a device has vanished")
	}
}

// What has a volume's number by now is somebody else's.
func TestTheNextDiskIsLeftAlone(t *testing.T) {
	ctx := t.Context()
	v, id := labelled(t)
	elsewhere := filepath.Join(filepath.Dir(v.Path), "elsewhere")
	must(t, os.Mkdir(elsewhere, 0o700))
	must(t, unix.Mount(v.Path, elsewhere, "", unix.MS_MOVE, ""))
	h := without(t)
	h.replug(t, id.dev, int(id.seq)+1)
	must(t, h.secure(ctx, []Volume{v}))
	must(t, os.WriteFile(filepath.Join(elsewhere, "file"), nil, 0o600))

	// It is the volume itself, renamed and moved.
	h.replug(t, id.dev, int(id.seq))
	if err := h.proof(ctx, v); !errors.Is(err, ErrInUse) {
		t.Errorf("proof: %v", err)
	}
}

func TestARelabelledVolumeIsKnownByItsDevice(t *testing.T) {
	ctx := t.Context()
	v, id := labelled(t)
	d, err := thisHost().named(id.dev)
	must(t, err)
	tool(t, "tune2fs", "-L", "other", d.path)
	must(t, Secure(ctx, []Volume{v}))
	must(t, Unused(ctx, v))
}
