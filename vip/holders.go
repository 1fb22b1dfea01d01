package vip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Holders asks the links who has the addresses, as any host asks before it talks to
// one. Unlike Conflicts it doesn't look like the beginning of a takeover, so hosts
// that ask at the same time, or are about to take over, are not disturbed. On a
// link where this host has no address of its own it can't ask; the error says so.
//
// Answers from this host's own MACs and from known are left out. That nobody
// answers proves nothing.
func (m *Manager) Holders(ctx context.Context, addrs []Address, window time.Duration, known []net.HardwareAddr) ([]Conflict, error) {
	own, err := m.ownAddresses(addrs)
	if err != nil {
		return nil, err
	}
	return m.ask(ctx, addrs, window, known, func(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
		from, ok := own[ownKey{mac.String(), addr.Is4()}]
		if !ok {
			return nil, fmt.Errorf("ask who has %s: this host has no address of that family on the interface %s", addr, mac)
		}
		return question(from, addr, mac)
	})
}

type ownKey struct {
	mac string
	v4  bool
}

// ownAddresses returns with which addresses of its own this host can ask: one of a
// subnet, as its kernel would (RFC 4861 §7.2.2).
func (m *Manager) ownAddresses(addrs []Address) (map[ownKey]netip.Addr, error) {
	own, looked := map[ownKey]netip.Addr{}, map[string]bool{}
	for _, a := range addrs {
		if looked[a.Interface] {
			continue
		}
		looked[a.Interface] = true
		link, err := linkByName(m.kernel.handle, a.Interface)
		if err != nil {
			return nil, err
		}
		all, err := m.kernel.handle.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", a.Interface, err)
		}
		for _, l := range all {
			ip, ok := netip.AddrFromSlice(l.IP)
			ip = ip.Unmap()
			ones, bits := l.Mask.Size()
			key := ownKey{link.Attrs().HardwareAddr.String(), ip.Is4()}
			_, has := own[key]
			if !ok || has || ones == bits || l.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
				continue
			}
			own[key] = ip
		}
	}
	return own, nil
}
