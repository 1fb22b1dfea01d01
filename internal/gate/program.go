package gate

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// direction is a hook of the clsact qdisc (tc-bpf(8)).
type direction int

const (
	ingress direction = iota
	egress
)

// directions are both hooks, in the order of Gate.programs.
func directions() []direction { return []direction{ingress, egress} }

func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

// parent is the hook's handle in tc.
func (d direction) parent() uint32 {
	if d == ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// What the program reads of a packet, in bytes from its network header.
const (
	v4Source, v4Destination = 12, 16 // RFC 791 §3.1
	v6NextHeader            = 6      // RFC 8200 §3
	v6Source, v6Destination = 8, 24
	v6Payload               = 40
	arpAddressLength        = 4 // RFC 826: the length of hardware addresses
	arpSender               = 8 // where the sender's hardware address begins

	icmpv6                = 58
	neighborAdvertisement = 136 // RFC 4861 §4.4: type, 7 bytes, target
)

// Members of struct __sk_buff (linux/bpf.h).
const (
	skbLen      = 0
	skbProtocol = 16
)

// The program's stack, from the frame pointer.
const (
	stackKey           = -16 // the address looked up, in 16 bytes
	stackAdvertisement = -40 // 24 bytes; its target is at stackAdvertisement+8
	stackByte          = -48
)

// Verdicts (linux/pkt_cls.h).
const (
	actUnspec = -1 // no verdict: the next filter decides
	actShot   = 2
)

// references to the maps, by which load finds where their descriptors go.
const (
	guardedReference = "guarded"
	leaseReference   = "lease"
)

// load puts the program for a hook into the kernel. It reads the two maps.
func load(d direction, guarded, lease *ebpf.Map) (*ebpf.Program, error) {
	code := assemble(d)
	for name, m := range map[string]*ebpf.Map{guardedReference: guarded, leaseReference: lease} {
		if err := code.AssociateMap(name, m); err != nil {
			return nil, fmt.Errorf("refer to map %s: %w", name, err)
		}
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "had_" + d.String(),
		Type:         ebpf.SchedCLS,
		Instructions: code,
		License:      "Apache-2.0", // none of the helpers is GPL only
	})
	if err != nil {
		return nil, fmt.Errorf("load the %s program: %w", d, err)
	}
	return p, nil
}

// assemble returns the program for a hook. DESIGN.md has its rules as a table.
//
// R6 is the packet's context throughout, R9 whether its head has been made
// readable; R7 and R8 belong to check.
func assemble(d direction) asm.Instructions {
	v4, v6 := int32(v4Source), int32(v6Source)
	if d == ingress {
		v4, v6 = v4Destination, v6Destination
	}
	var code asm.Instructions
	add := func(more ...asm.Instruction) { code = append(code, more...) }

	add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R9, 0),
		asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word).WithSymbol("start"),
		asm.JEq.Imm(asm.R1, etherType(unix.ETH_P_IP), "ipv4"),
		asm.JEq.Imm(asm.R1, etherType(unix.ETH_P_IPV6), "ipv6"),
	)
	if d == egress {
		add(asm.JEq.Imm(asm.R1, etherType(unix.ETH_P_ARP), "arp"))
	}
	add(
		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actShot).WithSymbol("drop"),
		asm.Return(),
	)
	add(makeReadable()...)

	add(read(v4, stackKey+12, 4, "ipv4")...)
	add(asm.Ja.Label("mapped"))
	if d == egress {
		add(read(arpAddressLength, stackByte, 1, "arp")...)
		add(
			asm.LoadMem(asm.R2, asm.RFP, stackByte, asm.Byte),
			asm.Add.Imm(asm.R2, arpSender),
		)
		add(readAt(stackKey+12, 4)...)
	}
	add(
		asm.Mov.Imm(asm.R1, 0).WithSymbol("mapped"),
		asm.StoreMem(asm.RFP, stackKey, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, stackKey+8, mappedPrefix(), asm.Word),
		asm.Ja.Label("address"),
	)
	add(read(v6, stackKey, 16, "ipv6")...)

	if d == ingress {
		add(check("address", stackKey, "pass")...)
		return code
	}
	add(check("address", stackKey, "advertisement")...)
	// A host may answer for one address from another (RFC 4861 §7.2.4), so an
	// advertisement is about its target as well.
	add(
		asm.LoadMem(asm.R1, asm.R6, skbProtocol, asm.Word).WithSymbol("advertisement"),
		asm.JNE.Imm(asm.R1, etherType(unix.ETH_P_IPV6), "pass"),
	)
	add(read(v6NextHeader, stackByte, 1, "")...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, stackByte, asm.Byte),
		asm.JNE.Imm(asm.R1, icmpv6, "pass"),
	)
	add(read(v6Payload, stackAdvertisement, 24, "")...)
	add(
		asm.LoadMem(asm.R1, asm.RFP, stackAdvertisement, asm.Byte),
		asm.JNE.Imm(asm.R1, neighborAdvertisement, "pass"),
	)
	add(check("target", stackAdvertisement+8, "pass")...)
	return code
}

