package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountAndUnmount(t *testing.T) {
	for _, fstype := range fileSystems() {
		t.Run(fstype, func(t *testing.T) {
			ctx := t.Context()
			v := newVolume(t, fstype)
			v.Options = []string{"noatime", "nosuid"}
			must(t, Check(ctx, v, nil))
			must(t, Unused(ctx, v))
			for range 2 { // the second finds it mounted
				must(t, Mount(ctx, v, MountOptions{}))
			}
			ms, err := ownMounts()
			must(t, err)
			m, there := top(ms, v.Path)
			if !there || m.FSType != fstype || m.Source != v.Device || !strings.Contains(m.Options, "noatime") || !strings.Contains(m.Options, "nosuid") {
				t.Errorf("mounted: %t, as %+v", there, m.Info)
			}
			must(t, os.WriteFile(filepath.Join(v.Path, "file"), []byte("content"), 0o600))
			if err := Unused(ctx, v); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), v.Path) {
				t.Errorf("proof while it is mounted: %v", err)
			}
			if err := Check(ctx, v, nil); !errors.Is(err, ErrInUse) {
				t.Errorf("check while it is mounted: %v", err)
			}
			for range 2 { // the second finds nothing to do
				must(t, Unmount(ctx, v))
			}
			must(t, Unused(ctx, v))
			if left, err := os.ReadDir(v.Path); err != nil || len(left) > 0 {
				t.Errorf("left at the mount point: %v, %v", left, err)
			}
			clean(t, fstype, v.Device)
			must(t, Mount(ctx, v, MountOptions{}))
			if b, err := os.ReadFile(filepath.Join(v.Path, "file")); err != nil || string(b) != "content" {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
}

// A volume that isn't where it belongs isn't moved there: whoever mounted it
// uses it.
func TestMountRefusesWhatIsMountedElsewhere(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	elsewhere := v
	elsewhere.Path = filepath.Join(t.TempDir(), "elsewhere")
	t.Cleanup(func() { detach(t, elsewhere.Path) })
	must(t, Mount(ctx, elsewhere, MountOptions{}))
	for what, err := range map[string]error{"mount": Mount(ctx, v, MountOptions{}), "check": Check(ctx, v, nil)} {
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), elsewhere.Path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := Unmount(ctx, v); !errors.Is(err, ErrInUse) {
		t.Errorf("unmount, which proves it free: %v", err)
	}
}

func TestMountRefusesATakenPlace(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	must(t, os.MkdirAll(v.Path, 0o755))
	must(t, unix.Mount("other", v.Path, "tmpfs", 0, ""))
	for what, err := range map[string]error{"mount": Mount(ctx, v, MountOptions{}), "check": Check(ctx, v, nil)} {
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "other is mounted on "+v.Path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// It isn't the volume's, so it isn't unmounted for it.
	must(t, Unmount(ctx, v))
	must(t, Secure(ctx, []Volume{v}))
	ms, err := ownMounts()
	must(t, err)
	if m, there := top(ms, v.Path); !there || m.Source != "other" {
		t.Error("what somebody else had mounted there is gone")
	}
}

// What the kernel has against it is part of the error.
func TestMountSaysWhatTheKernelSays(t *testing.T) {
	v := newVolume(t, "ext4")
	v.Options = []string{"nonsense"}
	err := Mount(t.Context(), v, MountOptions{})
	if err == nil || !strings.Contains(err.Error(), "nonsense") || !strings.Contains(strings.ToLower(err.Error()), "unknown parameter") {
		t.Errorf("got %v", err)
	}
	must(t, Unused(t.Context(), v))
}

func TestMountReadOnly(t *testing.T) {
	v := newVolume(t, "xfs")
	v.Options = []string{"ro"}
	must(t, Mount(t.Context(), v, MountOptions{}))
	if err := os.WriteFile(filepath.Join(v.Path, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
}

// Nothing is mounted through a link, whoever made it.
func TestMountPointsAreNoLinks(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	dir := filepath.Dir(filepath.Dir(v.Path))
	other := filepath.Join(dir, "real")
	must(t, os.Mkdir(other, 0o755))
	for name, prepare := range map[string]func(){
		"itself":     func() { must(t, os.MkdirAll(filepath.Dir(v.Path), 0o755)); must(t, os.Symlink(other, v.Path)) },
		"on the way": func() { must(t, os.Symlink(other, filepath.Dir(v.Path))) },
		"to nowhere": func() { must(t, os.Symlink("nowhere", filepath.Dir(v.Path))) },
	} {
		prepare()
		for what, err := range map[string]error{"check": Check(ctx, v, nil), "mount": Mount(ctx, v, MountOptions{})} {
			if err == nil || !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		must(t, os.RemoveAll(filepath.Dir(v.Path)))
	}
	must(t, os.WriteFile(filepath.Dir(v.Path), nil, 0o600))
	if err := Check(ctx, v, nil); err == nil || !strings.Contains(err.Error(), "is no folder") {
		t.Errorf("a file on the way: %v", err)
	}
}

func TestVolumesAmongEachOther(t *testing.T) {
	v := newVolume(t, "ext4")
	at := func(name, path string) Volume { return Volume{Name: name, Device: "LABEL=" + name, Path: path} }
	for _, tc := range []struct {
		name   string
		before []Volume
		want   string
	}{
		{"apart", []Volume{at("other", v.Path+"2")}, ""},
		{"under another, not mounted yet", []Volume{at("other", filepath.Dir(v.Path))}, ""},
		{"same place", []Volume{at("other", v.Path)}, "has the mount point"},
		{"hiding one", []Volume{at("other", v.Path+"/below")}, "would hide volume other"},
	} {
		err := Check(t.Context(), v, tc.before)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestVolumesInOrder(t *testing.T) {
	ctx := t.Context()
	outer, inner := newVolume(t, "ext4"), newVolume(t, "xfs")
	outer.Name, inner.Name = "outer", "inner"
	inner.Path = filepath.Join(outer.Path, "in/side")
	must(t, Check(ctx, outer, nil))
	must(t, Check(ctx, inner, []Volume{outer}))
	vs := []Volume{outer, inner}
	for _, v := range vs {
		must(t, Mount(ctx, v, MountOptions{}))
	}
	err := Unmount(ctx, outer)
	busy, ok := errors.AsType[*BusyError](err)
	if !ok || len(busy.Users) != 1 || !strings.Contains(busy.Users[0].What, inner.Path) {
		t.Errorf("unmount in the wrong order: %v", err)
	}
	must(t, Secure(ctx, vs))
	for _, v := range vs {
		must(t, Mount(ctx, v, MountOptions{}))
	}
	must(t, Unmount(ctx, inner))
	must(t, Unmount(ctx, outer))
}

func TestPreen(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	v.Preen = true
	damage(t, v.Device, "ssv free_blocks_count 1")
	must(t, Mount(ctx, v, MountOptions{}))
	must(t, Unmount(ctx, v))
	clean(t, "ext4", v.Device)

	damage(t, v.Device, "clri <2>") // the root folder
	err := Mount(ctx, v, MountOptions{})
	if err == nil || !strings.Contains(err.Error(), "fsck.ext4 -p ended with 4") || !strings.Contains(err.Error(), "needs a person") {
		t.Errorf("a file system beyond preening: %v", err)
	}
	must(t, Unused(ctx, v))
}

// damage changes a file system by a command of debugfs(8), and has it checked.
func damage(t *testing.T, device, command string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(script, []byte(command+"\nssv state 2\n"), 0o600))
	tool(t, "debugfs", "-w", "-f", script, device)
}
