package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"had/storage"
)

// The kernel's own NFS server, on this machine, without the programs that usually tell
// it what it exports: the answers to all that it would ask them are given beforehand,
// in the format of nfsd's caches (Linux fs/nfsd/export.c, net/sunrpc/svcauth_unix.c).
const (
	export = "/export"

	forEver     = 1<<31 - 1
	exportFlags = 0x2000 | 0x400 | 0x2 // NFSEXP_FSID, NOSUBTREECHECK, INSECURE_PORT of linux/nfsd/export.h
)

// serve exports a folder to this machine as the root of NFSv4.
func serve(t *testing.T) {
	t.Helper()
	must(t, os.MkdirAll(export, 0o755))
	must(t, unix.Mount("tmpfs", export, "tmpfs", 0, ""))
	must(t, unix.Mount("nfsd", "/proc/fs/nfsd", "nfsd", 0, ""))
	for _, w := range []struct{ file, text string }{
		{"/proc/net/rpc/auth.unix.ip/channel", fmt.Sprintf("nfsd 127.0.0.1 %d here", forEver)},
		{"/proc/net/rpc/nfsd.export/channel", fmt.Sprintf("here %s %d %d 0 0 0", export, forEver, exportFlags)},
		{"/proc/net/rpc/nfsd.fh/channel", fmt.Sprintf(`here 1 \x00000000 %d %s`, forEver, export)},
		{"/proc/fs/nfsd/versions", "-2 -3 +4 +4.1 +4.2"}, // 3 would need rpcbind(8)
		{"/proc/fs/nfsd/nfsv4gracetime", "10"},           // the least: nobody has anything to reclaim
		{"/proc/fs/nfsd/portlist", "tcp 2049"},
		{"/proc/fs/nfsd/threads", "2"},
	} {
		if err := os.WriteFile(w.file, []byte(w.text+"\n"), 0); err != nil {
			t.Fatalf("tell the NFS server %q: %v", w.text, err)
		}
	}
}

// A volume of an NFS server: it is mounted, written and let go in order; and when the
// server is gone it is ended by force in time, and who waits for the server with it,
// however hard it was mounted. What somebody still has open is never said to be free.
func TestAnNFSServerIsGone(t *testing.T) {
	modules := []string{"nfsd", "nfs", "nfsv4"}
	test(t, sides{
		modules:  modules,
		programs: []string{"mount"},
		inside: func(t *testing.T) {
			for _, m := range modules {
				load(t, m, "")
			}
			lo, err := netlink.LinkByName("lo")
			must(t, err)
			must(t, netlink.LinkSetUp(lo))
			serve(t)
			v := served()
			file := filepath.Join(v.Path, "stamp")
			mount := func() {
				t.Helper()
				must(t, storage.Mount(t.Context(), v, storage.MountOptions{}))
				if storage.Unused(t.Context(), v) == nil {
					t.Error("it is mounted, and said to be free")
				}
			}
			mount()
			must(t, os.WriteFile(file, []byte("alpha"), 0o600))
			must(t, storage.Unmount(t.Context(), v))
			must(t, storage.Unused(t.Context(), v))
			if text, err := os.ReadFile(filepath.Join(export, "stamp")); err != nil || string(text) != "alpha" {
				t.Errorf("the server has %q: %v", text, err)
			}

			mount()
			busy, err := os.Open(file)
			must(t, err)
			if storage.Secure(t.Context(), []storage.Volume{v}) == nil {
				t.Error("a file is open, and it is said to be free")
			}
			must(t, busy.Close())
			must(t, storage.Secure(t.Context(), []storage.Volume{v}))

			mount()
			must(t, netlink.LinkSetDown(lo))
			writer := exec.Command("/proc/self/exe")
			writer.Env = []string{writeVariable + "=" + file}
			must(t, writer.Start())
			ended := make(chan error, 1)
			go func() { ended <- writer.Wait() }()
			select {
			case err := <-ended:
				t.Fatalf("nobody waits for the server: %v", err)
			case <-time.After(2 * time.Second):
			}
			began := time.Now()
			for err = secureInAChild(); err != nil && time.Since(began) < time.Minute; err = secureInAChild() {
				t.Logf("after %v: %v", time.Since(began), err)
				_ = writer.Process.Kill() // it may have ended
			}
			must(t, err)
			t.Logf("without its server it was free after %v", time.Since(began))
			if err := <-ended; err == nil {
				t.Error("who had waited for the server was told that all is well")
			}
			must(t, storage.Unused(t.Context(), v))
		},
		outside: func(_ *testing.T, m *machine) { m.passes() },
	})
}

func served() storage.Volume {
	return storage.Volume{
		Name: "served", Device: "127.0.0.1:/", Path: "/srv/served", FSType: "nfs4",
		Options: []string{"vers=4.2", "addr=127.0.0.1", "clientaddr=127.0.0.1", "hard"}, // mount.nfs4 would find the addresses
	}
}

// secureVariable makes this binary a program that ends the volume by force, as a
// guard's mounter does. Its unmount takes the mount away and then says goodbye to the
// server (DESTROY_SESSION), for ever; it is killed, and the next one finds it free.
const secureVariable = "VMTEST_SECURE"

func secureInAChild() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = []string{secureVariable + "=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func secureServed() error {
	v := served()
	if err := storage.Abandon(v); err != nil {
		return err
	}
	return storage.Secure(context.Background(), []storage.Volume{v})
}

// writeVariable makes this binary a program that writes to a file and syncs it.
const writeVariable = "VMTEST_WRITE"

func writeSynced(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("beta!"); err != nil {
		return err
	}
	return f.Sync()
}
