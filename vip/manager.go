package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// ErrDeadline says that Set's deadline passed: that call added and renewed
// nothing, or removed again what it had (an error of that removal is joined).
var ErrDeadline = errors.New("the deadline for holding the addresses has passed")

// Config is what a Manager needs to know.
type Config struct {
	// Lifetime is how long the kernel keeps an address that nobody renews:
	// whole seconds, at least 1. The kernel's timer may add up to 1.5 s.
	Lifetime time.Duration

	Now clock.Source // of Set's deadlines; nil is clock.Now
}

// Manager holds addresses in the network namespace of the thread that made
// it; Announce and Conflicts must be called from that namespace too. Its
// methods may be called from several goroutines.
//
// Invariant: an address is in the kernel because of this manager only as a
// host address with a lifetime of at most Config.Lifetime.
type Manager struct {
	config  Config
	kernel  *kernel
	senders senders
	closing sync.WaitGroup // sockets that are being closed

	changed atomic.Bool // what Changed says, until a Set has looked

	mu    sync.Mutex
	told  map[netip.Addr]bool // every address ever named to Set or Remove
	held  map[Address]placed  // those the last Set put or kept in the kernel, and where
	trust int                 // how many more Sets may take it for granted that the kernel has just those
}

// lookEvery is how many Sets in a row may only renew what is there by the kernel's
// reports: to have it list its addresses costs more than to renew them.
const lookEvery = 10

// New opens the kernel's interface. Close frees it.
func New(config Config) (*Manager, error) {
	if config.Lifetime < time.Second || config.Lifetime%time.Second != 0 {
		return nil, fmt.Errorf("address lifetime is %s: the kernel counts in whole seconds, 1s at least", config.Lifetime)
	}
	if config.Now == nil {
		config.Now = clock.Now
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	return &Manager{config: config, kernel: k, told: map[netip.Addr]bool{}, held: map[Address]placed{}}, nil
}

// Close frees the sockets. It removes no address: what is held expires.
func (m *Manager) Close() {
	m.kernel.close()
	m.senders.close()
	m.closing.Wait()
}

// Change is what a Set found missing and added.
type Change struct {
	Added      []Address // new to this manager
	Reasserted []Address // set before and removed by something else
}

// Set makes the kernel hold exactly want of the addresses this manager was
// ever told of, each with a fresh lifetime. It is idempotent: acquiring,
// renewing and repairing are the same call.
//
// Addresses no longer wanted are removed whatever the time is. The wanted ones
// are added or renewed only while the clock reads less than what deadline
// returns, which is asked right before and right after each batch: it may move
// meanwhile, in either direction. Once it has passed, all that this call had
// set is removed again, and the error is ErrDeadline.
//
// What else the kernel has is looked at where want is new, after Changed, and every
// tenth time.
//
// An address that can't be set doesn't keep the others from being set; the
// error names each, and Change has what was done.
func (m *Manager) Set(ctx context.Context, want []Address, deadline func() clock.Instant) (Change, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return Change{}, fmt.Errorf("set %d addresses: %w", len(want), err)
	}
	goal := m.goal(want)
	present, err := m.present(goal)
	if err != nil {
		return Change{}, fmt.Errorf("look which addresses the kernel has: %w", err)
	}
	var unwanted []placed
	there := map[placed]bool{}
	for _, p := range present {
		there[p] = true
		if _, keep := goal.address[p]; !keep && !goal.unplaced[p.addr] && p.isHost() {
			unwanted = append(unwanted, p)
		}
	}
	removeErr := m.delete(unwanted)
	held := m.held
	m.held = make(map[Address]placed, len(want))
	set, setErr := m.renew(goal.targets, deadline)
	var change Change
	for _, p := range set {
		a := goal.address[p]
		_, before := held[a]
		switch {
		case there[p]:
		case before:
			change.Reasserted = append(change.Reasserted, a)
		default:
			change.Added = append(change.Added, a)
		}
		m.held[a] = p
	}
	err = errors.Join(goal.err, removeErr, setErr)
	if err != nil {
		m.trust = 0
	}
	return change, err
}

// Changed says that something may have been changed in the kernel: a Watcher has
// reported it. The next Set looks. It doesn't wait for one under way.
func (m *Manager) Changed() { m.changed.Store(true) }

// present returns where the kernel has any address that this manager was told of, as
// far as is known.
func (m *Manager) present(g goal) ([]placed, error) {
	if !m.changed.Swap(false) && m.trust > 0 && m.reached(g) {
		m.trust--
		return g.targets, nil
	}
	m.trust = 0
	present, err := m.kernel.find(m.told)
	if err == nil {
		m.trust = lookEvery - 1
	}
	return present, err
}

// reached reports whether the last Set has put into the kernel just what a goal is.
func (m *Manager) reached(g goal) bool {
	for p, a := range g.address {
		if m.held[a] != p {
			return false
		}
	}
	return g.err == nil && len(m.held) == len(g.address)
}

// goal is what a Set is to reach, in the kernel's terms.
type goal struct {
	targets  []placed // each once, in the caller's order
	address  map[placed]Address
	unplaced map[netip.Addr]bool // whose interface couldn't be looked up: left as they are
	err      error               // says why, of each
}

