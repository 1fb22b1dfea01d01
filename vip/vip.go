// Package vip puts virtual addresses into this host's kernel for as long as a
// lease allows, and no longer: every address carries a lifetime after which
// the kernel removes it by itself. The package also announces addresses to
// the network's neighbours, asks the network whether somebody else answers
// for one, and reports when something else changes an address or a link.
//
// It knows nothing of why an address is held. Callers bring a deadline; what
// the deadline means and why it is safe is theirs. DESIGN.md says what the
// lifetime covers and what it doesn't.
//
// Everything here needs CAP_NET_ADMIN and CAP_NET_RAW (capabilities(7)) in the
// network namespace of the calling thread.
package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Address is a host address on an interface. In the kernel it always has the
// full prefix length, /32 or /128.
type Address struct {
	Addr      netip.Addr
	Interface string // the kernel's name of it, as in ip-link(8)
}

// String renders the address as people write it: "192.0.2.10 on eth0".
func (a Address) String() string { return a.Addr.String() + " on " + a.Interface }

// Addrs returns the addresses without their interfaces, in order.
func Addrs(of []Address) []netip.Addr {
	out := make([]netip.Addr, len(of))
	for i, a := range of {
		out[i] = a.Addr
	}
	return out
}

// bits is the prefix length of a host address: 32 or 128.
func (a Address) bits() int { return a.Addr.BitLen() }

// Presence is what a look at the kernel says about an address.
type Presence int

// Unknown is the zero value, so that an answer nobody gave never reads as
// "inactive".
const (
	Unknown Presence = iota
	Inactive
	Active
)

func (p Presence) String() string {
	switch p {
	case Inactive:
		return "inactive"
	case Active:
		return "active"
	default:
		return "unknown"
	}
}

// Wanted is an address that is to be resolved, with the interface it is to be
// on; "" is for Resolve to choose.
type Wanted struct {
	Addr      netip.Addr
	Interface string
}

// Resolved is what became of a Wanted: the address, or why it can't be had.
type Resolved struct {
	Address
	Err error
}

