package frame_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"had/internal/frame"
)

var (
	mac    = net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0x07}
	pairs4 = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.254")}
	pairs6 = [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::fffe")}
)

// Every sum of the payload's first word is met, and so the one whose checksum
// is zero, which UDP sends as another.
func TestDatagramsAreAsGopacketBuildsThem(t *testing.T) {
	for _, pair := range [][2]netip.Addr{pairs4, pairs6} {
		for first := range 1 << 16 {
			payload := slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(first)), []byte("odd")[:first%4])
			got, err := datagram(pair[0], pair[1], payload)
			if want := oracle(t, pair[0], pair[1], payload); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("from %s: %v\n%x, want\n%x", pair[0], err, got, want)
			}
		}
	}
}

func datagram(from, to netip.Addr, payload []byte) ([]byte, error) {
	udp := frame.UDP{From: 7078, To: 7077, Length: uint16(8 + len(payload))}
	message, err := frame.Join(udp, payload)
	if err != nil {
		return nil, err
	}
	udp.Checksum = frame.Checksum(from, to, frame.ProtocolUDP, message)
	eth := frame.Ethernet{To: frame.Broadcast(), From: frame.MAC(mac), Type: frame.TypeIPv6}
	if from.Is6() {
		return frame.Build(eth, frame.NewIPv6(from, to, frame.ProtocolUDP, 64, len(message)), udp, payload)
	}
	eth.Type = frame.TypeIPv4
	return frame.Build(eth, frame.NewIPv4(from, to, frame.ProtocolUDP, len(message)), udp, payload)
}

func oracle(t *testing.T, from, to netip.Addr, payload []byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: mac, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv6}
	udp := &layers.UDP{SrcPort: 7078, DstPort: 7077}
	var ip interface {
		gopacket.NetworkLayer
		gopacket.SerializableLayer
	} = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	if from.Is4() {
		eth.EthernetType = layers.EthernetTypeIPv4
		ip = &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, udp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What is behind a packet's end is no part of it, and a packet that is cut off
// ends where the frame does.
func TestCutIPv6EndsWithThePacket(t *testing.T) {
	b, err := frame.Join(frame.NewIPv6(pairs6[0], pairs6[1], frame.ProtocolUDP, 64, 2), []byte("in and out"))
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int]string{len(b): "in", 41: "i", 40: ""} {
		ip, payload, ok := frame.CutIPv6(b[:size])
		if !ok || string(payload) != want || netip.AddrFrom16(ip.To) != pairs6[1] {
			t.Errorf("%d bytes: %q behind %+v, %v; want %q", size, payload, ip, ok, want)
		}
	}
	if _, _, ok := frame.CutIPv6(b[:39]); ok {
		t.Error("39 bytes were taken for a header")
	}
}

func TestOptions(t *testing.T) {
	source, target := []byte("\x01\x01source"), []byte("\x02\x01target")
	for name, c := range map[string]struct {
		options []byte
		ok      bool
		mac     string
	}{
		"none":              {nil, true, "sender"},
		"the target's":      {slices.Concat(source, target), true, "target"},
		"another":           {source, true, "sender"},
		"of another size":   {[]byte("\x02\x02fourteen bytes"), true, "sender"},
		"of no size":        {slices.Concat(target, []byte("\x02\x00target")), false, ""},
		"cut off":           {slices.Concat(target, source[:7]), false, ""},
		"cut off at a byte": {slices.Concat(target, source[:1]), false, ""},
	} {
		options, ok := frame.Options(c.options)
		if ok != c.ok {
			t.Errorf("%s: %v, want %v", name, ok, c.ok)
		}
		if got := frame.TargetMAC(options, frame.MAC([]byte("sender"))); ok && string(got[:]) != c.mac {
			t.Errorf("%s: %q, want %q", name, got, c.mac)
		}
	}
}
