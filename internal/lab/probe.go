package lab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"had/internal/frame"
)

const (
	// proberNumber gives the prober addresses on the segment; no host has them.
	proberNumber = 92
	proberPort   = 7078
	// proberBuffer holds the answers of seconds in which this process stalls.
	proberBuffer = 4 << 20
)

// Prober asks every server, all the time, for an answer from every VIP, and
// notes who answers: who can answer for an address is known from the wire
// alone, whatever is in a kernel's list of addresses and whoever the client's
// neighbour cache prefers.
//
// It puts its requests into a server's own switch port and reads the answers
// as they come in there, before the bridge: no cut hides an answer. A request
// is addressed to that server's MAC, as one from a client with an old
// neighbour entry is. Answers are stamped by the kernel when the server's link
// hands them over, so two hosts' answers are in order however busy this
// process is.
type Prober struct {
	vips   []netip.Addr
	ports  []proberTarget
	every  time.Duration
	bridge net.HardwareAddr
	inbox  *inbox
	out    int // packet socket in the switch, sends only
	quit   chan struct{}
	once   sync.Once
	work   sync.WaitGroup
	// start is the one reading that turns the kernel's wall clock stamps into
	// times that can be compared with time.Now.
	start time.Time

	mu    sync.Mutex
	err   error
	pause time.Duration // the longest between two rounds of requests
	spans map[netip.Addr][]answers
}

type proberTarget struct {
	host string
	link int // of its switch port
	mac  net.HardwareAddr
}

// answers is a time in which a host answered each request there was.
type answers struct {
	host        string
	first, last time.Time
	seq         uint64 // of the latest request answered
}

// Probe starts to ask every server for every VIP of the lab, one request each
// in the given time; Close ends it.
func (l *Lab) Probe(every time.Duration) (_ *Prober, err error) {
	bri, err := l.fabric.nl.LinkByName(bridgeName)
	if err != nil {
		return nil, fmt.Errorf("find the bridge: %w", err)
	}
	p := &Prober{
		vips: l.VIPs(), every: every, bridge: bri.Attrs().HardwareAddr, out: -1,
		quit: make(chan struct{}), start: time.Now(), spans: map[netip.Addr][]answers{},
	}
	for _, h := range l.servers {
		port, err := l.fabric.nl.LinkByName(h.Name)
		if err != nil {
			return nil, fmt.Errorf("find the switch port of host %s: %w", h.Name, err)
		}
		p.ports = append(p.ports, proberTarget{h.Name, port.Attrs().Index, h.MAC})
		if err := h.knowProber(p.bridge); err != nil {
			return nil, err
		}
	}
	var in int
	err = l.fabric.ns.do(func() (err error) {
		if p.out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		in, err = tapAnswers(p.bridge)
		return err
	})
	if err == nil {
		p.inbox, err = openInbox(in)
	}
	if err != nil {
		if p.out >= 0 {
			err = errors.Join(err, unix.Close(p.out))
		}
		return nil, fmt.Errorf("open the prober's sockets in the switch: %w", err)
	}
	p.inbox.start(p.take, p.fail)
	p.work.Go(p.send)
	return p, nil
}

// knowProber tells a server for good where the prober is. Its answers then go
// to the bridge itself, which drops them and floods nobody.
func (h *Host) knowProber(mac net.HardwareAddr) error {
	eth, err := h.nl.LinkByName(iface)
	if err != nil {
		return fmt.Errorf("read the link of host %s: %w", h.Name, err)
	}
	for _, ip := range []netip.Addr{hostAddr4(proberNumber), hostAddr6(proberNumber)} {
		err := h.nl.NeighSet(&netlink.Neigh{
			LinkIndex: eth.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
		})
		if err != nil {
			return fmt.Errorf("tell host %s where the prober is: %w", h.Name, err)
		}
	}
	return nil
}

// tapAnswers opens a tap of all ports for frames to mac.
func tapAnswers(mac net.HardwareAddr) (sock int, err error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(mac), SkipFalse: 3},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return -1, fmt.Errorf("assemble the tap's filter: %w", err)
	}
	program := make([]unix.SockFilter, len(filter))
	for i, in := range filter {
		program[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	// Of protocol 0 it hears nothing until it is bound (packet(7)).
	if sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = errors.Join(
		unix.SetsockoptSockFprog(sock, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}),
		unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, proberBuffer),
		unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: all}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("tap the switch: %w", err), unix.Close(sock))
	}
	return sock, nil
}

// send asks until the prober is closed. All requests of a round have the same
// number.
func (p *Prober) send() {
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	asked := time.Now()
	for seq := uint64(1); ; seq++ {
		select {
		case <-tick.C:
		case <-p.quit:
			return
		}
		now := time.Now()
		p.mu.Lock()
		p.pause = max(p.pause, now.Sub(asked))
		p.mu.Unlock()
		asked = now
		for _, vip := range p.vips {
			for _, to := range p.ports {
				frame, err := p.request(to, vip, seq)
				if err != nil {
					p.fail(err)
					return
				}
				// A port that is down refuses: a request without an answer.
				_ = unix.Sendto(p.out, frame, 0, &unix.SockaddrLinklayer{Ifindex: to.link})
			}
		}
	}
}

