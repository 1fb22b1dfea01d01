// Package gate closes the packet path of virtual addresses at a deadline,
// whatever has become of the processes of had: two BPF programs on every
// interface (tc clsact) drop a guarded address's packets unless its epoch's
// deadline on CLOCK_BOOTTIME is ahead. DESIGN.md has the rules and what was
// rejected.
//
// A gate belongs to the network namespace of the thread that opens it. Open,
// Find, Uninstall, Check and Run are called from that namespace.
package gate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
)

var (
	// ErrUnavailable says that this host can't run a gate; the error around
	// it says what it lacks.
	ErrUnavailable = errors.New("the packet gate isn't available on this host")

	// ErrNotInstalled says that no interface has a gate of the name.
	ErrNotInstalled = errors.New("no gate of this name is installed")

	// ErrShut says that an epoch was shut, which nothing undoes.
	ErrShut = errors.New("the epoch is shut")
)

// Config says which gate.
type Config struct {
	// Name tells the gates of a host apart. Epochs of a name only grow, so it
	// has to change when they begin again: a cluster's ID does. At most 200
	// bytes.
	Name   string
	Logger hclog.Logger
}

// Control is what every process may do to a gate of this host, at any time and
// concurrently with all that others do: the one that says no wins. What it
// does is in the kernel, shared by all that have the gate open, and outlives
// them.
//
// Methods are safe for concurrent use, but for Close, which comes last.
type Control struct {
	maps *maps

	changing sync.Mutex // keys are changed by one call after another
}

// Gate is a gate in the hands of the one process that decides when it is open:
// the daemon. It keeps it on every interface, too.
type Gate struct {
	Control
	logger hclog.Logger
	hooks  *hooks

	// turning is held where the epoch is read or changed together with the
	// deadline: a late Extend must not give its deadline to the next epoch.
	turning sync.Mutex

	problem atomic.Pointer[error] // see Problem; nil: none
	logged  string                // the problem Run has logged; Run's own
}

// Open takes over the gate that an earlier run left, with what is guarded, or
// makes a new one in which nothing is. It loads the programs anew and puts
// them in place of the earlier ones one by one, without a moment in between,
// and returns when they are attached to every interface. Where that can't be
// done the error is ErrUnavailable.
func Open(c Config) (*Gate, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	// Kernels before 5.11 count maps as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, unavailable("it needs CAP_SYS_RESOURCE: run had as root", err)
	}
	h, err := openHooks(c.Name)
	if err != nil {
		return nil, err
	}
	g := &Gate{logger: c.Logger, hooks: h}
	if err := g.install(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Gate) install() error {
	var err error
	g.maps, err = g.hooks.findMaps()
	if errors.Is(err, ErrNotInstalled) {
		if g.maps, err = newMaps(); err != nil {
			return explain(err)
		}
	}
	if err != nil {
		return err
	}
	if err := g.hooks.load(g.maps); err != nil {
		return explain(err)
	}
	if _, err := g.hooks.attachAll(); err != nil {
		return explain(err)
	}
	return nil
}

// Find opens a gate that a daemon has opened before, and changes nothing.
// Without such a gate the error is ErrNotInstalled.
func Find(c Config) (*Control, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	h, err := openHooks(c.Name)
	if err != nil {
		return nil, err
	}
	defer h.close()
	m, err := h.findMaps()
	if err != nil {
		return nil, err
	}
	return &Control{maps: m}, nil
}

func (c Config) check() error {
	const longest = 200 // a filter's name has room for 255 (linux/tc_act/tc_bpf.h)
	if c.Name == "" || len(c.Name) > longest {
		return fmt.Errorf("gate name %q: it must have 1 to %d bytes", c.Name, longest)
	}
	return nil
}

// Admit guards the addresses, in an epoch. It returns when no packet of theirs
// passes but by a deadline of that epoch: for an epoch that wasn't admitted
// before, not until Extend. Only then may they be added to an interface.
// Addresses of earlier epochs are closed from now on.
//
// The error is ErrShut when the epoch has been shut. After any other error
// some of the addresses may be guarded.
func (g *Gate) Admit(epoch uint64, addrs []netip.Addr) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !a.IsValid() }) {
		return fmt.Errorf("admit %v in epoch %d: one is no address", addrs, epoch)
	}
	if err := g.turn(epoch); err != nil {
		return fmt.Errorf("admit %d addresses: %w", len(addrs), err)
	}
	if len(addrs) == 0 {
		return nil
	}
	keys, epochs := make([][16]byte, len(addrs)), make([]uint64, len(addrs))
	for i, a := range addrs {
		keys[i], epochs[i] = a.As16(), epoch
	}
	if n, err := g.maps.guarded.BatchUpdate(keys, epochs, nil); err != nil {
		return fmt.Errorf("guard %d addresses in epoch %d (a gate holds up to %d), stopped after %d: %w", len(addrs), epoch, maxGuarded, n, err)
	}
	return nil
}

