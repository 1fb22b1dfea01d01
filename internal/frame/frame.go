// Package frame is Ethernet frames and what had puts into them, as plain
// structs that encoding/binary writes and reads in network order.
//
// gopacket does all of it and more, and fills 5 MB of tables in every process
// it is linked into: here it is only what the tests compare with.
package frame

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is every host of the link.
func Broadcast() MAC { return MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Values of [Ethernet.Type], and of [ARP.Protocol].
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeIPv6 = 0x86dd
)

// Protocols over IP (IANA, "Assigned Internet Protocol Numbers").
const (
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// Ethernet begins every frame. One with a VLAN tag has the tag's number for
// its type, so nobody here takes it for anything.
type Ethernet struct {
	To, From MAC
	Type     uint16
}

// ARP is a question or an answer about an IPv4 address on Ethernet (RFC 826).
type ARP struct {
	Hardware                   uint16 // 1: Ethernet
	Protocol                   uint16
	HardwareSize, ProtocolSize uint8 // 6 and 4
	Operation                  uint16
	SenderMAC                  MAC
	Sender                     [4]byte
	TargetMAC                  MAC
	Target                     [4]byte
}

// Values of [ARP.Operation].
const (
	ARPRequest = 1
	ARPReply   = 2
)

// IPv4 is a header without options (RFC 791).
type IPv4 struct {
	VersionAndLength uint8 // 0x45: version 4, five words
	Service          uint8
	Length           uint16 // bytes, with the header
	ID, Fragment     uint16
	TTL, Protocol    uint8
	Checksum         uint16
	From, To         [4]byte
}

// IPv6 is a header (RFC 8200 §3).
type IPv6 struct {
	VersionAndFlow uint32 // 6 << 28: version 6, no flow
	Length         uint16 // bytes that follow
	NextHeader     uint8
	HopLimit       uint8
	From, To       [16]byte
}

// UDP is a header (RFC 768).
type UDP struct {
	From, To uint16
	Length   uint16 // bytes, with the header
	Checksum uint16
}

// Neighbour is a neighbour solicitation or advertisement (RFC 4861 §4.3 and
// §4.4); options follow.
type Neighbour struct {
	Type, Code uint8
	Checksum   uint16
	Flags      uint32 // of an advertisement
	Target     [16]byte
}

// Values of [Neighbour.Type] and Flags.
const (
	Solicitation  = 135
	Advertisement = 136

	Override = 1 << 29 // replace what you remember
)

// LinkAddress is an option of neighbour discovery (RFC 4861 §4.6.1).
type LinkAddress struct {
	Type   uint8
	Length uint8 // 1: eight bytes
	MAC    MAC
}

// Values of [LinkAddress.Type]: where the sender of a solicitation is, and where
// Target is.
const (
	SourceLinkAddress = 1
	TargetLinkAddress = 2
)

// NewARP fills in what all ARP for IPv4 on Ethernet has.
func NewARP(operation uint16) ARP {
	return ARP{Hardware: 1, Protocol: TypeIPv4, HardwareSize: 6, ProtocolSize: 4, Operation: operation}
}

// IsIPv4OnEthernet reports whether the addresses have the sizes they have here.
func (a ARP) IsIPv4OnEthernet() bool {
	return a.Protocol == TypeIPv4 && a.HardwareSize == 6 && a.ProtocolSize == 4
}

// NewIPv4 is the header for a payload of that many bytes.
func NewIPv4(from, to netip.Addr, protocol uint8, size int) IPv4 {
	ip := IPv4{VersionAndLength: 0x45, Length: uint16(20 + size), TTL: 64, Protocol: protocol, From: from.As4(), To: to.As4()}
	header, _ := binary.Append(nil, binary.BigEndian, ip) // it fails for types without a fixed size only
	ip.Checksum = fold(sum(header))
	return ip
}

// NewIPv6 is the header for a payload of that many bytes.
func NewIPv6(from, to netip.Addr, next, hops uint8, size int) IPv6 {
	return IPv6{VersionAndFlow: 6 << 28, Length: uint16(size), NextHeader: next, HopLimit: hops, From: from.As16(), To: to.As16()}
}

// Join encodes structs and byte slices one after another.
func Join(parts ...any) ([]byte, error) {
	var b []byte
	for _, p := range parts {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
			return nil, fmt.Errorf("build a frame: encode %T: %w", p, err)
		}
	}
	return b, nil
}

// Build is Join for a whole frame: a short one is padded to the least size on
// Ethernet, 60 bytes without the check sequence (IEEE 802.3 §4A.4.2).
func Build(eth Ethernet, parts ...any) ([]byte, error) {
	b, err := Join(append([]any{eth}, parts...)...)
	return append(b, make([]byte, max(0, 60-len(b)))...), err
}

// Cut decodes a header from the front of b and returns the bytes after it; ok
// is false where b is shorter.
func Cut[Header any](b []byte) (h Header, rest []byte, ok bool) {
	n, err := binary.Decode(b, binary.BigEndian, &h)
	return h, b[n:], err == nil
}

// CutIPv6 is Cut for an IPv6 header. What follows ends where the header says:
// behind that is padding.
func CutIPv6(b []byte) (ip IPv6, payload []byte, ok bool) {
	ip, rest, ok := Cut[IPv6](b)
	return ip, rest[:min(len(rest), int(ip.Length))], ok
}

// Options splits what follows a [Neighbour] into its options; ok is false where
// one doesn't fit (RFC 4861 §4.6).
func Options(b []byte) (options [][]byte, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || len(b) < 8*int(b[1]) {
			return nil, false
		}
		size := 8 * int(b[1])
		options, b = append(options, b[:size]), b[size:]
	}
	return options, true
}

// TargetMAC is where the options of an advertisement say that its target is.
func TargetMAC(options [][]byte, otherwise MAC) MAC {
	for _, o := range options {
		if l, _, ok := Cut[LinkAddress](o); ok && l.Type == TargetLinkAddress && l.Length == 1 {
			otherwise = l.MAC
		}
	}
	return otherwise
}

// Checksum is what a UDP or ICMPv6 message between two addresses has for its
// checksum, if that is zero in it (RFC 768, RFC 8200 §8.1). The message is at
// most 65535 bytes.
func Checksum(from, to netip.Addr, protocol uint8, message []byte) uint16 {
	c := fold(sum(from.AsSlice()) + sum(to.AsSlice()) + uint64(protocol) + uint64(len(message)) + sum(message))
	if c == 0 && protocol == ProtocolUDP {
		return 0xffff // zero is for none
	}
	return c
}

// sum adds 16-bit words (RFC 1071).
func sum(b []byte) (total uint64) {
	for ; len(b) > 1; b = b[2:] {
		total += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		total += uint64(b[0]) << 8
	}
	return total
}

// fold is the complement of a sum whose carries are added in.
func fold(total uint64) uint16 {
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	return ^uint16(total)
}
