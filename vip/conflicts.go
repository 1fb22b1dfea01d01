package vip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"had/internal/frame"
)

// Conflict is another host that answers for an address, or asks for it at the
// same time.
type Conflict struct {
	Address
	MAC net.HardwareAddr
}

// String names both: "192.0.2.10 on eth0 is used by 02:00:5e:00:53:01".
func (c Conflict) String() string { return fmt.Sprintf("%s is used by %s", c.Address, c.MAC) }

// Conflicts asks the links whether another host has one of the addresses: a
// probe for each at once and after half the window, then it listens for the
// other half. Answers from this host's own MACs and from known are no
// conflicts. Results are in order of address and MAC, each once. Whoever asks is
// about to announce the addresses, and what that needs is made ready.
//
// It is a veto only: that nobody answers proves nothing (lost frames, a host
// that is slow, a filter). What it returns beside an error was seen, but links
// named in the error were not asked properly.
func (m *Manager) Conflicts(ctx context.Context, addrs []Address, window time.Duration, known []net.HardwareAddr) ([]Conflict, error) {
	return m.ask(ctx, addrs, window, known, probe)
}

// ask sends the frame for each address twice and returns who claims one.
func (m *Manager) ask(ctx context.Context, addrs []Address, window time.Duration, known []net.HardwareAddr, question frameOf) ([]Conflict, error) {
	if window <= 0 {
		return nil, fmt.Errorf("probe window is %s: it must be positive", window)
	}
	ours, err := hardwareAddrs(m.kernel.handle.LinkList)
	if err != nil {
		return nil, err
	}
	ours = append(ours, known...)
	segments, segmentErr := m.segments(addrs, question)
	errs := []error{segmentErr}

	var listening sync.WaitGroup
	var asked []*listener
	stop := func() {
		for _, l := range asked {
			l.stop()
		}
		listening.Wait()
	}
	defer func() {
		stop()
		for _, l := range asked {
			// Waits for an RCU grace period, 10 to 30 ms, see senders.
			m.closing.Go(func() { _ = l.conn.Close() }) // nothing was written that could be lost
		}
	}()
	for _, s := range segments {
		l, err := s.listen(ours)
		if err != nil {
			errs = append(errs, fmt.Errorf("probe for addresses on %s: %w", s.link.Name, err))
			continue
		}
		asked = append(asked, l)
		listening.Go(l.run)
	}
	m.senders.ready(segments)
	for range 2 {
		for _, l := range asked {
			if err := l.segment.send(ctx, l.conn); err != nil {
				errs = append(errs, fmt.Errorf("probe for addresses on %s: %w", l.segment.link.Name, err))
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("probe for %d addresses: %w", len(addrs), ctx.Err())
		case <-time.After(window / 2):
		}
	}
	stop()
	var found []Conflict
	for _, l := range asked {
		errs = append(errs, l.err)
		for c := range l.claims {
			found = append(found, Conflict{Address{c.addr, l.segment.link.Name}, c.mac[:]})
		}
	}
	slices.SortFunc(found, func(a, b Conflict) int {
		if order := a.Addr.Compare(b.Addr); order != 0 {
			return order
		}
		return bytes.Compare(a.MAC, b.MAC)
	})
	return found, errors.Join(errs...)
}

// listener gathers what other hosts claim on a segment. Its run owns claims
// and err until it returns.
type listener struct {
	segment *segment
	conn    *packet.Conn
	ours    []net.HardwareAddr
	claims  map[claim]bool
	err     error
}

// listen opens the segment's socket, so that no answer to a later send is
// missed.
func (s *segment) listen(ours []net.HardwareAddr) (*listener, error) {
	protocol, filter := frame.TypeARP, []bpf.RawInstruction(nil)
	if !s.v4 {
		var err error
		if filter, err = bpf.Assemble(onlyNeighbourDiscovery()); err != nil {
			return nil, fmt.Errorf("assemble the packet filter: %w", err)
		}
		protocol = frame.TypeIPv6
	}
	conn, err := s.open(protocol, filter)
	if err != nil {
		return nil, err
	}
	l := &listener{segment: s, conn: conn, ours: ours, claims: map[claim]bool{}}
	if s.v4 {
		return l, nil
	}
	// Other hosts' probes go to the groups of the addresses. Answers to ours
	// go to all nodes, a group that every host with IPv6 is in.
	for addr := range s.frames {
		if err := conn.JoinGroup(multicastMAC(solicitedNode(addr))); err != nil {
			return nil, errors.Join(fmt.Errorf("join the multicast group of %s: %w", addr, err), conn.Close())
		}
	}
	return l, nil
}

// onlyNeighbourDiscovery passes neighbour solicitations and advertisements in
// Ethernet frames that carry them right after the IPv6 header, as all do
// (RFC 4861 has no extension header before them on one link).
func onlyNeighbourDiscovery() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 14 + 6, Size: 1}, // IPv6 next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.ProtocolICMPv6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: 14 + 40, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: frame.Solicitation, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.Advertisement, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

// run reads until stop.
func (l *listener) run() {
	buf := make([]byte, 2048)
	for {
		n, _, err := l.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			l.err = fmt.Errorf("listen for answers on %s: %w", l.segment.link.Name, err)
			return
		}
		c, ok := parseClaim(buf[:n])
		if !ok || l.segment.frames[c.addr] == nil || l.isOurs(c.mac) {
			continue
		}
		l.claims[c] = true
	}
}

func (l *listener) isOurs(mac frame.MAC) bool {
	return slices.ContainsFunc(l.ours, func(m net.HardwareAddr) bool { return bytes.Equal(m, mac[:]) })
}

// stop makes run return.
func (l *listener) stop() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }
