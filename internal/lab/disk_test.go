package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// writeDurably writes a file in the host's data folder as a process of the host
// would, to the disk.
func writeDurably(h *Host, name string) error {
	return h.keeper.do(func() error {
		f, err := os.OpenFile(filepath.Join(h.DataDir(), name), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, 64<<10))
		return errors.Join(err, f.Sync(), f.Close())
	})
}

func TestDisksFailAndAreMended(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{Disks: true})
	alpha, beta := l.Host("alpha"), l.Host("beta")
	must(t, writeDurably(alpha, "before"))

	must(t, alpha.FillDisk())
	if err := writeDurably(alpha, "full"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full disk: %v", err)
	}
	must(t, writeDurably(beta, "beside"))
	must(t, alpha.MendDisk(t.Context()))
	must(t, writeDurably(alpha, "full"))

	must(t, alpha.BreakDisk())
	if err := writeDurably(alpha, "broken"); !errors.Is(err, syscall.EIO) {
		t.Errorf("writing to a broken disk: %v", err)
	}
	must(t, alpha.FillDisk())
	must(t, alpha.StallDisk())
	must(t, alpha.BreakDisk())
	if err := writeDurably(alpha, "broken"); !errors.Is(err, syscall.EIO) {
		t.Errorf("writing to a broken disk that was filled and stalled: %v", err)
	}
	must(t, alpha.MendDisk(t.Context()))
	must(t, writeDurably(alpha, "broken"))
	must(t, alpha.keeper.do(func() error {
		_, err := os.Stat(filepath.Join(alpha.DataDir(), "before"))
		return err
	}))
}

// A process that writes to a stalled disk can't even be killed. The disk must
// go on when the lab ends, or that process would stay for ever.
func TestStalledDiskGoesOnAtTheEnd(t *testing.T) {
	t.Parallel()
	l, err := New(Config{Disks: true})
	must(t, err)
	alpha := l.Host("alpha")
	must(t, alpha.StallDisk())
	must(t, alpha.FillDisk()) // nobody here may wait for it
	p, err := alpha.Start(filepath.Join(alpha.Dir(), "out"), "sh", "-c", "echo x >"+filepath.Join(alpha.DataDir(), "file"))
	must(t, err)
	deadline := time.Now().Add(testTimeout)
	for {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid()), "stat"))
		must(t, err)
		if strings.Contains(string(stat), ") D ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a writer to a stalled disk doesn't wait: %s", stat)
		}
		<-time.After(time.Millisecond)
	}
	must(t, l.Close())
	select {
	case <-p.Done():
	default:
		t.Error("the writer is still there")
	}
	if err := unix.Kill(p.Pid(), 0); err == nil {
		t.Error("the writer outlived the lab")
	}
}

func TestLabWithoutDisksHasNoFaultsOfThem(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha := l.Host("alpha")
	must(t, alpha.MendDisk(t.Context()))
	for _, fault := range []func() error{alpha.FillDisk, alpha.StallDisk, alpha.BreakDisk} {
		if err := fault(); err == nil || !strings.Contains(err.Error(), "without disks") {
			t.Errorf("a fault of a disk that isn't there: %v", err)
		}
	}
}
