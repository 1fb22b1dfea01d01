package guard

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/clock"
	"had/storage"
)

// What a guard does to volumes, with a real daemon, a real guard, real mounters
// and a real kernel: file systems on loop devices, in a mount namespace.

func TestVolumes(t *testing.T) {
	o := newOffice(t, nil)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, o *office, fstype string)
	}{
		{"in order", volumesInOrder},
		{"deadline while the daemon is stopped", volumesAtTheDeadline},
		{"death of the daemon", volumesAtTheDaemonsDeath},
		{"a user from elsewhere", aUserFromElsewhere},
		{"what an earlier run has left", whatAnEarlierRunHasLeft},
		{"services are stopped in order", servicesAreStoppedInOrder},
		{"the next guard unmounts", theNextGuardUnmounts},
	} {
		for _, fstype := range []string{"ext4", "xfs"} {
			t.Run(test.name+", "+fstype, func(t *testing.T) { test.run(t, o.visit(t), fstype) })
		}
	}
	t.Run("a mount that hangs", func(t *testing.T) { aMountThatHangs(t, o.visit(t)) })
	t.Run("an unmount that hangs", func(t *testing.T) { anUnmountThatHangs(t, o.visit(t)) })
	t.Run("a device that is absent", func(t *testing.T) { aDeviceThatIsAbsent(t, o.visit(t)) })
	t.Run("a mounter that outlives its guard", func(t *testing.T) { aMounterThatOutlivesItsGuard(t, o.visit(t)) })
}

// holdDisks takes an epoch on and mounts its volumes.
func (d *running) holdDisks(epoch uint64, lease time.Duration, disks ...testDisk) report {
	d.t.Helper()
	o := order{Do: "hold", Epoch: epoch, For: lease, Addresses: virtual(1)}
	for _, disk := range disks {
		o.Volumes = append(o.Volumes, disk.Volume)
	}
	d.ask(o)
	for _, disk := range disks {
		d.ask(order{Do: "mount", Epoch: epoch, Name: disk.Name})
	}
	r := d.ask(order{Do: "extend", Epoch: epoch, For: lease})
	if !r.OK {
		d.t.Fatal("the lease can't be extended")
	}
	return r
}

// writer starts what a script of the epoch leaves running: a process that writes
// and syncs, without end, and leaves its session. It ends with the test.
func (o *office) writer(epoch uint64, dir string) *exec.Cmd {
	o.t.Helper()
	group, err := OpenServices(o.dir, epoch)
	if err != nil {
		o.t.Fatal(err)
	}
	defer group.Close()
	return o.start(dir, &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())})
}

func (o *office) start(dir string, attr *syscall.SysProcAttr) *exec.Cmd {
	o.t.Helper()
	cmd := exec.Command("sh", "-c", "i=0; while :; do i=$((i+1)); dd if=/dev/zero of=$0/file bs=64k count=1 seek=$((i % 64)) conv=notrunc,fsync 2>/dev/null; : > $0/writes; done", dir)
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr, cmd.Dir = attr, dir
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it is dead
		_ = cmd.Wait()
	})
	eventually(o.t, "the writer to write", func() bool {
		_, err := os.Stat(filepath.Join(dir, "writes"))
		return err == nil
	})
	return cmd
}

func volumesInOrder(t *testing.T, o *office, fstype string) {
	a, b := newDisk(t, t.TempDir(), "data", fstype), newDisk(t, t.TempDir(), "logs", fstype)
	b.Path = filepath.Join(a.Path, "logs") // on top of the other
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, a, b)
	file := filepath.Join(b.Path, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := d.try(order{Do: "drop", Epoch: 7}); !strings.Contains(r.Err, "not proven unmounted") {
		t.Errorf("dropped with volumes mounted: %q", r.Err)
	}
	d.ask(order{Do: "unmount", Epoch: 7, Name: b.Name})
	open, err := os.Create(filepath.Join(a.Path, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if r := d.try(order{Do: "unmount", Epoch: 7, Name: a.Name}); !strings.Contains(r.Err, open.Name()) {
		t.Errorf("the unmount of a busy volume: %q; want to hear of %s", r.Err, open.Name())
	}
	open.Close()
	d.ask(order{Do: "unmount", Epoch: 7, Name: a.Name})
	if mountedAt(t, a.Path) || mountedAt(t, b.Path) {
		t.Error("a volume is still mounted")
	}
	d.ask(order{Do: "drop", Epoch: 7})
	eventually(t, "the idle mounter to end", func() bool { return len(childrenOf(t, d.guard)) == 0 })
	o.silent()
	a.clean(t)
	b.clean(t)
}

func volumesAtTheDeadline(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	cfg := o.config()
	cfg.Margin = 300 * time.Millisecond // this host may be busy with other tests
	d := startDaemon(t, cfg)
	d.holdDisks(7, 20*time.Second, disk)
	writer := o.writer(7, disk.Path)
	addrs := virtual(1)
	r := d.ask(order{Do: "end", Epoch: 7, For: 2 * lookEvery})
	d.signal(syscall.SIGSTOP)
	told := o.secured(7)
	gone(t, addrs)
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted, and the others were told that it isn't")
	}
	if err := writer.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the writer ended with %v", err)
	}
	t.Logf("from the begin of the forced end to the last who was told: %s", told.Sub(r.Until.Add(-Lead(cfg.Margin, true))))
	eventually(t, "it to be kept for the next start", func() bool {
		kept, err := KeptSecured(o.dir)
		return err == nil && kept.GetEpoch() == 7
	})
	d.signal(syscall.SIGCONT)
	if r := d.try(order{Do: "mount", Epoch: 7, Name: disk.Name}); r.Err == "" || mountedAt(t, disk.Path) {
		t.Error("a volume was mounted after the end of its epoch")
	}
	d.ask(order{Do: "drop", Epoch: 7})
	o.silent()
	disk.clean(t)
	if err := ForgetSecured(o.dir); err != nil {
		t.Error(err)
	}
}