// turn makes this the gate's epoch, closed if it wasn't that before.
func (g *Gate) turn(epoch uint64) error {
	g.turning.Lock()
	defer g.turning.Unlock()
	w := g.maps.words
	if shut := w.shut.Load(); epoch <= shut {
		return fmt.Errorf("epoch %d: %w (all up to %d are)", epoch, ErrShut, shut)
	}
	switch current := w.epoch.Load(); {
	case epoch < current:
		return fmt.Errorf("epoch %d is over: the gate is in epoch %d", epoch, current)
	case epoch > current: // the order matters: leaseWords
		w.deadline.Store(0)
		w.epoch.Store(epoch)
	}
	return nil
}

// Extend lets the epoch's addresses pass until the deadline, or until one set
// before if that is later. It is a write to memory, whatever the number of
// addresses. An epoch that isn't the one admitted last is refused, and one
// that was shut with ErrShut.
func (g *Gate) Extend(epoch uint64, until clock.Instant) error {
	g.turning.Lock()
	defer g.turning.Unlock()
	w := g.maps.words
	if current := w.epoch.Load(); epoch != current {
		return fmt.Errorf("extend epoch %d: the gate is in epoch %d", epoch, current)
	}
	raise(&w.deadline, uint64(max(until, 0)))
	// The program looks itself; this is for the caller to know.
	if shut := w.shut.Load(); epoch <= shut {
		return fmt.Errorf("extend epoch %d: %w (all up to %d are)", epoch, ErrShut, shut)
	}
	return nil
}

// Shut closes this epoch and all before it, at once and for good: no Admit or
// Extend of it succeeds any more, nor has one that is under way an effect. It
// is a write to memory, which can't fail.
func (c *Control) Shut(epoch uint64) { raise(&c.maps.words.shut, epoch) }

// Forget stops guarding addresses, which opens the path of packets to them
// and from them. The caller has proven that no interface of this host has
// them. Addresses admitted in a later epoch than this one stay guarded; that
// one isn't guarded is fine.
//
// A process that forgets addresses while another admits them in a later epoch
// may take the new guard away: the guard first ends the daemon that could.
func (c *Control) Forget(epoch uint64, addrs []netip.Addr) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	for _, a := range addrs {
		key := a.As16()
		var admitted uint64
		err := c.maps.guarded.Lookup(key, &admitted)
		if err == nil && admitted <= epoch {
			err = c.maps.guarded.Delete(key)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("stop guarding %s: %w", a, err)
		}
	}
	return nil
}

// Lease is what the gate was told of epochs.
type Lease struct {
	Epoch uint64        // admitted last; 0 before the first
	Until clock.Instant // its deadline; 0 before the first Extend
	Shut  uint64        // this epoch and all before it are over
}

// Open reports whether addresses of the lease's epoch pass at an instant.
func (l Lease) Open(at clock.Instant) bool { return l.Epoch > l.Shut && at.Before(l.Until) }

// Lease reads the lease, which another process may change at the same time.
func (c *Control) Lease() Lease {
	w := c.maps.words
	until := clock.Instant(w.deadline.Load()) // before the epoch: leaseWords
	return Lease{Epoch: w.epoch.Load(), Until: until, Shut: w.shut.Load()}
}

// Guarded lists the guarded addresses, in order. They were admitted in the
// lease's epoch or before.
func (c *Control) Guarded() ([]netip.Addr, error) {
	found, err := c.maps.list()
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(found))
	for a := range found {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}

// Close lets go of the gate and leaves it in the kernel as it is.
func (c *Control) Close() { c.maps.close() }

// Close lets go of the gate and leaves it in the kernel as it is. Run has
// returned.
func (g *Gate) Close() {
	g.hooks.close()
	if g.maps != nil { // Open may have failed before
		g.Control.Close()
	}
}

// Uninstall takes a gate off every interface; its maps go with it when no
// process has it open. What others have on the interfaces stays, the clsact
// qdisc too, which they may have come to use. While addresses are guarded it
// refuses, because they would be open then: prove them gone and Forget them.
// Without such a gate it does nothing.
func Uninstall(c Config) error {
	g, err := Find(c)
	if errors.Is(err, ErrNotInstalled) {
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := g.Guarded()
	g.Close()
	if err != nil {
		return err
	}
	if len(addrs) > 0 {
		return fmt.Errorf("uninstall gate %s: it guards %v, which must be proven gone from this host first", c.Name, addrs)
	}
	h, err := openHooks(c.Name)
	if err != nil {
		return err
	}
	defer h.close()
	return h.detachAll()
}
