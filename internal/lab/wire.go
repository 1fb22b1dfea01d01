package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/frame"
)

// Claim is a frame in which a host says that an address is at its MAC.
type Claim struct {
	At   time.Time
	Host string // whose switch port it came in by
	VIP  netip.Addr
	MAC  net.HardwareAddr
	// Kind is "request" or "reply" (ARP, RFC 826) or "advertisement"
	// (neighbour discovery, RFC 4861 section 7.2).
	Kind string
}

// Wire records every claim to a VIP that enters the switch, also those that a
// cut then drops.
type Wire struct {
	vips  []netip.Addr
	ports map[int]string // host by link number
	inbox *inbox

	mu      sync.Mutex
	err     error
	claims  []Claim
	changed chan struct{} // closed at each claim, then replaced
}

// WatchWire starts to record claims; Close ends it.
func (l *Lab) WatchWire() (*Wire, error) {
	w := &Wire{vips: l.VIPs(), ports: map[int]string{}, changed: make(chan struct{})}
	for _, name := range l.names() {
		port, err := l.fabric.nl.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("find the switch port of host %s: %w", name, err)
		}
		w.ports[port.Attrs().Index] = name
	}
	// Only a tap for all protocols sees frames before the bridge takes them.
	var sock int
	err := l.fabric.ns.do(func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tap the switch: %w", err)
	}
	if w.inbox, err = openInbox(sock); err != nil {
		return nil, err
	}
	w.inbox.start(w.take, w.fail)
	return w, nil
}

// Claims returns the claims to a VIP so far, in order of time. An error means
// that the record is not complete.
func (w *Wire) Claims(vip netip.Addr) ([]Claim, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.claims), func(c Claim) bool { return c.VIP != vip }), w.err
}

// Await returns the first claim for which ok returns true; ok must be quick.
func (w *Wire) Await(ctx context.Context, ok func(Claim) bool) (Claim, error) {
	for {
		w.mu.Lock()
		i, err, changed := slices.IndexFunc(w.claims, ok), w.err, w.changed
		var c Claim
		if i >= 0 {
			c = w.claims[i]
		}
		w.mu.Unlock()
		if i >= 0 || err != nil {
			return c, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c, fmt.Errorf("wait for a claim on the wire: %w", context.Cause(ctx))
		}
	}
}

// Close stops the recording; the claims stay readable.
func (w *Wire) Close() { w.inbox.close() }

func (w *Wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.wake()
}

// wake tells waiters to look again; the caller has the lock.
func (w *Wire) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Wire) take(m message) error {
	link, ok := m.from.(*unix.SockaddrLinklayer)
	if !ok {
		return errors.New("read a frame: it doesn't say where it came in")
	}
	host, ok := w.ports[link.Ifindex]
	if !ok || link.Pkttype == unix.PACKET_OUTGOING {
		return nil
	}
	c, ok := parseClaim(m.data)
	if !ok || !slices.Contains(w.vips, c.VIP) {
		return nil
	}
	c.At, c.Host = m.at, host
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims = append(w.claims, c)
	w.wake()
	return nil
}

// parseClaim reads the claim a frame makes, if any.
func parseClaim(b []byte) (Claim, bool) {
	eth, rest, _ := frame.Cut[frame.Ethernet](b)
	switch eth.Type {
	case frame.TypeARP:
		// A probe's sender address is 0.0.0.0: it claims nothing (RFC 5227
		// section 1.1).
		arp, _, ok := frame.Cut[frame.ARP](rest)
		kind := "request"
		if arp.Operation == frame.ARPReply {
			kind = "reply"
		}
		return Claim{VIP: netip.AddrFrom4(arp.Sender), MAC: arp.SenderMAC[:], Kind: kind}, ok && arp.IsIPv4OnEthernet()
	case frame.TypeIPv6:
		ip, rest, _ := frame.CutIPv6(rest)
		na, rest, ok := frame.Cut[frame.Neighbour](rest)
		options, fit := frame.Options(rest)
		mac := frame.TargetMAC(options, eth.From)
		return Claim{VIP: netip.AddrFrom16(na.Target), MAC: mac[:], Kind: "advertisement"},
			ok && fit && ip.NextHeader == frame.ProtocolICMPv6 && na.Type == frame.Advertisement
	}
	return Claim{}, false
}