// read copies size bytes at an offset from the network header to the stack.
func read(offset, stack, size int32, label string) asm.Instructions {
	first := asm.Mov.Imm(asm.R2, offset)
	if label != "" {
		first = first.WithSymbol(label)
	}
	return append(asm.Instructions{first}, readAt(stack, size)...)
}

// readAt is read with the offset in R2. What can't be read leads to "unread".
//
// The helper that counts from the network header knows where that is for every
// kind of link; but of a packet in several pieces it sees the first only.
func readAt(stack, size int32) asm.Instructions {
	const fromNetworkHeader = 1 // BPF_HDR_START_NET
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stack),
		asm.Mov.Imm(asm.R4, size),
		asm.Mov.Imm(asm.R5, fromNetworkHeader),
		asm.FnSkbLoadBytesRelative.Call(),
		asm.JNE.Imm(asm.R0, 0, "unread"),
	}
}

// makeReadable gathers a packet's head in its first piece, once, and starts
// again. What can't be read then is shorter than its own headers; no host
// accepts that as a packet of anybody's address.
func makeReadable() asm.Instructions {
	const head = 128 // bytes: more than link, IPv6 and advertisement together
	return asm.Instructions{
		asm.JNE.Imm(asm.R9, 0, "pass").WithSymbol("unread"),
		asm.Mov.Imm(asm.R9, 1),
		asm.LoadMem(asm.R2, asm.R6, skbLen, asm.Word),
		asm.JLE.Imm(asm.R2, head, "pull"),
		asm.Mov.Imm(asm.R2, head),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("pull"),
		asm.FnSkbPullData.Call(),
		asm.Ja.Label("start"),
	}
}

// check goes on to next when the address on the stack isn't guarded, and falls
// through to nothing: its last jump is to next or "drop".
//
// The order of reading matters (leaseWords): key, deadline, epoch, clock.
func check(label string, stack int32, next string) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, 0).WithReference(guardedReference).WithSymbol(label),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stack),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, next),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord), // the address's epoch
		asm.LoadMapValue(asm.R1, 0, 0).WithReference(leaseReference),
		asm.LoadMem(asm.R8, asm.R1, wordDeadline, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, wordEpoch, asm.DWord),
		asm.JNE.Reg(asm.R2, asm.R7, "drop"),
		asm.LoadMem(asm.R2, asm.R1, wordShut, asm.DWord),
		asm.JGE.Reg(asm.R2, asm.R7, "drop"),
		asm.FnKtimeGetBootNs.Call(),
		asm.JLT.Reg(asm.R0, asm.R8, next),
		asm.Ja.Label("drop"),
	}
}

// etherType is a protocol as __sk_buff has it: in network byte order.
func etherType(protocol uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol)))
}

// mappedPrefix is the word before an IPv4 address in its IPv6 form,
// ::ffff:192.0.2.10 (RFC 4291 §2.5.5.2).
func mappedPrefix() int64 {
	return int64(int32(binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})))
}
