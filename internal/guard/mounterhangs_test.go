package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/hook"
	"had/storage"
)

func aMountThatHangs(t *testing.T, o *office) {
	disk, below := diskOnDisk(t)
	cfg := o.config()
	cfg.Margin = 200 * time.Millisecond
	d := startDaemon(t, cfg)
	addrs := virtual(1)
	d.ask(order{Do: "hold", Epoch: 7, For: 2 * time.Second, Addresses: addrs, Volumes: []storage.Volume{disk.Volume}})
	thaw := freeze(t, below)
	r := d.ask(order{Do: "begin mount", Epoch: 7, Name: disk.Name})
	hangs(t, d.guard)
	d.signal(syscall.SIGSTOP)
	if last := gone(t, addrs); last.Sub(r.Until) > 2*time.Second {
		t.Errorf("the addresses went late: %s", last.Sub(r.Until))
	}
	// It has been killed, and lives: nothing is proven.
	eventually(t, "a second attempt to end the mounter", func() bool {
		return clock.Now().Sub(r.Until) > 4*time.Second
	})
	o.silent()
	if len(childrenOf(t, d.guard)) == 0 {
		t.Fatal("the mounter didn't hang: this test shows nothing")
	}
	thaw()
	o.secured(7)
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted")
	}
	d.signal(syscall.SIGKILL)
	o.farewells(7)
}

func anUnmountThatHangs(t *testing.T, o *office) {
	disk, below := diskOnDisk(t)
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, disk)
	if err := os.WriteFile(filepath.Join(disk.Path, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	thaw := freeze(t, below)
	addrs := virtual(1)
	d.signal(syscall.SIGKILL)
	gone(t, addrs)
	for begun := clock.Now(); clock.Now().Sub(begun) < killedPatience; {
		if len(childrenOf(t, d.guard)) == 0 {
			t.Fatal("the unmount didn't hang: this test shows nothing")
		}
	}
	o.silent()
	thaw()
	o.farewells(7)
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted")
	}
}

// childrenOf lists the children of a process that live.
func childrenOf(t *testing.T, pid int) (children []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f, err := statOf(child); err != nil || f[1] != strconv.Itoa(pid) {
			continue
		}
		if left, err := hook.InSession(child); err == nil && len(left) > 0 { // a mounter has one of its own
			children = append(children, child)
		}
	}
	return children
}

// hangs waits until a child of the process has waited for a device for long.
func hangs(t *testing.T, pid int) {
	t.Helper()
	since := clock.Now()
	eventually(t, "the mounter to hang", func() bool {
		now := clock.Now()
		if !stuck(t, pid) {
			since = now
		}
		return now.Sub(since) > 500*time.Millisecond
	})
}

// stuck reports whether a thread of a child of the process waits for a device.
func stuck(t *testing.T, pid int) bool {
	t.Helper()
	for _, child := range childrenOf(t, pid) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", child))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range threads {
			if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), ") D ") {
				return true
			}
		}
	}
	return false
}
