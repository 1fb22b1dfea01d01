package peer

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// peerConn is a connection whose other side has been authenticated.
type peerConn struct{ *link }

// Addr is the address of an authenticated peer: its node name.
type Addr struct {
	Node string
	TCP  net.Addr // where the connection comes from or goes to
}

// Network implements net.Addr.
func (Addr) Network() string { return "had" }

// String implements net.Addr and returns the node's name.
func (a Addr) String() string { return a.Node }

// RemoteAddr returns an Addr.
func (c peerConn) RemoteAddr() net.Addr { return Addr{Node: c.who, TCP: c.Conn.RemoteAddr()} }

// withPeer is a connection that h, which says so of the other side, was let in by.
func (d *Dialer) withPeer(c net.Conn, h hello) peerConn {
	known := uint64(0)
	if r, ok := d.id.Roster(); ok {
		known = r.Index
	}
	return peerConn{d.links.note(&link{Conn: c, who: h.From, nodeID: h.NodeID, roster: max(known, h.RosterIndex)})}
}

// PeerName returns the name of the node on the other side of a connection
// that a Port handed out; false for any other connection.
func PeerName(c net.Conn) (string, bool) { //nolint:revive // a peer's name, not the package's
	if c, ok := c.RemoteAddr().(Addr); ok {
		return c.Node, true
	}
	return "", false
}

// A peer that vanishes (power, cable) is noticed by keepalive probes when the
// connection is idle and by TCP_USER_TIMEOUT when data is under way, both
// after about 4 s (tcp(7)).
const (
	keepAliveEvery = time.Second
	keepAliveCount = 3
	userTimeout    = 4 * time.Second
)

// tune sets these on a TCP connection; any other is left alone.
func tune(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveEvery, Interval: keepAliveEvery, Count: keepAliveCount})
	if err != nil {
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return serr
}

// queue is a net.Listener that is fed with connections that have passed the
// preamble.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections accepted before stay open.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// deliver hands c to Accept, or closes it when nobody comes for it in time.
func (q *queue) deliver(ctx context.Context, c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		_ = c.Close() // nobody is left to tell
	case <-ctx.Done():
		_ = c.Close() // the same
	}
}
