package vmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/cluster"
	"had/internal/fence"
)

// A disk that two hosts see: LIO has it in memory, and shows it to two
// initiators of this kernel.
func TestReservations(t *testing.T) {
	modules := []string{"configfs", "target_core_mod", "sd_mod", "tcm_loop", "crc32_generic", "dummy", "rdma_rxe", "ib_srpt", "ib_srp"}
	test(t, sides{
		modules: modules,
		inside: func(t *testing.T) {
			for _, m := range modules {
				load(t, m, "")
			}
			must(t, os.MkdirAll("/var/target/pr", 0o700)) // where LIO keeps registrations over a loss of power
			must(t, unix.Mount("configfs", config, "configfs", 0, ""))
			for name, disk := range map[string]func(*testing.T) (alpha, beta *host){"Loopback": loopback, "SRP": srp} {
				t.Run(name, func(t *testing.T) {
					alpha, beta := disk(t)
					t.Run("TakeOver", func(t *testing.T) { takeOver(t, alpha, beta) })
					t.Run("TheOldHolderReturns", func(t *testing.T) { oldHolderReturns(t, alpha, beta) })
					t.Run("Others", func(t *testing.T) { others(t, alpha, beta) })
					t.Run("AtOnce", func(t *testing.T) { atOnce(t, alpha, beta) })
					t.Run("Partition", func(t *testing.T) { partition(t, alpha) })
				})
			}
		},
		outside: func(_ *testing.T, m *machine) { m.passes() },
	})
}

// Alpha writes all the time. Once beta has taken the disk nothing that alpha
// writes reaches it; where commands can't be aborted, once they have ended.
func takeOver(t *testing.T, alpha, beta *host) {
	must(t, alpha.write(1, 1))
	must(t, beta.write(2, 1)) // nobody has reserved it
	must(t, alpha.take(keyOf(7)))
	must(t, alpha.take(keyOf(7)))
	must(t, alpha.write(1, 2))
	if err := beta.write(1, 3); !errors.Is(err, unix.EBADE) {
		t.Errorf("beta writes while alpha has the disk: %v", err)
	}
	if got := beta.read(1); got != 2 {
		t.Errorf("beta reads %d", got)
	}

	writing, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := uint64(3); ; n++ {
			if err := alpha.write(1, n); err != nil {
				ended <- err
				return
			}
			if n == 100 {
				close(writing)
			}
		}
	}()
	<-writing
	begin := time.Now()
	must(t, beta.take(keyOf(8)))
	t.Logf("taken over in %s", time.Since(begin))
	last := beta.read(1)
	if err := <-ended; !errors.Is(err, unix.EBADE) {
		t.Errorf("alpha's writer ended with %v", err)
	}
	if beta.commands == fence.Finish {
		last = beta.read(1)
	}
	for range 20 {
		if err := alpha.write(1, 1<<40); !errors.Is(err, unix.EBADE) {
			t.Errorf("alpha still writes: %v", err)
		}
		if got := beta.read(1); got != last {
			t.Fatalf("after the disk was taken it changed from %d to %d", last, got)
		}
	}
	must(t, beta.write(1, 1<<41))
	for name, h := range map[string]*host{"alpha": alpha, "beta": beta} {
		r, err := h.Read()
		if err != nil || !r.Exclusive(keyOf(8)) || r.Exclusive(keyOf(7)) {
			t.Errorf("%s reads %+v, %v", name, r, err)
		}
	}
}

// Whatever an old holder tries with its old key, it doesn't get the disk back.
func oldHolderReturns(t *testing.T, alpha, beta *host) {
	old, current := keyOf(7), keyOf(8)
	for what, test := range map[string]struct{ err, want error }{
		"take":       {alpha.take(old), fence.ErrSuperseded},
		"reserve":    {alpha.Reserve(old), fence.ErrConflict},
		"preempt":    {alpha.Preempt(old, current, alpha.commands), fence.ErrConflict},
		"clear":      {alpha.Clear(old), fence.ErrConflict},
		"unregister": {alpha.Unregister(old), fence.ErrConflict},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v, want %v", what, test.err, test.want)
		}
	}
	if err := alpha.write(1, 1); !errors.Is(err, unix.EBADE) {
		t.Errorf("alpha writes: %v", err)
	}
	must(t, alpha.take(keyOf(9)))
	must(t, alpha.write(1, 1))
	if err := beta.write(1, 1); !errors.Is(err, unix.EBADE) {
		t.Errorf("beta writes: %v", err)
	}
	must(t, alpha.take(keyOf(10))) // the same host, in a later epoch
	must(t, alpha.write(1, 2))
	must(t, alpha.Release(keyOf(10)))
	must(t, beta.write(1, 3))
	must(t, alpha.Clear(keyOf(10)))
	if r, err := beta.Read(); err != nil || len(r.Keys) != 0 || r.Holder != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// What other software has registered is left alone.