// goal looks up the interfaces' indexes each time: an interface that was taken
// away and came back has another one.
func (m *Manager) goal(want []Address) goal {
	g := goal{address: make(map[placed]Address, len(want)), unplaced: map[netip.Addr]bool{}}
	indexes := map[string]int{}
	for _, a := range want {
		if err := check(a.Addr); err != nil {
			g.err = errors.Join(g.err, fmt.Errorf("set an address on %s: %w", a.Interface, err))
			continue
		}
		m.told[a.Addr] = true
		index, ok := indexes[a.Interface]
		if !ok {
			var err error
			if index, err = m.kernel.index(a.Interface); err != nil {
				g.unplaced[a.Addr] = true
				g.err = errors.Join(g.err, fmt.Errorf("set %s: %w", a.Addr, err))
				continue
			}
			indexes[a.Interface] = index
		}
		p := placed{addr: a.Addr, index: index, bits: a.bits()}
		if _, twice := g.address[p]; !twice {
			g.address[p] = a
			g.targets = append(g.targets, p)
		}
	}
	return g
}

// renew adds or renews the targets while the deadline allows and returns
// those that are set. After the deadline it returns none, and ErrDeadline.
func (m *Manager) renew(targets []placed, deadline func() clock.Instant) ([]placed, error) {
	var set []placed
	var errs []error
	var tried []placed
	late := func() bool {
		at := deadline() // before the clock is read: nothing may pass in between
		return !m.config.Now().Before(at)
	}
	for batch := range slices.Chunk(targets, batchSize) {
		reqs := make([]*nl.NetlinkRequest, len(batch))
		for i, p := range batch {
			reqs[i] = setRequest(p, m.config.Lifetime)
		}
		if late() {
			return nil, errors.Join(ErrDeadline, m.delete(tried))
		}
		refused, err := m.kernel.batch.execute(reqs)
		tried = append(tried, batch...)
		if late() {
			return nil, errors.Join(ErrDeadline, m.delete(tried))
		}
		if err != nil {
			return set, errors.Join(append(errs, fmt.Errorf("set addresses: %w", err))...)
		}
		for i, p := range batch {
			if refused[i] == nil {
				set = append(set, p)
			} else {
				errs = append(errs, fmt.Errorf("set %s on %s: %w", p.addr, m.kernel.name(p.index), refused[i]))
			}
		}
	}
	return set, errors.Join(errs...)
}

// Remove deletes the addresses from every interface and looks whether they
// are gone: after nil, this host holds none of them. That an address isn't
// there is fine.
//
// Only host addresses are deleted. One that the host has with a shorter prefix
// is its own configuration, perhaps the way an administrator reaches it: that
// is an error that says so. A context that is done doesn't stop the removal,
// which never waits for anything but the kernel.
func (m *Manager) Remove(_ context.Context, addrs []Address) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trust = 0
	released := map[netip.Addr]bool{}
	for _, a := range addrs {
		m.told[a.Addr] = true
		released[a.Addr] = true
	}
	// First where they were put, without a look: nearly always that is all.
	var known []placed
	for a, p := range m.held {
		if released[a.Addr] {
			known = append(known, p)
			delete(m.held, a)
		}
	}
	err := m.delete(known)
	left, lookErr := m.kernel.find(released)
	if lookErr != nil {
		// A failed look must not keep an address up: delete it where it was
		// said to be.
		left = append(left, m.goal(addrs).targets...)
	}
	if elsewhere := slices.DeleteFunc(slices.Clone(left), func(p placed) bool { return !p.isHost() }); len(elsewhere) > 0 {
		err = errors.Join(err, m.delete(elsewhere))
		if lookErr == nil {
			left, lookErr = m.kernel.find(released)
		}
	}
	if lookErr != nil {
		return errors.Join(err, fmt.Errorf("verify that %d addresses are gone: %w", len(addrs), lookErr))
	}
	for _, p := range left {
		err = errors.Join(err, m.kernel.stillThere(p))
	}
	return err
}

// stillThere says what a person can do about an address that was not removed.
func (k *kernel) stillThere(p placed) error {
	if p.isHost() {
		return fmt.Errorf("%s is still on %s: something else adds it again; stop that first", p.addr, k.name(p.index))
	}
	return fmt.Errorf("%s is on %s as %s/%d, in the host's own configuration: take it out there, only had may assign it",
		p.addr, k.name(p.index), p.addr, p.bits)
}

// delete removes addresses in the form given. That one isn't there, or its
// interface isn't, is fine.
func (m *Manager) delete(targets []placed) error {
	var errs []error
	for batch := range slices.Chunk(targets, batchSize) {
		reqs := make([]*nl.NetlinkRequest, len(batch))
		for i, p := range batch {
			reqs[i] = deleteRequest(p)
		}
		refused, err := m.kernel.batch.execute(reqs)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove addresses: %w", err))
		}
		for i, err := range refused {
			if !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, fmt.Errorf("remove %s from %s: %w", batch[i].addr, m.kernel.name(batch[i].index), err))
			}
		}
	}
	return errors.Join(errs...)
}

// Presence looks for each address on all interfaces, with any prefix length:
// Linux answers for an address whichever of them has it. It is one look at the
// kernel, however many are asked for, and each has its answer. Beside an error
// that is Unknown, unless the address was seen all the same.
func (m *Manager) Presence(addrs []netip.Addr) (map[netip.Addr]Presence, error) {
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a] = true
	}
	found, err := m.kernel.find(wanted)
	absent := Inactive
	if err != nil {
		absent, err = Unknown, fmt.Errorf("look which addresses this host has: %w", err)
	}
	at := make(map[netip.Addr]Presence, len(addrs))
	for _, a := range addrs {
		at[a] = absent
	}
	for _, p := range found {
		at[p.addr] = Active
	}
	return at, err
}