func volumesAtTheDaemonsDeath(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, disk)
	writer := o.writer(7, disk.Path)
	killed := clock.Now()
	d.signal(syscall.SIGKILL)
	t.Logf("from SIGKILL to the last farewell %s", o.farewells(7).Sub(killed))
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted, and the others were told that it isn't")
	}
	_ = writer.Wait() // or the test hangs
	if _, err := Settle(t.Context(), o.dir); err != nil {
		t.Fatal(err)
	}
	disk.clean(t)
}

// A service that a hook has started by way of an init system isn't in the hooks'
// group.
func aUserFromElsewhere(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, disk)
	user := o.start(disk.Path, &syscall.SysProcAttr{Setsid: true})
	d.ask(order{Do: "secure", Epoch: 7})
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted")
	}
	_ = user.Wait()
	if r := d.try(order{Do: "mount", Epoch: 7, Name: disk.Name}); r.Err == "" {
		t.Error("a volume was mounted after the forced end")
	}
	d.ask(order{Do: "drop", Epoch: 7})
	disk.clean(t)
}

// A volume stays for those who use its file system: who looks at its device alone,
// as multipathd does, is left alone.
func TestWhoOnlyHasTheDeviceOpenIsNotKilled(t *testing.T) {
	user := func(device bool) (storage.User, *exec.Cmd) {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return storage.User{PID: cmd.Process.Pid, Device: device}, cmd
	}
	looks, looking := user(true)
	writes, writing := user(false)
	n, err := killUsers(errors.Join(&storage.BusyError{Users: []storage.User{looks, writes}}))
	if n != 1 || err != nil {
		t.Errorf("killed %d, %v", n, err)
	}
	_ = writing.Wait()
	if dead, err := syscall.Wait4(looking.Process.Pid, nil, syscall.WNOHANG, nil); dead != 0 || err != nil {
		t.Errorf("who looks has ended: %v", err)
	}
}

// diskOnDisk makes a disk whose writes can be stalled: its image is on another.
func diskOnDisk(t *testing.T) (disk testDisk, below string) {
	t.Helper()
	outer := newDisk(t, t.TempDir(), "below", "ext4")
	if err := os.Mkdir(outer.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(outer.image, 256<<20); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(outer.Device, outer.Path, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(outer.Path, "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return newDisk(t, dir, "data", "ext4"), outer.Path
}

// A device that isn't there keeps nobody from giving the epoch up.
func aDeviceThatIsAbsent(t *testing.T, o *office) {
	v := storage.Volume{Name: "data", Device: "UUID=00000000-1111-2222-3333-444444444444", Path: filepath.Join(t.TempDir(), "data"), FSType: "ext4"}
	d := startDaemon(t, o.config())
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: virtual(1), Volumes: []storage.Volume{v}})
	if r := d.try(order{Do: "mount", Epoch: 7, Name: "data"}); !strings.Contains(r.Err, storage.ErrAbsent.Error()) {
		t.Errorf("a device that isn't there was mounted: %q", r.Err)
	}
	d.ask(order{Do: "drop", Epoch: 7})
	d.ask(order{Do: "hold", Epoch: 8, For: 20 * time.Second, Addresses: virtual(1), Volumes: []storage.Volume{v}})
	d.signal(syscall.SIGKILL)
	o.farewells(8)
}

// A guard is killed while its mounter is stuck: as long as that lives, no other
// mounts anything.
func aMounterThatOutlivesItsGuard(t *testing.T, o *office) {
	disk, below := diskOnDisk(t)
	d := startDaemon(t, o.config())
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: virtual(1), Volumes: []storage.Volume{disk.Volume}})
	thaw := freeze(t, below)
	d.ask(order{Do: "begin mount", Epoch: 7, Name: disk.Name})
	hangs(t, d.guard)
	d.signalGuard(syscall.SIGKILL)
	d.ask(order{Do: "died", For: 5 * time.Second})
	lock, err := openMounterLock(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.file.Close()
	if err := lock.take(); err == nil || !strings.Contains(err.Error(), "still lives") {
		t.Errorf("beside an earlier mounter: %v", err)
	}
	left := LeftoversConfig{DataDir: o.dir, Volumes: []storage.Volume{disk.Volume}}
	d.signal(syscall.SIGKILL)
	if _, err := Settle(t.Context(), o.dir); err != nil {
		t.Fatal(err)
	}
	if err := SecureLeftovers(t.Context(), left); err == nil || !strings.Contains(err.Error(), "still lives") {
		t.Errorf("beside an earlier mounter: %v", err)
	}
	thaw()
	eventually(t, "the earlier mounter to end", func() bool { return lock.take() == nil })
	lock.file.Close()
	// Its lock goes before the device that it has open.
	eventually(t, "the volume to be free", func() bool { return SecureLeftovers(t.Context(), left) == nil })
	o.silent()
}

