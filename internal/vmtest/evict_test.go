package vmtest

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"had/internal/fence"
)

// Two nodes' guards, and a disk with an ext4 that both see.
func TestEviction(t *testing.T) {
	modules := []string{"configfs", "target_core_mod", "sd_mod", "tcm_loop", "crc32_generic", "dummy", "rdma_rxe", "ib_srpt", "ib_srp", "crc32c_generic", "ext4", "dm-mod", "dm-multipath", "dm-round-robin"}
	test(t, sides{
		modules:  modules,
		programs: []string{"mke2fs", "e2fsck", "blkid", "dmsetup"},
		inside: func(t *testing.T) {
			for _, m := range modules {
				load(t, m, "")
			}
			lo, err := netlink.LinkByName("lo")
			must(t, err)
			must(t, netlink.LinkSetUp(lo))
			must(t, os.MkdirAll("/var/target/pr", 0o700))
			must(t, unix.Mount("configfs", config, "configfs", 0, ""))
			for name, disk := range map[string]func(*testing.T) (alpha, beta *host){"Loopback": loopback, "SRP": srp} {
				t.Run(name, func(t *testing.T) {
					alpha, beta := disk(t)
					if got := fence.CommandsOf(alpha.path); got != alpha.commands {
						t.Errorf("what is under way can be aborted: %v, want %v", got, alpha.commands)
					}
					must(t, fence.CheckReservations([]string{alpha.path}, keyOf(0)))
					betweenSteps(t, alpha, beta)
					tool(t, "mke2fs", "-q", "-t", "ext4", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0", alpha.path)
					evict(t, alpha, beta)
				})
			}
			t.Run("Multipath", multipath)
		},
		outside: func(_ *testing.T, m *machine) { m.passes() },
	})
}

// After each step of an owner and a seeker that crash there, or stand still, the
// next one gets the disk, and those before don't get it back.
func betweenSteps(t *testing.T, alpha, beta *host) {
	seven, sought, eight := keyOf(7), keyOf(7)|1, keyOf(8)
	steps := []func() error{
		func() error { return alpha.Register(seven) },
		func() error { return alpha.Reserve(seven) },
		func() error { return beta.Register(sought) },
		func() error { return beta.Preempt(sought, seven, beta.commands) },
		func() error { return beta.Register(eight) },
	}
	for n := range len(steps) + 1 {
		for _, s := range steps[:n] {
			must(t, s())
		}
		for name, seeker := range map[string]*host{"beta": beta, "alpha": alpha} {
			if n < len(steps) {
				must(t, seeker.take(sought))
				if r, err := seeker.Read(); err != nil || !r.Exclusive(sought) {
					t.Errorf("after %d steps %s seeks, and there is %+v, %v", n, name, r, err)
				}
			}
			if err := alpha.take(seven); !errors.Is(err, fence.ErrSuperseded) {
				t.Errorf("after %d steps the old owner goes on: %v", n, err)
			}
		}
		must(t, beta.take(eight))
		if r, err := alpha.Read(); err != nil || !r.Exclusive(eight) {
			t.Errorf("after %d steps there is %+v, %v", n, r, err)
		}
		if err := alpha.write(1, 1); !errors.Is(err, unix.EBADE) {
			t.Errorf("after %d steps the old owner writes: %v", n, err)
		}
		must(t, beta.Clear(eight))
	}
}

// Alpha owns and writes; all of its had is stopped, and its kernel writes on. Beta
// takes the disk, then owns. Alpha wakes up, gives up, and owns again later.
func evict(t *testing.T, alpha, beta *host) {
	a, b := startOwner(t, "alpha", alpha.path), startOwner(t, "beta", beta.path)
	a.do("hold 7", "reserve 7", "mount 7")
	w := startWriter(t, a.path+"/numbers")
	w.wrote(t, 20)
	if failed := a.try("reserve 7"); !strings.Contains(failed, "[web] may be mounted here") {
		t.Errorf("it reserves with a volume mounted: %q", failed)
	}
	a.signal(unix.SIGSTOP)
	w.wrote(t, w.count()+20)

	began := time.Now()
	b.do("evict 7")
	evicted := time.Now()
	t.Logf("the disk was taken in %s, after %d numbers", evicted.Sub(began), w.count())
	<-w.ended
	if last := w.acked[len(w.acked)-1]; last.After(evicted) || w.err == nil {
		t.Errorf("the old owner wrote %s after the eviction: %v", last.Sub(evicted), w.err)
	}
	still := beta.sum()
	for _, name := range []string{"numbers", "more"} {
		if f, err := os.OpenFile(a.path+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600); err == nil {
			if _, err := f.Write(make([]byte, 100_000)); err == nil {
				t.Errorf("the old owner writes to %s", name)
			}
			f.Close()
		}
	}
	unix.Sync()
	if beta.sum() != still {
		t.Error("the disk changed after the eviction")
	}

	b.do("hold 8", "reserve 8", "mount 8")
	if got := numbersIn(t, b.path+"/numbers"); got < len(w.acked) {
		t.Errorf("%d numbers were synced, and %d are there", len(w.acked), got)
	}
	second := startWriter(t, b.path+"/second")
	second.wrote(t, 20)
	a.signal(unix.SIGCONT)
	if failed := a.try("reserve 7"); failed == "" {
		t.Error("the old owner reserves again")
	}
	a.do("secure 7", "drop 7")
	if failed := a.try("evict 7"); !strings.Contains(failed, "a later epoch has the disk") {
		t.Errorf("one that seeks too late: %q", failed)
	}
	second.wrote(t, second.count()+20) // nothing of that was in its way
	close(second.stop)
	<-second.ended
	b.do("unmount 8", "drop 8")
	tool(t, "e2fsck", "-f", "-n", beta.path)

	a.do("hold 9", "reserve 9", "mount 9")
	if got := numbersIn(t, a.path+"/second"); got < len(second.acked) {
		t.Errorf("%d numbers were synced, and %d are there", len(second.acked), got)
	}
	if err := beta.write(1, 1); !errors.Is(err, unix.EBADE) {
		t.Errorf("beta writes: %v", err)
	}
	a.do("unmount 9", "drop 9")
	tool(t, "e2fsck", "-f", "-n", alpha.path)
	if r, err := beta.Read(); err != nil || !r.Exclusive(keyOf(9)) {
		t.Errorf("after an orderly release there is %+v, %v", r, err)
	}
}

// sum is a hash of all of the disk.
func (h *host) sum() [sha256.Size]byte {
	h.t.Helper()
	size, err := h.data.Seek(0, io.SeekEnd)
	must(h.t, err)
	const chunk = 1 << 20
	b, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(h.t, err)
	sum := sha256.New()
	for at := int64(0); at < size; at += chunk {
		n, err := h.data.ReadAt(b[:min(chunk, size-at)], at)
		must(h.t, err)
		sum.Write(b[:n])
	}
	must(h.t, unix.Munmap(b))
	return [sha256.Size]byte(sum.Sum(nil))
}
