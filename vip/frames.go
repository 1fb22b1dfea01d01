package vip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// ndHopLimit proves that a neighbour discovery packet comes from the same
// link: any other hop limit is ignored (RFC 4861 §7.1).
const ndHopLimit = 255

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
	return serialize(
		&layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType:          layers.LinkTypeEthernet,
			Protocol:          layers.EthernetTypeIPv4,
			HwAddressSize:     6,
			ProtAddressSize:   4,
			Operation:         layers.ARPRequest,
			SourceHwAddress:   mac,
			SourceProtAddress: sender.AsSlice(),
			DstHwAddress:      make([]byte, 6),
			DstProtAddress:    target.AsSlice(),
		})
}

func neighbourAdvertisement(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	const override = 0x20 // RFC 4861 §4.4
	return icmpv6(mac, addr, netip.IPv6LinkLocalAllNodes(), layers.ICMPv6TypeNeighborAdvertisement,
		&layers.ICMPv6NeighborAdvertisement{
			Flags:         override,
			TargetAddress: addr.AsSlice(),
			Options:       layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: mac}},
		})
}

func neighbourSolicitation(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return icmpv6(mac, netip.IPv6Unspecified(), solicitedNode(addr), layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: addr.AsSlice()})
}

func icmpv6(mac net.HardwareAddr, from, to netip.Addr, kind uint8, body gopacket.SerializableLayer) ([]byte, error) {
	ip := &layers.IPv6{
		Version:    6,
		NextHeader: layers.IPProtocolICMPv6,
		HopLimit:   ndHopLimit,
		SrcIP:      from.AsSlice(),
		DstIP:      to.AsSlice(),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return serialize(
		&layers.Ethernet{SrcMAC: mac, DstMAC: multicastMAC(to), EthernetType: layers.EthernetTypeIPv6},
		ip, icmp, body)
}

func serialize(l ...gopacket.SerializableLayer) ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, l...); err != nil {
		return nil, fmt.Errorf("build a frame: %w", err)
	}
	return buf.Bytes(), nil
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

// claimParser reads frames that say who has an address. It isn't for
// concurrent use: it decodes into its own layers.
type claimParser struct {
	parser *gopacket.DecodingLayerParser

	eth           layers.Ethernet
	arp           layers.ARP
	ip            layers.IPv6
	icmp          layers.ICMPv6
	advertisement layers.ICMPv6NeighborAdvertisement
	solicitation  layers.ICMPv6NeighborSolicitation
	decoded       []gopacket.LayerType
}

func newClaimParser() *claimParser {
	c := &claimParser{}
	c.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet,
		&c.eth, &c.arp, &c.ip, &c.icmp, &c.advertisement, &c.solicitation)
	c.parser.IgnoreUnsupported = true // of no interest
	return c
}

// claim is a frame's statement that mac has addr or wants it.
type claim struct {
	addr netip.Addr
	mac  string // raw bytes, comparable
}

// parse returns what the frame claims, if anything. A probe by another host
// is a claim: two that ask at once must both see the other (RFC 5227 §2.1.1,
// RFC 4862 §5.4.3).
func (c *claimParser) parse(frame []byte) (claim, bool) {
	if c.parser.DecodeLayers(frame, &c.decoded) != nil || len(c.decoded) == 0 {
		return claim{}, false // not for us to complain about others' frames
	}
	switch c.decoded[len(c.decoded)-1] {
	case layers.LayerTypeARP:
		return c.parseARP()
	case layers.LayerTypeICMPv6NeighborAdvertisement:
		mac := []byte(c.eth.SrcMAC)
		for _, o := range c.advertisement.Options {
			if o.Type == layers.ICMPv6OptTargetAddress && len(o.Data) == 6 {
				mac = o.Data
			}
		}
		return c.neighbour(c.advertisement.TargetAddress, mac)
	case layers.LayerTypeICMPv6NeighborSolicitation:
		if !c.ip.SrcIP.IsUnspecified() {
			return claim{}, false // an ordinary question for somebody's MAC
		}
		return c.neighbour(c.solicitation.TargetAddress, c.eth.SrcMAC)
	}
	return claim{}, false
}

func (c *claimParser) parseARP() (claim, bool) {
	if c.arp.Protocol != layers.EthernetTypeIPv4 || len(c.arp.SourceHwAddress) != 6 || len(c.arp.SourceProtAddress) != 4 {
		return claim{}, false
	}
	owner := c.arp.SourceProtAddress
	if binary.BigEndian.Uint32(owner) == 0 && c.arp.Operation == layers.ARPRequest {
		owner = c.arp.DstProtAddress
	}
	addr, ok := netip.AddrFromSlice(owner)
	return claim{addr, string(c.arp.SourceHwAddress)}, ok && addr.Is4()
}

func (c *claimParser) neighbour(target net.IP, mac []byte) (claim, bool) {
	if c.ip.HopLimit != ndHopLimit {
		return claim{}, false
	}
	addr, ok := netip.AddrFromSlice(bytes.Clone(target))
	return claim{addr, string(mac)}, ok
}
