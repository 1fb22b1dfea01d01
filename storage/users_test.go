package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKillUsers(t *testing.T) {
	ctx := t.Context()
	v := newVolume(t, "ext4")
	must(t, Mount(ctx, v, MountOptions{}))
	file := filepath.Join(v.Path, "file")
	bystander := startHelper(t, 0, "chdir", t.TempDir())
	for _, tc := range []struct {
		helper, arg, what string
		flags             uintptr
	}{
		{"open", file, "open file " + file, 0},
		{"chdir", v.Path, "working folder " + v.Path, 0},
		{"map", file, "mapped file " + file, 0},
		{"open", file, "open file " + file, unix.CLONE_NEWNS},
		{"headless", file, "open file " + file, 0},
	} {
		h := startHelper(t, tc.flags, tc.helper, tc.arg)
		if tc.helper == "headless" {
			must(t, h.in.Close())
		}
		killed, err := KillUsers(ctx, []Volume{v})
		if err != nil || len(killed) != 1 || killed[0].PID != h.cmd.Process.Pid || killed[0].What != tc.what {
			t.Errorf("%s: killed %v, %v", tc.helper, killed, err)
		}
		if err := h.cmd.Process.Signal(syscall.Signal(0)); err == nil && !h.ended() {
			t.Errorf("%s lives", tc.helper)
		}
		h.kill()
	}
	if bystander.ended() {
		t.Error("who doesn't use the volume was killed")
	}
	for range 2 { // neither does a look unmount it
		if killed, err := KillUsers(ctx, []Volume{v}); err != nil || len(killed) != 0 {
			t.Errorf("nobody uses it: killed %v, %v", killed, err)
		}
	}
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, Unmount(ctx, v))
}

// A process is found wherever its first thread ends while it is looked at.
func TestFirstThreadEndsDuringALook(t *testing.T) {
	v := newVolume(t, "ext4")
	must(t, Mount(t.Context(), v, MountOptions{}))
	file := filepath.Join(v.Path, "file")
	all, err := allMounts()
	must(t, err)
	m, mounted := thisHost().mountedHere(t.Context(), v, own(all))
	if !mounted {
		t.Fatal("not mounted")
	}
	h := startHelper(t, 0, "headless", file)
	pid, l := h.cmd.Process.Pid, near(all, []mount{m})
	u, _ := l.user(pid, func(l usage, proc string) (what string, device bool) {
		h.behead()
		return usage.opened(l, proc)
	})
	if u.PID != pid || u.What != "open file "+file {
		t.Errorf("found %v", u)
	}
	if !l.may(pid) {
		t.Error("headless, and not worth a look")
	}
	h.kill()
}

// behead ends the first thread of a headless helper.
func (h *helper) behead() {
	_ = h.in.Close()
	for {
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", h.cmd.Process.Pid)); err != nil {
			return
		}
		runtime.Gosched()
	}
}

// ended reports whether the process is dead; a zombie until it is reaped.
func (h *helper) ended() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestKillUsersWaitsForNoLongerThanItMay(t *testing.T) {
	v := newVolume(t, "ext4")
	must(t, Mount(t.Context(), v, MountOptions{}))
	h := startHelper(t, 0, "open", filepath.Join(v.Path, "file"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := KillUsers(ctx, []Volume{v}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	h.kill()
}

// A writer that nobody knew of is killed first: what it was told is safe is there.
func TestNothingSyncedIsLostWithUsersKilled(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		image := newImage(t, fstype)
		a, b := volumeOn(t, image), volumeOn(t, image)
		for round := range 10 {
			must(t, Mount(ctx, a, MountOptions{}))
			name := fmt.Sprintf("stamps%d", round)
			h := startHelper(t, 0, "write", filepath.Join(a.Path, name))
			for range 20 {
				h.line()
			}
			_, err := KillUsers(ctx, []Volume{a})
			must(t, err)
			must(t, Secure(ctx, []Volume{a}))
			safe := 20 + strings.Count(h.killed(), "\n")
			must(t, Mount(ctx, b, MountOptions{}))
			got, err := os.ReadFile(filepath.Join(b.Path, name))
			must(t, err)
			if n := countStamps(t, got); n < safe {
				t.Errorf("%s: %d stamps were safe, %d are there", fstype, safe, n)
			}
			must(t, Unmount(ctx, b))
		}
	}
}

// What Unmount could not unmount it has at least brought to the disk: it is there
// after a forced end.
func TestUnmountFlushesFirst(t *testing.T) {
	ctx := t.Context()
	for _, fstype := range fileSystems() {
		v := newVolume(t, fstype)
		must(t, Mount(ctx, v, MountOptions{}))
		h := startHelper(t, 0, "chdir", v.Path)
		file := filepath.Join(v.Path, "file")
		must(t, os.WriteFile(file, []byte("content"), 0o600))
		if err := Unmount(ctx, v); !errors.Is(err, ErrInUse) {
			t.Fatalf("%s: %v", fstype, err)
		}
		h.kill()
		must(t, Secure(ctx, []Volume{v}))
		must(t, Mount(ctx, v, MountOptions{}))
		if got, err := os.ReadFile(file); err != nil || string(got) != "content" {
			t.Errorf("%s: %q, %v", fstype, got, err)
		}
		must(t, Unmount(ctx, v))
	}
}

// BenchmarkKillUsers has 200 processes more to look at.
func BenchmarkKillUsers(b *testing.B) {
	for range 200 {
		cmd := exec.Command("sleep", "600")
		must(b, cmd.Start())
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	v := newVolume(b, "ext4")
	must(b, Mount(b.Context(), v, MountOptions{}))
	for _, users := range []int{0, 1} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				for range users {
					startHelper(b, 0, "open", filepath.Join(v.Path, "file"))
				}
				begin := time.Now()
				killed, err := KillUsers(b.Context(), []Volume{v})
				times = append(times, time.Since(begin))
				if err != nil || len(killed) != users {
					b.Fatalf("killed %v, %v", killed, err)
				}
			}
			report(b, times, "ms")
		})
	}
	all, err := allMounts()
	must(b, err)
	m, _ := top(own(all), v.Path)
	l := near(all, []mount{m})
	pids, err := processes()
	must(b, err)
	for i, what := range []string{"opened", "mapped"} {
		b.Run(what, func(b *testing.B) {
			for b.Loop() {
				l.quick = i == 0
				_, err := l.kill(b.Context(), pids, glances()[i])
				must(b, err)
			}
		})
	}
}