func others(t *testing.T, alpha, beta *host) {
	const foreign = fence.Key(0x1234)
	must(t, alpha.Register(foreign))
	if err := beta.take(keyOf(11)); err == nil || !strings.Contains(err.Error(), "0x1234 is registered, which isn't had's") {
		t.Errorf("Take: %v", err)
	}
	r, err := beta.Read()
	if err != nil || !slices.Equal(r.Keys, []fence.Key{foreign}) {
		t.Errorf("%+v, %v", r, err)
	}
	must(t, alpha.Unregister(foreign))
	must(t, beta.take(keyOf(11)))
	must(t, beta.Unregister(keyOf(11)))
	must(t, alpha.write(1, 4))
}

// Two that take the disk at once: the later epoch has it in the end, alone.
func atOnce(t *testing.T, alpha, beta *host) {
	const rounds = 20
	won := 0
	for n := uint64(100); n < 100+2*rounds; n += 2 {
		earlier, later := keyOf(n), keyOf(n+1)
		hosts := []*host{alpha, beta}
		if n%4 == 0 {
			slices.Reverse(hosts)
		}
		var errEarlier, errLater error
		var both sync.WaitGroup
		both.Go(func() { errEarlier = hosts[0].take(earlier) })
		both.Go(func() { errLater = hosts[1].take(later) })
		both.Wait()
		if errEarlier == nil {
			won++
		} else if !errors.Is(errEarlier, fence.ErrSuperseded) && !errors.Is(errEarlier, fence.ErrConflict) {
			t.Errorf("the earlier: %v", errEarlier)
		}
		r, err := hosts[1].Read()
		if errLater != nil || err != nil || !r.Exclusive(later) {
			t.Fatalf("the later: %v; the disk says %+v, %v", errLater, r, err)
		}
		if err := hosts[0].write(1, 1); !errors.Is(err, unix.EBADE) {
			t.Fatalf("the earlier writes: %v", err)
		}
		must(t, hosts[1].write(1, 1))
	}
	t.Logf("the earlier had it first in %d of %d", won, rounds)
	must(t, alpha.Register(keyOf(1)))
	must(t, alpha.Clear(keyOf(1)))
}

// A partition can't be reserved; the error names its disk.
func partition(t *testing.T, h *host) {
	mbr := h.block()
	copy(mbr[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0, 0}) // 64 sectors from the 8th
	mbr[510], mbr[511] = 0x55, 0xaa
	must(t, h.put(0, mbr))
	must(t, unix.IoctlSetInt(int(h.data.Fd()), unix.BLKRRPART, 0))
	if _, err := fence.OpenDisk(h.path + "1"); err == nil || !strings.Contains(err.Error(), "all of "+h.path+" can be reserved") {
		t.Errorf("OpenDisk: %v", err)
	}
}

// host is a host's view of the disk.
type host struct {
	*fence.Disk
	t    *testing.T
	path string
	data *os.File // without the page cache

	commands fence.UnderWay // what the disk can do
}

func (h *host) take(key fence.Key) error { return h.Take(key, h.commands) }

const blockSize = 512

// block returns memory that the disk can take as it is.
func (h *host) block() []byte {
	b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(h.t, err)
	return b[:blockSize:os.Getpagesize()]
}

func (h *host) put(number int64, b []byte) error {
	_, err := h.data.WriteAt(b, number*blockSize)
	return errors.Join(err, unix.Munmap(b[:cap(b)]))
}

// write writes a number to a block.
func (h *host) write(number int64, n uint64) error {
	b := h.block()
	copy(b, bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), blockSize/8))
	return h.put(number, b)
}

func (h *host) read(number int64) uint64 {
	b := h.block()
	_, err := h.data.ReadAt(b, number*blockSize)
	must(h.t, err)
	n := binary.BigEndian.Uint64(b)
	must(h.t, unix.Munmap(b[:cap(b)]))
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keyOf is an epoch's key.
func keyOf(epoch uint64) fence.Key {
	return fence.Key(cluster.ReservationKey(cluster.ReservationMark("vmtest"), epoch))
}
