package simtest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"had/internal/fence"
	"had/internal/fence/fencetest"
	"had/storage"
)

// The disks of volumes have persistent reservations where the policy's fence is
// "reservation". They are no host's: a power cut of a host, or of the array, takes
// nothing from them.

// nexus is a host to a disk. After some boots it is another: its session has a new
// ISID, and what it had registered stays behind.
func (h *host) nexus() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return 1 + h.w.index(h.name) + len(names)*(h.boots/2)
}

// Reserve implements guard.Volumes.
func (m mounter) Reserve(ctx context.Context, vs []storage.Volume, key uint64) error {
	return m.g.h.shelf.take(ctx, m.g.life, vs, key)
}

// Evict implements guard.Volumes.
func (m mounter) Evict(ctx context.Context, vs []storage.Volume, key uint64) error {
	if m.g.h.w.layout.tamper.lyingDisks {
		return nil
	}
	return m.g.h.shelf.take(ctx, m.g.life, vs, key)
}

// take takes the disks of volumes, as the guard's mounter does.
func (s *shelf) take(ctx context.Context, by *life, vs []storage.Volume, key uint64) error {
	return s.employ(ctx, by, func(enter func(step) error) error {
		for _, look := range s.unusedSteps(vs) {
			if err := enter(look); err != nil && !s.h.w.layout.tamper.blind {
				return err
			}
		}
		for _, v := range vs {
			if err := fence.Take(pathTo{s, v.Name, enter}, fence.Key(key), fence.Abort); err != nil {
				return fmt.Errorf("take the disk of %s: %w", v.Name, err)
			}
		}
		return nil
	})
}

// pathTo is a host's way to a volume's disk. Each command is a call of the kernel.
type pathTo struct {
	s     *shelf
	v     string
	enter func(step) error
}

func (p pathTo) command(what string, do func(d fencetest.Path) error) error {
	return p.enter(step{most: secureTakes, do: func(t trouble) error {
		if err := t.unproven(p.v); err != nil {
			return err
		}
		return p.s.h.w.checker.command(p.s.h, p.v, what, do)
	}})
}

func (p pathTo) Read() (r fence.Reservation, err error) {
	return r, p.command("", func(d fencetest.Path) error {
		r, err = d.Read()
		return err
	})
}

func (p pathTo) Register(k fence.Key) error {
	return p.command("registers "+k.String(), func(d fencetest.Path) error { return d.Register(k) })
}

func (p pathTo) Unregister(k fence.Key) error {
	return p.command("unregisters "+k.String(), func(d fencetest.Path) error { return d.Unregister(k) })
}

func (p pathTo) Reserve(k fence.Key) error {
	return p.command("reserves with "+k.String(), func(d fencetest.Path) error { return d.Reserve(k) })
}

func (p pathTo) Preempt(k, other fence.Key, u fence.UnderWay) error {
	return p.command("preempts "+other.String(), func(d fencetest.Path) error { return d.Preempt(k, other, u) })
}

// command has a disk carry out a host's command.
func (c *checker) command(h *host, v, what string, do func(d fencetest.Path) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.disks[v]
	if d == nil {
		return errors.New("simulation: the disk of " + v + " has no reservations")
	}
	err := do(d.Path(h.nexus()))
	if what != "" {
		c.w.diary.logged("%s: %s at the disk of %s: %v", h.name, what, v, err)
		c.disksHold()
	}
	return err
}

// losePower is a loss of power of the array that has the disks. They keep what was
// registered (APTPL), unless that is broken.
func (c *checker) losePower() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w.layout.tamper.forgetful {
		for _, d := range c.disks {
			d.LosePower()
		}
	}
	c.disksHold()
}

// disksHold checks what is mounted after a change of a disk: who couldn't write may
// do so now. It is called with mu held, as are the others here.
func (c *checker) disksHold() {
	c.look(nil)
	c.storageHolds()
	for v, d := range c.disks {
		c.oneWriter(v)
		if d.Vacated {
			c.violate("the disk of %s is without a reservation", v)
		}
	}
}

// oneWriter checks that a volume is mounted on one host, of those that can write to it.
func (c *checker) oneWriter(v string) {
	var on []string
	for _, name := range names {
		if m, there := c.mounts[name][v]; there && c.mayWrite(name, v) {
			on = append(on, fmt.Sprintf("%s for epoch %d", name, m.epoch))
		}
	}
	if len(on) > 1 {
		c.violate("%s is mounted, or about to be, on %v", v, on)
	}
}

// mayWrite reports whether the disk of a volume takes what a host writes.
func (c *checker) mayWrite(name, v string) bool {
	d := c.disks[v]
	return d == nil || d.Accepts(c.w.host(name).nexus())
}

func (c *checker) accepts(name, v string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayWrite(name, v)
}

// arrayLosesPower is the array's power cut: nobody gets an answer before it is back.
func (w *world) arrayLosesPower() {
	w.checker.losePower()
	for _, h := range w.hosts {
		h.shelf.strike(trouble{hangs: true})
	}
}

func (w *world) arrayIsBack() {
	for _, h := range w.hosts {
		h.shelf.mend()
	}
}

// writable are the volumes that are mounted on a host and take its writes.
func (w *world) writable(name string) []string {
	there, _ := w.checker.mountedOn(name)
	return slices.DeleteFunc(there, func(v string) bool { return !w.checker.accepts(name, v) })
}
