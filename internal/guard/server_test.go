package guard

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"had/internal/fusetest"
	"had/storage"
)

// Network file systems whose server is gone. A real one's client has mounted it when
// the mounter is asked to: the kernel of a test need not have one.
func TestWithoutTheServer(t *testing.T) {
	o := newOffice(t, nil)
	t.Run("the daemon dies, and a service waits", func(t *testing.T) { aServiceWaitsForItsServer(t, o.visit(t)) })
	t.Run("an unmount in order waits", func(t *testing.T) { anUnmountWaitsForItsServer(t, o.visit(t)) })
}

// holdServed takes an epoch on with a volume of a server's.
func (o *office) holdServed(d *running, epoch uint64) (storage.Volume, *fusetest.Server) {
	o.t.Helper()
	v := storage.Volume{Name: "data", Device: "server:/export", Path: o.t.TempDir(), FSType: "nfs"}
	server, err := fusetest.Mount(v.Path, v.Device)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(server.Close)
	d.ask(order{Do: "hold", Epoch: epoch, For: 60 * time.Second, Addresses: virtual(1), Volumes: []storage.Volume{v}})
	d.ask(order{Do: "mount", Epoch: epoch, Name: v.Name})
	return v, server
}

// The service is out of SIGKILL's reach for as long as it waits.
func aServiceWaitsForItsServer(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	v, server := o.holdServed(d, 7)
	server.Leave()
	group, err := OpenServices(o.dir, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	service := exec.Command("cat", filepath.Join(v.Path, fusetest.File))
	service.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close() // or it is there for ever, if the guard could not end it
		_ = service.Wait()
	})
	<-server.Waits()
	d.signal(syscall.SIGKILL)
	o.farewells(7)
	if mountedAt(t, v.Path) {
		t.Error("the volume is mounted")
	}
}

func anUnmountWaitsForItsServer(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	v, server := o.holdServed(d, 7)
	server.Leave()
	d.ask(order{Do: "begin unmount", Epoch: 7, Name: v.Name})
	<-server.Waits()
	eventually(t, "the forced end", func() bool { return d.try(order{Do: "secure", Epoch: 7}).Err == "" })
	if mountedAt(t, v.Path) {
		t.Error("the volume is mounted")
	}
	d.ask(order{Do: "drop", Epoch: 7})
	o.silent()
}
