package gate

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"had/internal/clock"
)

var (
	vip4  = netip.MustParseAddr("192.0.2.10")
	vip6  = netip.MustParseAddr("2001:db8::10")
	own4  = netip.MustParseAddr("192.0.2.1")
	own6  = netip.MustParseAddr("2001:db8::1")
	none4 = netip.IPv4Unspecified()
	none6 = netip.IPv6Unspecified()
	all6  = netip.MustParseAddr("ff02::1")
	mac   = net.HardwareAddr{2, 0, 0x5e, 0, 0x53, 1}
)

// rules are the gate's, as packets: whether each is a guarded address's, in
// either direction. Nobody else's packet is ever touched.
func rules() []rule {
	return []rule{
		{"IPv4 to it", udp(own4, vip4, 4), true, false},
		{"IPv4 from it", udp(vip4, own4, 4), false, true},
		{"IPv4 between others", udp(own4, none4, 4), false, false},
		{"IPv4 to it, not the first fragment", fragment(own4, vip4), true, false},
		{"IPv4 to it, no payload", udp(own4, vip4, 4)[:34], true, false},
		{"IPv6 to it", udp(own6, vip6, 4), true, false},
		{"IPv6 from it", udp(vip6, own6, 4), false, true},
		{"IPv6 between others", udp(own6, all6, 4), false, false},
		{"IPv6 to it behind extension headers", extended(own6, vip6), true, false},
		{"IPv6 from it behind extension headers", extended(vip6, own6), false, true},

		{"ARP question for it", arp(layers.ARPRequest, own4, vip4), false, false},
		{"ARP question from it", arp(layers.ARPRequest, vip4, own4), false, true},
		{"ARP answer for it", arp(layers.ARPReply, vip4, own4), false, true},
		{"ARP announcement of it", arp(layers.ARPRequest, vip4, vip4), false, true},
		{"ARP probe for it", arp(layers.ARPRequest, none4, vip4), false, false},
		{"ARP, cut", arp(layers.ARPReply, vip4, own4)[:14+17], false, false},

		{"ND question for it", solicitation(own6, all6, vip6), false, false},
		{"ND question for it, to it", solicitation(own6, vip6, vip6), true, false},
		{"ND question from it", solicitation(vip6, all6, own6), false, true},
		{"ND probe for it", solicitation(none6, all6, vip6), false, false},
		{"ND answer for it", advertisement(vip6, own6, vip6), false, true},
		{"ND answer for it from another address", advertisement(own6, all6, vip6), false, true},
		{"ND answer for another", advertisement(own6, all6, own6), false, false},
		{"ND answer, cut in its target", advertisement(own6, all6, vip6)[:14+40+20], false, false},
		{"ICMPv6 of another type with it in the same place", echo(own6, all6, vip6), false, false},

		{"neither IP nor ARP", frame(layers.EthernetType(0x88cc), gopacket.Payload(vip4.AsSlice())), false, false},
	}
}

type rule struct {
	name    string
	frame   []byte
	in, out bool // whether it concerns a guarded address
}

func TestRules(t *testing.T) {
	t.Parallel()
	m, in, out := programs(t)
	verdicts := func(t *testing.T, r rule, wantIn, wantOut bool) {
		t.Helper()
		for _, c := range []struct {
			direction direction
			dropped   bool
		}{{ingress, wantIn}, {egress, wantOut}} {
			p := in
			if c.direction == egress {
				p = out
			}
			got, err := p(r.frame)
			want := int32(-1) // TC_ACT_UNSPEC: others' filters have the word
			if c.dropped {
				want = 2 // TC_ACT_SHOT
			}
			if err != nil || got != want {
				t.Errorf("%s, %s: verdict %d, %v; want %d", r.name, c.direction, got, err, want)
			}
		}
	}
	for _, r := range rules() {
		verdicts(t, r, false, false) // nothing is guarded
	}
	g := &Gate{Control: Control{maps: m}}
	must(t, g.Admit(7, both()))
	for _, r := range rules() {
		verdicts(t, r, r.in, r.out) // closed
	}
	must(t, g.Extend(7, clock.Now().Add(time.Minute)))
	for _, r := range rules() {
		verdicts(t, r, false, false) // open
	}
	must(t, g.Admit(8, nil))
	must(t, g.Extend(8, clock.Now().Add(time.Minute)))
	for _, r := range rules() {
		verdicts(t, r, r.in, r.out) // of an epoch before
	}
	must(t, g.Admit(8, both()))
	g.Shut(8)
	for _, r := range rules() {
		verdicts(t, r, r.in, r.out)
	}
	must(t, g.Forget(8, both()))
	for _, r := range rules() {
		verdicts(t, r, false, false)
	}
}

