package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"had/internal/fence"
)

// Alpha sees the disk by two paths, which device-mapper makes one device of: all are
// registered and all are driven out.
func multipath(t *testing.T) {
	paths := loopbacks(t, "multipath", "10", "11", "12")
	beta, paths := paths[2], paths[:2]
	size, err := paths[0].data.Seek(0, 2)
	must(t, err)
	table := fmt.Sprintf("0 %d multipath 0 0 1 1 round-robin 0 2 1 %s 1 %s 1", size/blockSize, paths[0].path, paths[1].path)
	tool(t, "dmsetup", "--noudevrules", "--noudevsync", "create", "vmtest", "--uuid", "mpath-vmtest", "--table", table)
	const device = "/dev/dm-0"
	t.Cleanup(func() { tool(t, "dmsetup", "--noudevrules", "--noudevsync", "remove", "vmtest") })
	if on, err := fence.DisksOf(device); err != nil || !slices.Equal(on, []string{device}) || fence.CommandsOf(device) != fence.Finish {
		t.Fatalf("it is on %v, %v, and aborts: %v", on, err, fence.CommandsOf(device) == fence.Abort)
	}
	must(t, fence.CheckReservations([]string{device}, keyOf(0)))

	both := func(want error) {
		t.Helper()
		for _, p := range paths {
			if err := p.write(1, 1); !errors.Is(err, want) {
				t.Errorf("a write by %s: %v, want %v", p.path, err, want)
			}
		}
	}
	own := func(epoch uint64) {
		t.Helper()
		must(t, fence.Reserve([]string{device}, keyOf(epoch)))
		if r, err := beta.Read(); err != nil || !r.Exclusive(keyOf(epoch)) || len(r.Keys) != len(paths) {
			t.Errorf("in epoch %d there is %+v, %v", epoch, r, err)
		}
		both(nil)
		if err := beta.write(1, 2); !errors.Is(err, unix.EBADE) {
			t.Errorf("beta writes: %v", err)
		}
	}
	own(7)
	must(t, beta.take(keyOf(7)|1))
	both(unix.EBADE)
	own(9)
	own(10)

	disk, err := fence.OpenDisk(device)
	must(t, err)
	state := filepath.Join("/sys/class/block", filepath.Base(paths[1].path), "device/state")
	must(t, os.WriteFile(state, []byte("offline\n"), 0))
	err = fence.Reserve([]string{device}, keyOf(11))
	if r, readErr := beta.Read(); err == nil || !strings.Contains(err.Error(), paths[1].path) || readErr != nil || !r.Exclusive(keyOf(10)) {
		t.Errorf("with a dead path: %v; there is %+v, %v", err, r, readErr)
	}
	// A path that dies later: the others are registered, and nobody gets in.
	if err := errors.Join(disk.Register(keyOf(11)), disk.Close()); err == nil {
		t.Error("a dead path was registered")
	}
	if r, err := beta.Read(); err != nil || r.Holder != keyOf(10) && r.Holder != keyOf(11) {
		t.Errorf("after that there is %+v, %v", r, err)
	}
	if err := beta.write(1, 2); !errors.Is(err, unix.EBADE) {
		t.Errorf("beta writes: %v", err)
	}
	must(t, os.WriteFile(state, []byte("running\n"), 0))
	own(12)
}
