package simtest

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"had/internal/clock"
)

// kernelGate is the packet filter of a host: it outlives every process, and a
// power cut empties it. An address that it guards is heard of only while the
// deadline of the address's epoch lies ahead.
type kernelGate struct {
	h *host

	mu       sync.Mutex
	guarded  map[netip.Addr]uint64 // the epoch each was admitted in
	epoch    uint64
	shut     uint64 // this epoch and all before it are over
	deadline clock.Instant
	partly   bool // it isn't on every interface
}

func newKernelGate(h *host) *kernelGate {
	return &kernelGate{h: h, guarded: map[netip.Addr]uint64{}}
}

// clear is what a boot finds.
func (k *kernelGate) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.guarded)
	k.epoch, k.shut, k.deadline = 0, 0, 0
}

// passes reports whether packets of an address pass now.
func (k *kernelGate) passes(addr netip.Addr) bool {
	if k == nil {
		return true
	}
	now := k.h.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	epoch, guarded := k.guarded[addr]
	return !guarded || epoch == k.epoch && epoch > k.shut && now.Before(k.deadline) || k.h.w.layout.tamper.leakyGate
}

// openGate is a gate in the hands of a process.
type openGate struct {
	gate *kernelGate
	by   *life
}

var errShut = errors.New("simulation: the epoch is shut")

func (g *openGate) Admit(epoch uint64, addrs []netip.Addr) error {
	if err := g.by.midCall(); err != nil {
		return err
	}
	k := g.gate
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case epoch <= k.shut:
		return errShut
	case epoch < k.epoch:
		return errors.New("simulation: the gate is in a later epoch")
	case epoch > k.epoch:
		k.epoch, k.deadline = epoch, 0
	}
	for _, a := range addrs {
		k.guarded[a] = epoch
	}
	return nil
}

func (g *openGate) Extend(epoch uint64, until clock.Instant) error {
	if err := g.by.midCall(); err != nil {
		return err
	}
	k := g.gate
	k.mu.Lock()
	if epoch != k.epoch {
		k.mu.Unlock()
		return errors.New("simulation: the gate is in another epoch")
	}
	k.deadline = max(k.deadline, until)
	shut := epoch <= k.shut
	k.mu.Unlock()
	if shut {
		return errShut
	}
	k.h.w.checker.heard(k.h.name)
	return nil
}

func (g *openGate) Shut(epoch uint64) {
	if g.by.midCall() != nil {
		return
	}
	g.gate.mu.Lock()
	defer g.gate.mu.Unlock()
	g.gate.shut = max(g.gate.shut, epoch)
}

func (g *openGate) Forget(epoch uint64, addrs []netip.Addr) error {
	if err := g.by.midCall(); err != nil {
		return err
	}
	k := g.gate
	k.mu.Lock()
	for _, a := range addrs {
		if k.guarded[a] <= epoch {
			delete(k.guarded, a)
		}
	}
	k.mu.Unlock()
	k.h.w.checker.heard(k.h.name)
	return nil
}

func (g *openGate) Guarded() ([]netip.Addr, error) {
	if err := g.by.alive(); err != nil {
		return nil, err
	}
	g.gate.mu.Lock()
	defer g.gate.mu.Unlock()
	return slices.SortedFunc(maps.Keys(g.gate.guarded), netip.Addr.Compare), nil
}

func (g *openGate) Problem() error {
	g.gate.mu.Lock()
	defer g.gate.mu.Unlock()
	if g.gate.partly {
		return errors.New("simulation: the gate is not on every interface")
	}
	return nil
}