// Resolve returns the addresses as this host would hold them, in the order in
// which they are wanted. Where the interface is "" it chooses the one with the
// most specific subnet that contains the address, the lowest interface index
// where several do; host addresses (/32, /128) name no subnet and are ignored.
// Interfaces may be down. It looks at the kernel once for all of them.
func Resolve(want []Wanted) []Resolved {
	out := make([]Resolved, len(want))
	links, err := netlink.LinkList()
	if err != nil {
		err = fmt.Errorf("list this host's interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	r := resolver{names: names, subnets: map[int][]netlink.Addr{}}
	for i, w := range want {
		if err != nil {
			out[i].Err = err
			continue
		}
		out[i].Address, out[i].Err = r.resolve(w)
	}
	return out
}

// resolver keeps what was seen of the kernel during one Resolve.
type resolver struct {
	names   map[int]string         // of the interfaces, by index
	subnets map[int][]netlink.Addr // by family, each listed when it is first asked for
}

func (r resolver) resolve(w Wanted) (Address, error) {
	addr := w.Addr.Unmap()
	if err := check(addr); err != nil {
		return Address{}, err
	}
	if w.Interface != "" {
		for _, name := range r.names {
			if name == w.Interface {
				return Address{Addr: addr, Interface: name}, nil
			}
		}
		// Perhaps by one of its other names, or not at all.
		link, err := linkByName(&netlink.Handle{}, w.Interface)
		if err != nil {
			return Address{}, err
		}
		return Address{Addr: addr, Interface: link.Attrs().Name}, nil
	}
	index, err := r.subnetOwner(addr)
	if err != nil {
		return Address{}, err
	}
	name, ok := r.names[index]
	if !ok {
		return Address{}, fmt.Errorf("look up interface %d, whose subnet contains %s: it has just come or gone", index, addr)
	}
	return Address{Addr: addr, Interface: name}, nil
}

// check refuses what can't be one host's address on the network: Presence
// looks on every interface, where a link-local address may well be several
// hosts'.
func check(addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return errors.New("no address was given")
	case addr.Zone() != "", addr.Is6() && addr.IsLinkLocalUnicast():
		return fmt.Errorf("%s is link-local: a virtual address must mean one host wherever it is seen", addr)
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s isn't the address of one host", addr)
	}
	return nil
}

// subnetOwner returns the index of the interface whose subnet contains addr.
func (r resolver) subnetOwner(addr netip.Addr) (int, error) {
	family := familyOf(addr)
	assigned, listed := r.subnets[family]
	if !listed {
		var err error
		if assigned, err = listAddrs(netlink.AddrList, family); err != nil {
			return 0, fmt.Errorf("list this host's subnets to find the one of %s: %w", addr, err)
		}
		// An owner has as many host addresses as the policy, and they name none.
		assigned = slices.DeleteFunc(assigned, func(a netlink.Addr) bool {
			p, ok := prefix(subnetOf(a))
			return !ok || p.IsSingleIP()
		})
		r.subnets[family] = assigned
	}
	best, bestBits := 0, -1
	for _, a := range assigned {
		p, ok := prefix(subnetOf(a))
		if !ok || !p.Contains(addr) {
			continue
		}
		if p.Bits() > bestBits || p.Bits() == bestBits && a.LinkIndex < best {
			best, bestBits = a.LinkIndex, p.Bits()
		}
	}
	if bestBits < 0 {
		return 0, fmt.Errorf("no interface has a subnet that contains %s: name one with `interface = \"…\"`", addr)
	}
	return best, nil
}

func subnetOf(a netlink.Addr) *net.IPNet {
	if a.Peer != nil { // the prefix length is the peer's (ip-address(8))
		return a.Peer
	}
	return a.IPNet
}

// Carrier reports whether the interface is up and its lower layer has a link
// (IFF_UP and IFF_LOWER_UP, netdevice(7)).
func (m *Manager) Carrier(iface string) (bool, error) { return carrier(m.kernel.handle, iface) }

func carrier(h *netlink.Handle, iface string) (bool, error) {
	link, err := linkByName(h, iface)
	if err != nil {
		return false, err
	}
	return hasCarrier(link.Attrs().RawFlags), nil
}

func hasCarrier(flags uint32) bool {
	const up = unix.IFF_UP | unix.IFF_LOWER_UP
	return flags&up == up
}

// HardwareAddrs returns the 6-byte MAC of every interface that has one, each
// once, in order of interface index.
func HardwareAddrs() ([]net.HardwareAddr, error) {
	return hardwareAddrs(netlink.LinkList)
}

func hardwareAddrs(list func() ([]netlink.Link, error)) ([]net.HardwareAddr, error) {
	links, err := list()
	if err != nil {
		return nil, fmt.Errorf("list this host's interfaces for their MACs: %w", err)
	}
	slices.SortFunc(links, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	var macs []net.HardwareAddr
	for _, l := range links {
		mac := l.Attrs().HardwareAddr
		known := slices.ContainsFunc(macs, func(m net.HardwareAddr) bool { return string(m) == string(mac) })
		if len(mac) == 6 && string(mac) != "\x00\x00\x00\x00\x00\x00" && !known {
			macs = append(macs, mac)
		}
	}
	return macs, nil
}

// linkByName finds an interface or says which there are. A handle without
// sockets asks in the network namespace of the calling thread.
func linkByName(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, fmt.Errorf("interface %q doesn't exist on this host: it has %s", name, interfaceNames(h))
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %q: %w", name, err)
	}
	return link, nil
}

// interfaceNames lists the interfaces for an error message.
func interfaceNames(h *netlink.Handle) string {
	links, err := h.LinkList()
	if err != nil {
		return "interfaces that can't be listed: " + err.Error()
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// prefix converts a prefix as netlink gives it.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	// A v4 address in 16-byte form still has a 4-byte mask here.
	return netip.PrefixFrom(ip.Unmap(), ones), true
}
