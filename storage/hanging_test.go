package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"had/internal/fusetest"
)

// A server that is gone keeps the forced end from nothing: neither of its own volume,
// whose users wait for it, nor of another.
func TestSecureWithoutTheServer(t *testing.T) {
	v := Volume{Name: "served", Device: "server:/export", Path: t.TempDir(), FSType: "nfs"}
	server, err := fusetest.Mount(v.Path, v.Device)
	must(t, err)
	t.Cleanup(server.Close)
	other := newVolume(t, "ext4")
	must(t, Mount(t.Context(), other, MountOptions{}))
	server.Leave()
	waiting := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(v.Path, fusetest.File))
		waiting <- err
	}()

	ended := make(chan error, 1)
	go func() { ended <- Secure(t.Context(), []Volume{other, v}) }()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a server that is gone")
	}
	if err := <-waiting; err == nil {
		t.Error("who had waited for the server was told that all is well")
	}
	for _, v := range []Volume{v, other} {
		must(t, Unused(t.Context(), v))
	}
}