// Both had and its guard are killed: the next start proves that nothing is left.
func whatAnEarlierRunHasLeft(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, disk)
	writer := o.writer(7, disk.Path)
	d.signalGuard(syscall.SIGKILL)
	d.signal(syscall.SIGKILL)
	if _, err := Settle(t.Context(), o.dir); err != nil {
		t.Fatal(err)
	}
	if !mountedAt(t, disk.Path) {
		t.Fatal("nothing is left: this test shows nothing")
	}
	if err := SecureLeftovers(t.Context(), LeftoversConfig{DataDir: o.dir, Volumes: []storage.Volume{disk.Volume}}); err != nil {
		t.Fatal(err)
	}
	if mountedAt(t, disk.Path) {
		t.Error("the volume is mounted")
	}
	_ = writer.Wait() // or the test hangs
	disk.clean(t)
	o.silent()
}

// had ends in order what its hooks have left running.
func servicesAreStoppedInOrder(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	d := startDaemon(t, o.config())
	d.holdDisks(7, 20*time.Second, disk)
	if left, err := StopServices(t.Context(), o.dir, 7, time.Second); err != nil || len(left) > 0 {
		t.Errorf("stopped %v, %v, where nothing ran", left, err)
	}
	writer := o.writer(7, disk.Path)
	left, err := StopServices(t.Context(), o.dir, 7, 10*time.Second)
	if err != nil || !strings.Contains(strings.Join(left, " "), fmt.Sprintf("sh[%d]", writer.Process.Pid)) {
		t.Errorf("stopped %v, %v", left, err)
	}
	if err := writer.Wait(); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("the writer ended with %v", err)
	}
	d.ask(order{Do: "unmount", Epoch: 7, Name: disk.Name})
	d.ask(order{Do: "drop", Epoch: 7})
	disk.clean(t)
}

// The guard of an owner with volumes dies: the next one knows what is mounted,
// and can unmount it in order. One that the dead guard had ended it only ends.
func theNextGuardUnmounts(t *testing.T, o *office, fstype string) {
	disk := newDisk(t, t.TempDir(), "data", fstype)
	absent := storage.Volume{Name: "absent", Device: "UUID=00000000-1111-2222-3333-444444444444", Path: filepath.Join(t.TempDir(), "absent"), FSType: "ext4"}
	s, stop := supervise(t, o)
	defer stop()
	for i, ended := range []bool{false, true} {
		epoch := uint64(7 + i)
		hold := func() error { return s.Hold(t.Context(), epoch, virtual(1), []storage.Volume{disk.Volume, absent}) }
		eventually(t, "an epoch to begin", func() bool {
			return s.Extend(epoch, clock.Now().Add(20*time.Second)) && hold() == nil
		})
		if err := s.Mount(t.Context(), epoch, disk.Name, false); err != nil {
			t.Fatal(err)
		}
		// What was certainly not mounted is nothing that the next guard must prove.
		if err := s.Mount(t.Context(), epoch, absent.Name, false); !errors.Is(err, ErrNotMounted) {
			t.Errorf("a device that isn't there was mounted: %v", err)
		}
		old := s.pid(t)
		if ended {
			g, err := s.current()
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(old, syscall.SIGSTOP); err != nil { // or it would do what its successor is to do
				t.Fatal(err)
			}
			g.page.deadline.Store(overForGood)
		}
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another guard", func() bool { g, err := s.current(); return err == nil && g.pid != old })
		if s.Alive() == nil && !ended {
			t.Error("an owner whose guard has died may stay")
		}
		if ended {
			o.secured(epoch)
			if s.Extend(epoch, clock.Now().Add(time.Minute)) || s.Mount(t.Context(), epoch, disk.Name, false) == nil {
				t.Error("an epoch that one guard has ended goes on under the next")
			}
		} else {
			if !s.Extend(epoch, clock.Now().Add(20*time.Second)) {
				t.Error("the lease can't be renewed until the epoch is given up")
			}
			eventually(t, "the volume to be unmounted", func() bool { return s.Unmount(t.Context(), epoch, disk.Name) == nil })
		}
		if mountedAt(t, disk.Path) {
			t.Error("the volume is mounted")
		}
		eventually(t, "the epoch to be dropped", func() bool { return s.Drop(t.Context(), epoch) == nil })
	}
	disk.clean(t)
}
