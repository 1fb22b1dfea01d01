package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The segment every host is on. Host number n (two decimal digits) has the
// addresses 10.77.0.n and fd77::n and the MAC 02:77:00:00:00:n, the digits of
// n being the same in all three.
const (
	prefix4 = 24
	prefix6 = 64

	firstServer  = 11 // alpha is 11, beta 12, …
	clientNumber = 91
	maxServers   = 9
)

// iface is the name of every host's only link to the segment.
const iface = "eth0"

// bridgeName is the bridge in the switch namespace; its ports are named after
// the hosts they lead to.
const bridgeName = "br-lab"

// DefaultVIPs returns the addresses the lab leaves free for a cluster, one of
// each family.
func DefaultVIPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("fd77::100")}
}

func hostAddr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}) }

func hostAddr6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: hexDigits(n)})
}

func hostMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x77, 0, 0, 0, hexDigits(n)}
}

// hexDigits returns the number whose hexadecimal digits are n's decimal ones.
func hexDigits(n int) byte { return byte(n/10<<4 | n%10) }

// fabric is the switch: a namespace with a bridge and one port a host.
type fabric struct {
	ns  *namespace
	nl  *netlink.Handle
	bri netlink.Link
}

func newFabric() (_ *fabric, err error) {
	f := &fabric{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if f.ns, err = newNamespace(); err != nil {
		return nil, err
	}
	if f.nl, err = prepare(f.ns); err != nil {
		return nil, err
	}
	// Snooping would drop multicast to hosts whose membership report the
	// bridge missed, and neighbour discovery is multicast.
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	f.bri = &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := f.nl.LinkAdd(f.bri); err != nil {
		return nil, fmt.Errorf("create the bridge (needs a kernel with CONFIG_BRIDGE): %w", err)
	}
	if err := f.nl.LinkSetUp(f.bri); err != nil {
		return nil, fmt.Errorf("set the bridge up: %w", err)
	}
	return f, nil
}

// prepare makes a new namespace usable and returns a netlink handle for it.
func prepare(ns *namespace) (*netlink.Handle, error) {
	// Inherited by links created from now on: lab addresses are unique and
	// must be usable at once, without duplicate address detection (RFC 4862
	// section 5.4), and nobody here answers router solicitations.
	err := ns.do(func() error {
		return errors.Join(
			sysctl("net/ipv6/conf/default/accept_dad", "0"),
			sysctl("net/ipv6/conf/all/accept_dad", "0"),
			sysctl("net/ipv6/conf/default/accept_ra", "0"),
		)
	})
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(ns.fd, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in a network namespace: %w", err)
	}
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("set the loopback link up: %w", err)
	}
	return h, nil
}

// attach gives a prepared host its link to the segment and its addresses.
// The switch knows the host's namespace by the host's number from now on
// (RTM_NEWNSID), which is how the observer tells hosts apart.
func (f *fabric) attach(h *Host) error {
	if err := f.nl.SetNetNsIdByFd(int(h.ns.fd), h.number); err != nil {
		return fmt.Errorf("number the namespace of host %s: %w", h.Name, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = h.Name
	attrs.MasterIndex = f.bri.Attrs().Index
	veth := netlink.NewVeth(attrs)
	veth.PeerName = iface
	veth.PeerHardwareAddr = h.MAC
	veth.PeerNamespace = netlink.NsFd(h.ns.fd)
	if err := f.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect host %s to the bridge: %w", h.Name, err)
	}
	if err := f.nl.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set the switch port of host %s up: %w", h.Name, err)
	}
	eth, err := h.nl.LinkByName(iface)
	if err == nil {
		err = h.nl.LinkSetUp(eth)
	}
	if err != nil {
		return fmt.Errorf("set %s of host %s up: %w", iface, h.Name, err)
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(h.V4, prefix4), netip.PrefixFrom(h.V6, prefix6)} {
		if err := h.AddAddress(p, Forever); err != nil {
			return err
		}
	}
	return nil
}

// setPort sets the switch's end of a host's link up or down; the host sees
// its carrier come or go.
func (f *fabric) setPort(host string, up bool) error {
	port, err := f.nl.LinkByName(host)
	if err != nil {
		return fmt.Errorf("find the switch port of host %s: %w", host, err)
	}
	set := f.nl.LinkSetDown
	if up {
		set = f.nl.LinkSetUp
	}
	if err := set(port); err != nil {
		return fmt.Errorf("set the switch port of host %s up=%t: %w", host, up, err)
	}
	return nil
}

func (f *fabric) close() error {
	if f.nl != nil {
		f.nl.Close()
	}
	if f.ns == nil {
		return nil
	}
	return f.ns.close()
}