// request builds the frame that asks a server's responder at a VIP.
func (p *Prober) request(to proberTarget, vip netip.Addr, seq uint64) ([]byte, error) {
	eth := frame.Ethernet{To: frame.MAC(to.mac), From: frame.MAC(p.bridge), Type: frame.TypeIPv4}
	udp := frame.UDP{From: proberPort, To: ResponderPort, Length: 8 + 8}
	from := hostAddr4(proberNumber)
	if vip.Is6() {
		eth.Type, from = frame.TypeIPv6, hostAddr6(proberNumber)
	}
	message, err := frame.Join(udp, seq)
	if err != nil {
		return nil, fmt.Errorf("build a request for %s: %w", vip, err)
	}
	udp.Checksum = frame.Checksum(from, vip, frame.ProtocolUDP, message)
	if vip.Is6() {
		return frame.Build(eth, frame.NewIPv6(from, vip, frame.ProtocolUDP, 64, len(message)), udp, seq)
	}
	return frame.Build(eth, frame.NewIPv4(from, vip, frame.ProtocolUDP, len(message)), udp, seq)
}

// take notes an answer.
func (p *Prober) take(m message) error {
	link, ok := m.from.(*unix.SockaddrLinklayer)
	if !ok {
		return errors.New("read a frame: it doesn't say where it came in")
	}
	i := slices.IndexFunc(p.ports, func(t proberTarget) bool { return t.link == link.Ifindex })
	if i < 0 {
		return nil // the same frame again, on its way up the bridge
	}
	vip, seq, ok := parseAnswer(m.data)
	if !ok || !slices.Contains(p.vips, vip) {
		return nil
	}
	at, err := p.stamp(m.oob)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spans[vip] = noteAnswer(p.spans[vip], p.ports[i].host, seq, at)
	return nil
}

// noteAnswer adds an answer to a VIP's spans.
func noteAnswer(spans []answers, host string, seq uint64, at time.Time) []answers {
	for i := len(spans) - 1; i >= 0; i-- {
		if s := &spans[i]; s.host == host {
			if seq != s.seq+1 {
				break
			}
			s.last, s.seq = at, seq
			return spans
		}
	}
	return append(spans, answers{host: host, first: at, last: at, seq: seq})
}

// parseAnswer reads which VIP answered which request.
func parseAnswer(b []byte) (vip netip.Addr, seq uint64, ok bool) {
	eth, rest, _ := frame.Cut[frame.Ethernet](b)
	var protocol uint8
	switch eth.Type {
	case frame.TypeIPv4: // without options: nobody here sends any
		var ip frame.IPv4
		ip, rest, _ = frame.Cut[frame.IPv4](rest)
		vip, protocol = netip.AddrFrom4(ip.From), ip.Protocol
	case frame.TypeIPv6:
		var ip frame.IPv6
		ip, rest, _ = frame.CutIPv6(rest)
		vip, protocol = netip.AddrFrom16(ip.From), ip.NextHeader
	}
	udp, rest, _ := frame.Cut[frame.UDP](rest)
	seq, _, ok = frame.Cut[uint64](rest)
	return vip, seq, ok && protocol == frame.ProtocolUDP && udp.From == ResponderPort && udp.To == proberPort
}

// stamp reads when the kernel got a frame (SO_TIMESTAMPNS, socket(7)).
func (p *Prober) stamp(oob []byte) (time.Time, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, fmt.Errorf("parse a frame's time: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			sec, nsec := binary.NativeEndian.Uint64(m.Data), binary.NativeEndian.Uint64(m.Data[8:])
			return p.start.Add(time.Duration(int64(sec)*int64(time.Second) + int64(nsec) - p.start.UnixNano())), nil
		}
	}
	return time.Time{}, errors.New("read a frame: the kernel doesn't say when it came")
}

// History returns who answered for a VIP: a host has it from its first answer
// to the last one before a request that it left without. An overlap is
// therefore never longer than it was, and one of no length is a single answer
// in the midst of another host's. An error means that the record is not
// complete.
func (p *Prober) History(vip netip.Addr) (History, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := History{VIP: vip, Start: p.start, End: time.Now()}
	for _, s := range p.spans[vip] {
		h.Transitions = append(h.Transitions, Transition{s.first, s.host, true}, Transition{s.last, s.host, false})
	}
	slices.SortStableFunc(h.Transitions, func(a, b Transition) int { return cmp.Compare(a.At.Sub(b.At), 0) })
	return h, p.err
}

// LongestPause returns the longest time in which the prober asked nobody,
// because this machine was busy: an overlap within it may have gone unseen.
func (p *Prober) LongestPause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pause
}

func (p *Prober) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = cmp.Or(p.err, err)
}

// Close ends the prober; its record stays readable. It may be called again.
func (p *Prober) Close() {
	p.once.Do(func() {
		close(p.quit)
		p.work.Wait()
		p.inbox.close()
		_ = unix.Close(p.out)
	})
}
