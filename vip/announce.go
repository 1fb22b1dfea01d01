package vip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Announce tells the neighbours on each address's link, once, that this host
// has it: so that they replace what they remembered of its former owner.
// Interfaces without ARP (loopback, tun) have no such neighbours and are
// skipped. The caller repeats it: a lost announcement leaves a neighbour
// sending to the former owner until its cache entry ages.
func (m *Manager) Announce(ctx context.Context, addrs []Address) error {
	var errs []error
	segments, err := m.segments(addrs, announcement)
	errs = append(errs, err)
	for _, s := range segments {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("announce on %s: %w", s.link.Name, err))...)
		}
		if err := m.senders.send(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("announce %d addresses on %s: %w", len(s.frames), s.link.Name, err))
		}
	}
	return errors.Join(errs...)
}

// segment is the addresses of one family on one link, with a frame for each.
type segment struct {
	link   *netlink.LinkAttrs
	v4     bool
	frames map[netip.Addr][]byte
}

// segments sorts addresses by link and family and builds each one's frame.
// Links without ARP are left out; links that don't exist are named in the
// error.
func (m *Manager) segments(addrs []Address, frame frameOf) ([]*segment, error) {
	var segments []*segment
	var errs []error
	links := map[string]*netlink.LinkAttrs{}
	for _, a := range addrs {
		link, ok := links[a.Interface]
		if !ok {
			l, err := linkByName(m.kernel.handle, a.Interface)
			if err != nil {
				errs = append(errs, fmt.Errorf("reach the neighbours of %s: %w", a.Addr, err))
				continue
			}
			link = l.Attrs()
			links[a.Interface] = link
		}
		if link.EncapType != "ether" || len(link.HardwareAddr) != 6 || link.RawFlags&unix.IFF_NOARP != 0 {
			continue
		}
		f, err := frame(a.Addr, link.HardwareAddr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		i := slices.IndexFunc(segments, func(s *segment) bool { return s.link == link && s.v4 == a.Addr.Is4() })
		if i < 0 {
			i = len(segments)
			segments = append(segments, &segment{link: link, v4: a.Addr.Is4(), frames: map[netip.Addr][]byte{}})
		}
		segments[i].frames[a.Addr] = f
	}
	return segments, errors.Join(errs...)
}

// senders are sockets that receive nothing, one for each link that was ever
// announced on. They are kept because closing a packet socket waits for an RCU
// grace period, 10 to 30 ms (packet_release in the Linux sources), and the next
// link's neighbours would wait with it.
type senders struct {
	mu    sync.Mutex
	conns map[int]*packet.Conn // by interface index
}

// send sends the frames of a segment. A socket that fails may be of a link
// that was made anew under its old index, so a fresh one is tried.
func (o *senders) send(ctx context.Context, s *segment) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if conn := o.conns[s.link.Index]; conn != nil {
		if err := s.announce(ctx, conn); err == nil || errors.Is(err, unix.ENOBUFS) {
			return err // of the link, not of the socket
		}
		_ = conn.Close() // what it failed with is told by the next one, too
		delete(o.conns, s.link.Index)
	}
	conn, err := o.open(s)
	if err != nil {
		return err
	}
	return s.announce(ctx, conn)
}

// open opens and keeps the socket of the segment's link. The caller holds mu.
func (o *senders) open(s *segment) (*packet.Conn, error) {
	conn, err := s.open(0, nil)
	if err != nil {
		return nil, err
	}
	if o.conns == nil {
		o.conns = map[int]*packet.Conn{}
	}
	o.conns[s.link.Index] = conn
	return conn, nil
}

// ready opens the sockets that announcements of the segments will need, if it
// can: when the addresses are up the clients wait.
func (o *senders) ready(segments []*segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range segments {
		if o.conns[s.link.Index] == nil {
			_, _ = o.open(s) // an error is told by the announcement
		}
	}
}

func (o *senders) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		_ = c.Close() // nothing was left to send
	}
	clear(o.conns)
}

// announce sends the frames. A link whose queue is stuck must not hold up a
// release.
func (s *segment) announce(ctx context.Context, conn *packet.Conn) error {
	if err := conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	return s.send(ctx, conn)
}

// sendLimit is how long a link may take to accept all frames of a segment.
const sendLimit = 200 * time.Millisecond

// queuePause is how long a link is given to work on its queue when that is
// full. There is no event to wait for: poll(2) knows only the socket's buffer.
const queuePause = 500 * time.Microsecond

// queueLimit is how long that goes on. A filter that drops a frame (the packet
// gate after the lease's end) says the same as a full queue.
const queueLimit = 20 * time.Millisecond

// send sends every frame, or says at which it failed.
func (s *segment) send(ctx context.Context, conn *packet.Conn) error {
	giveUp := time.Now().Add(queueLimit)
	for addr, frame := range s.frames {
		// Frames begin with their destination.
		to := &packet.Addr{HardwareAddr: frame[:6]}
		_, err := conn.WriteTo(frame, to)
		// The queue of the link dropped it (packet(7)).
		for errors.Is(err, unix.ENOBUFS) && ctx.Err() == nil && time.Now().Before(giveUp) {
			select {
			case <-ctx.Done():
			case <-time.After(queuePause):
			}
			_, err = conn.WriteTo(frame, to)
		}
		if err != nil {
			return fmt.Errorf("send for %s: %w", addr, err)
		}
	}
	return nil
}

// open opens a socket for the segment's link, in the network namespace of the
// calling thread.
func (s *segment) open(protocol int, filter []bpf.RawInstruction) (*packet.Conn, error) {
	ifi := &net.Interface{Index: s.link.Index, Name: s.link.Name, MTU: s.link.MTU, HardwareAddr: s.link.HardwareAddr}
	conn, err := packet.Listen(ifi, packet.Raw, protocol, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket (it needs CAP_NET_RAW): %w", err)
	}
	return conn, nil
}
