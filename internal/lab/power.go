package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// bootID is what tells one boot of a kernel from another (random(4)).
const bootID = "/proc/sys/kernel/random/boot_id"

// ErrOff is what keeps a host from starting anything.
var ErrOff = errors.New("its power is off")

// PowerOff ends a server as a pulled plug does: nothing of it is heard any more,
// its processes are dead, nothing is mounted, and what its kernel hadn't written
// to the volumes is lost. It returns once all that is so; a host that is off
// stays off.
func (h *Host) PowerOff(ctx context.Context) error {
	h.mu.Lock()
	h.off = true
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := h.lab.LinkDown(h.Name); err != nil {
		return err
	}
	if err := sweep(ctx, map[uint64]bool{h.ns.ino: true}); err != nil {
		return fmt.Errorf("switch host %s off: %w", h.Name, err)
	}
	for _, p := range h.plugs {
		if err := h.yank(ctx, p); err != nil {
			return fmt.Errorf("switch host %s off: %w", h.Name, err)
		}
	}
	for _, vip := range h.lab.cfg.VIPs {
		_ = h.DelAddress(netip.PrefixFrom(vip, vip.BitLen())) // it needn't be there
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dark = h.off // unless it was switched on meanwhile
	return nil
}

// yank ends a volume's file system without writing what isn't on the disk yet.
func (h *Host) yank(ctx context.Context, p plug) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		mounts, err := h.mountinfo()
		if err != nil {
			return err
		}
		if !p.alive(mounts) {
			return nil
		}
		err = h.keeper.do(func() error {
			if dir, err := os.Open(p.Path()); err == nil { // or it is shut down
				_ = unix.IoctlSetPointerInt(int(dir.Fd()), ext4Shutdown, shutdownNoSync) // xfs has the same
				_ = dir.Close()
			}
			return unix.Unmount(p.Path(), 0)
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w: %w", p.Path(), err, context.Cause(ctx))
		}
	}
}

// PowerOn has a server that is off boot: it is another boot, in which no daemon
// runs yet.
func (h *Host) PowerOn() error {
	h.mu.Lock()
	off := h.off
	h.off, h.dark = false, false
	h.mu.Unlock()
	if !off {
		return nil
	}
	file := filepath.Join(h.dir, "boot_id")
	_, err := os.Stat(file)
	first := errors.Is(err, os.ErrNotExist)
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	text := fmt.Sprintf("%x-%x-%x-%x-%x\n", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("switch host %s on: %w", h.Name, err)
	}
	if first {
		if err := h.keeper.do(func() error { return unix.Mount(file, bootID, "", unix.MS_BIND, "") }); err != nil {
			return fmt.Errorf("give host %s a boot ID of its own: %w", h.Name, err)
		}
	}
	return h.lab.LinkUp(h.Name)
}

// Off reports whether the host's power was cut.
func (h *Host) Off() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}

// Dark reports whether all of it has ended since, as it does at once where power is
// more than a word: a process that waits for a frozen disk can't be ended here.
func (h *Host) Dark() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dark
}
