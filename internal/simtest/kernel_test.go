package simtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/vip"
)

// kernel is the address table of a host. It outlives the daemon: what nobody
// renews or removes stays until its lifetime is over, and up to
// cluster.KernelExpirySlack longer.
type kernel struct {
	h    *host
	gate *kernelGate // nil: this host can't run one

	mu     sync.Mutex
	noLink bool
}

func (k *kernel) carrier() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.noLink
}

// link pulls the cable, or plugs it in.
func (k *kernel) link(up bool) {
	k.mu.Lock()
	k.noLink = !up
	k.mu.Unlock()
	k.notify()
}

// notify is what the daemon's netlink subscription does.
func (k *kernel) notify() {
	if p := k.h.process(); p != nil {
		if c, _ := p.ready(); c != nil {
			c.KernelChanged()
		}
	}
}

// clear empties the table: the host was switched off.
func (k *kernel) clear() {
	k.h.w.checker.removeAll(k.h.name)
	if k.gate != nil {
		k.gate.clear()
	}
}

// halve takes the gate off an interface, or puts it back.
func (k *kernel) halve(partly bool) {
	if k.gate == nil {
		return
	}
	k.gate.mu.Lock()
	k.gate.partly = partly
	k.gate.mu.Unlock()
	k.notify()
}

// expiry is when an address set now goes away by itself.
func (k *kernel) expiry() time.Time {
	slack := k.h.draw(cluster.KernelExpirySlack)
	if k.h.draw(2) == 0 {
		slack = cluster.KernelExpirySlack
	}
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	// The kernel counts with the host's clock.
	return time.Now().Add(time.Duration(float64(cluster.AddressLifetime+slack) / k.h.rate))
}

// addresses is failover's way to the kernel; it behaves as vip.Manager does.
type addresses struct {
	p *process

	mu   sync.Mutex
	told map[netip.Addr]bool
	held map[vip.Address]bool
}

func (a *addresses) Set(ctx context.Context, want []vip.Address, deadline func() clock.Instant) (vip.Change, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return vip.Change{}, err
	}
	if err := a.p.alive(); err != nil {
		return vip.Change{}, err
	}
	checker, name := a.p.h.w.checker, a.p.h.name
	for _, w := range want {
		a.told[w.Addr] = true
	}
	for addr := range a.told {
		if !slices.ContainsFunc(want, func(w vip.Address) bool { return w.Addr == addr }) {
			checker.remove(name, addr)
		}
	}
	if at := deadline(); !a.p.clock().Before(at) {
		return vip.Change{}, vip.ErrDeadline
	}
	if before := a.p.h.w.layout.tamper.beforeSet; before != nil {
		before(a.p)
	}
	var change vip.Change
	held := map[vip.Address]bool{}
	for _, w := range want {
		if err := a.p.midCall(); err != nil {
			return vip.Change{}, err
		}
		there := checker.present(name, w.Addr)
		checker.set(a.p, w.Addr, a.p.h.kernel.expiry())
		held[w] = true
		switch {
		case there:
		case a.held[w]:
			change.Reasserted = append(change.Reasserted, w)
		default:
			change.Added = append(change.Added, w)
		}
	}
	a.held = held
	if err := a.p.midCall(); err != nil {
		return vip.Change{}, err
	}
	if at := deadline(); !a.p.h.now().Before(at) { // the call took too long
		for _, w := range want {
			checker.remove(name, w.Addr)
		}
		a.held = map[vip.Address]bool{}
		return vip.Change{}, vip.ErrDeadline
	}
	return change, nil
}

func (a *addresses) Remove(_ context.Context, gone []vip.Address) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.p.alive(); err != nil {
		return err
	}
	for _, g := range gone {
		if err := a.p.midCall(); err != nil {
			return err
		}
		a.told[g.Addr] = true
		delete(a.held, g)
		a.p.h.w.checker.remove(a.p.h.name, g.Addr)
	}
	return nil
}

func (a *addresses) Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error) {
	at := map[netip.Addr]vip.Presence{}
	if err := a.p.alive(); err != nil {
		return at, fmt.Errorf("look for %v: %w", addrs, err)
	}
	for _, w := range addrs {
		at[w] = vip.Inactive
		if a.p.h.w.checker.present(a.p.h.name, w) {
			at[w] = vip.Active
		}
	}
	return at, nil
}

func (a *addresses) Announce(context.Context, []vip.Address) error { return a.p.alive() }
