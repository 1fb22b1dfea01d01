package vip

import (
	"net"
	"net/netip"

	"had/internal/frame"
)

// ndHopLimit proves that a neighbour discovery packet comes from the same
// link: any other hop limit is ignored (RFC 4861 §7.1).
const ndHopLimit = 255

// frameOf makes the frame that is sent for an address from an interface with this
// hardware address.
type frameOf func(addr netip.Addr, mac net.HardwareAddr) ([]byte, error)

// announcement is the frame that tells the link that mac has addr now: an ARP
// announcement (RFC 5227 §3) or an unsolicited neighbour advertisement
// (RFC 4861 §7.2.6).
func announcement(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is4() {
		return arpRequest(mac, addr, addr)
	}
	return neighbourAdvertisement(mac, addr)
}

// probe is the frame that asks the link who has addr, without claiming it: an
// ARP probe (RFC 5227 §2.1.1) or the neighbour solicitation of duplicate
// address detection (RFC 4862 §5.4.2).
func probe(addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is4() {
		return arpRequest(mac, netip.IPv4Unspecified(), addr)
	}
	return neighbourSolicitation(mac, addr)
}

func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) ([]byte, error) {
	arp := frame.NewARP(frame.ARPRequest)
	arp.SenderMAC, arp.Sender, arp.Target = frame.MAC(mac), sender.As4(), target.As4()
	return frame.Build(frame.Ethernet{To: frame.Broadcast(), From: frame.MAC(mac), Type: frame.TypeARP}, arp)
}

func neighbourAdvertisement(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return neighbourDiscovery(mac, addr, netip.IPv6LinkLocalAllNodes(),
		frame.Neighbour{Type: frame.Advertisement, Flags: frame.Override, Target: addr.As16()},
		frame.LinkAddress{Type: frame.TargetLinkAddress, Length: 1, MAC: frame.MAC(mac)})
}

func neighbourSolicitation(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return neighbourDiscovery(mac, netip.IPv6Unspecified(), solicitedNode(addr),
		frame.Neighbour{Type: frame.Solicitation, Target: addr.As16()})
}

// question is the frame by which a host with an address of its own asks who has
// another: an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 §7.2.2).
func question(own, addr netip.Addr, mac net.HardwareAddr) ([]byte, error) {
	if addr.Is4() {
		return arpRequest(mac, own, addr)
	}
	return neighbourDiscovery(mac, own, solicitedNode(addr),
		frame.Neighbour{Type: frame.Solicitation, Target: addr.As16()},
		frame.LinkAddress{Type: frame.SourceLinkAddress, Length: 1, MAC: frame.MAC(mac)})
}

func neighbourDiscovery(mac net.HardwareAddr, from, to netip.Addr, message frame.Neighbour, options ...any) ([]byte, error) {
	rest, err := frame.Join(options...)
	if err != nil {
		return nil, err
	}
	icmp, err := frame.Join(message, rest)
	if err != nil {
		return nil, err
	}
	message.Checksum = frame.Checksum(from, to, frame.ProtocolICMPv6, icmp)
	return frame.Build(
		frame.Ethernet{To: frame.MAC(multicastMAC(to)), From: frame.MAC(mac), Type: frame.TypeIPv6},
		frame.NewIPv6(from, to, frame.ProtocolICMPv6, ndHopLimit, len(icmp)),
		message, rest)
}

// solicitedNode is the multicast group of those who have an address with
// these last 24 bits (RFC 4291 §2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	last := addr.As16()
	copy(group[13:], last[13:])
	return netip.AddrFrom16(group)
}

// multicastMAC is the Ethernet address of an IPv6 group (RFC 2464 §7).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
}

// claim is a frame's statement that mac has addr or wants it.
type claim struct {
	addr netip.Addr
	mac  frame.MAC
}

// parseClaim returns what the frame claims, if anything. A probe by another
// host is a claim: two that ask at once must both see the other (RFC 5227
// §2.1.1, RFC 4862 §5.4.3). It is not for us to complain about others' frames.
func parseClaim(b []byte) (claim, bool) {
	eth, rest, ok := frame.Cut[frame.Ethernet](b)
	switch {
	case !ok:
		return claim{}, false
	case eth.Type == frame.TypeARP:
		return parseARP(rest)
	case eth.Type == frame.TypeIPv6:
		return parseNeighbour(eth.From, rest)
	}
	return claim{}, false
}

func parseARP(b []byte) (claim, bool) {
	arp, _, ok := frame.Cut[frame.ARP](b)
	if !ok || !arp.IsIPv4OnEthernet() {
		return claim{}, false
	}
	owner := netip.AddrFrom4(arp.Sender)
	if owner.IsUnspecified() && arp.Operation == frame.ARPRequest {
		owner = netip.AddrFrom4(arp.Target)
	}
	return claim{owner, arp.SenderMAC}, true
}

// parseNeighbour reads neighbour discovery right after the IPv6 header: on one
// link RFC 4861 has no extension header between them.
func parseNeighbour(sender frame.MAC, b []byte) (claim, bool) {
	ip, rest, ok := frame.CutIPv6(b)
	if !ok || ip.NextHeader != frame.ProtocolICMPv6 || ip.HopLimit != ndHopLimit {
		return claim{}, false
	}
	message, rest, ok := frame.Cut[frame.Neighbour](rest)
	if !ok {
		return claim{}, false
	}
	options, ok := frame.Options(rest)
	if !ok {
		return claim{}, false
	}
	c := claim{netip.AddrFrom16(message.Target), sender}
	switch message.Type {
	case frame.Advertisement:
		c.mac = frame.TargetMAC(options, sender)
		return c, true
	case frame.Solicitation:
		// Any other source is an ordinary question for somebody's MAC.
		return c, netip.AddrFrom16(ip.From).IsUnspecified()
	}
	return claim{}, false
}
