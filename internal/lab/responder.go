package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the services on every server, on all its addresses.
const (
	ResponderPort = 7077 // UDP: the request, then the server's name
	WebPort       = 80   // TCP: HTTP
)

// startServices starts what answers on the server's addresses. It runs in
// this process, with sockets of the host: it goes on when the daemon is killed
// or paused, as a service of a real host would.
func (h *Host) startServices(web http.Handler) error {
	for _, network := range []string{"udp4", "udp6"} {
		r, err := startResponder(h, network)
		if err != nil {
			return err
		}
		h.services = append(h.services, r)
	}
	if web == nil {
		return nil
	}
	w, err := startWeb(h, web)
	if err != nil {
		return err
	}
	h.services = append(h.services, w)
	return nil
}

// Responder answers every datagram with itself and the host's name.
type Responder struct {
	conn *net.UDPConn
	name string
	done sync.WaitGroup
}

func startResponder(h *Host, network string) (*Responder, error) {
	r := &Responder{name: h.Name}
	cfg := net.ListenConfig{Control: wantPacketInfo}
	err := h.ns.do(func() error {
		conn, err := cfg.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", ResponderPort))
		if err != nil {
			return err
		}
		r.conn = conn.(*net.UDPConn)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("start the %s responder of host %s: %w", network, h.Name, err)
	}
	r.done.Go(r.serve)
	return r, nil
}

// wantPacketInfo asks the kernel to say with each datagram which address it
// was sent to (ip(7), ipv6(7)).
func wantPacketInfo(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, set)
}

// serve answers until the socket is closed. The packet information received
// goes back with the answer: it makes the kernel send it from the address the
// request was sent to, whatever address the routing table prefers.
func (r *Responder) serve() {
	buf, info := make([]byte, 512), make([]byte, 128)
	for {
		n, infoLen, _, from, err := r.conn.ReadMsgUDPAddrPort(buf[:256], info)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		answer := buf[:n+copy(buf[n:], r.name)]
		// An answer that can't be sent is one the client doesn't get, which
		// is what it measures.
		_, _, _ = r.conn.WriteMsgUDPAddrPort(answer, info[:infoLen], from)
	}
}

// Close stops the responder and waits for it.
func (r *Responder) Close() error {
	err := r.conn.Close()
	r.done.Wait()
	return err
}

// web is the HTTP server of a host.
type web struct {
	server http.Server
	done   sync.WaitGroup
}

func startWeb(h *Host, handler http.Handler) (*web, error) {
	var ln net.Listener
	err := h.ns.do(func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", WebPort))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start the web service of host %s: %w", h.Name, err)
	}
	w := &web{server: http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}}
	w.done.Go(func() { _ = w.server.Serve(ln) }) // ends with ErrServerClosed
	return w, nil
}

// Close drops every connection and waits for the server.
func (w *web) Close() error {
	err := w.server.Close()
	w.done.Wait()
	return err
}

func hello(h *Host) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", h.Name)
	})
}