// programs loads both programs, attached to nothing. The functions return
// their verdict on an Ethernet frame.
func programs(t testing.TB) (m *maps, in, out func([]byte) (int32, error)) {
	t.Helper()
	m, err := newMaps()
	if err != nil {
		t.Fatalf("make the maps (these tests need root): %v", err)
	}
	t.Cleanup(m.close)
	var run [2]func([]byte) (int32, error)
	for _, d := range directions() {
		p, err := load(d, m.guarded, m.lease)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		run[d] = func(frame []byte) (int32, error) {
			verdict, _, err := p.Test(slices.Clone(frame))
			return int32(verdict), err
		}
	}
	return m, run[ingress], run[egress]
}

func frame(kind layers.EthernetType, l ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: kind}
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, append([]gopacket.SerializableLayer{eth}, l...)...); err != nil {
		panic(err) // a test's constant is wrong
	}
	return buf.Bytes()
}

// network is a layer of IP.
type network interface {
	gopacket.NetworkLayer
	gopacket.SerializableLayer
}

func ip(from, to netip.Addr, next layers.IPProtocol) (layers.EthernetType, network) {
	if from.Is4() {
		return layers.EthernetTypeIPv4, &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: next, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	return layers.EthernetTypeIPv6, &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: next, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
}

// udp is a datagram of size bytes to port 7.
func udp(from, to netip.Addr, size int) []byte {
	kind, header := ip(from, to, layers.IPProtocolUDP)
	l := &layers.UDP{SrcPort: 7, DstPort: 7}
	if err := l.SetNetworkLayerForChecksum(header); err != nil {
		panic(err)
	}
	return frame(kind, header, l, gopacket.Payload(make([]byte, size)))
}

func fragment(from, to netip.Addr) []byte {
	kind, header := ip(from, to, layers.IPProtocolUDP)
	header.(*layers.IPv4).FragOffset = 185
	return frame(kind, header, gopacket.Payload("the rest"))
}

// extended has destination options (RFC 8200 §4.6: padding) before UDP.
func extended(from, to netip.Addr) []byte {
	kind, header := ip(from, to, layers.IPProtocolIPv6Destination)
	return frame(kind, header, gopacket.Payload("\x11\x00\x01\x04\x00\x00\x00\x00\x00\x07\x00\x07\x00\x0c\x00\x00ping"))
}

func arp(operation uint16, sender, target netip.Addr) []byte {
	return frame(layers.EthernetTypeARP, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: operation, SourceHwAddress: mac, SourceProtAddress: sender.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice()})
}

func solicitation(from, to, target netip.Addr) []byte {
	return icmp(from, to, layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: target.AsSlice()})
}

func advertisement(from, to, target netip.Addr) []byte {
	return icmp(from, to, layers.ICMPv6TypeNeighborAdvertisement,
		&layers.ICMPv6NeighborAdvertisement{Flags: 0x20, TargetAddress: target.AsSlice()})
}

func echo(from, to, inside netip.Addr) []byte {
	return icmp(from, to, layers.ICMPv6TypeEchoRequest, gopacket.Payload(append(make([]byte, 4), inside.AsSlice()...)))
}

func icmp(from, to netip.Addr, kind uint8, body gopacket.SerializableLayer) []byte {
	ether, header := ip(from, to, layers.IPProtocolICMPv6)
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := l.SetNetworkLayerForChecksum(header); err != nil {
		panic(err)
	}
	return frame(ether, header, l, body)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
