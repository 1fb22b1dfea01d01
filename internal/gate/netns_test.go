package gate

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// host is a network namespace.
type host struct {
	t    testing.TB
	ns   netns.NsHandle
	link *netlink.Handle
}

// newHost makes a namespace and stays in it. The test's thread is locked for
// good and dies with the test's goroutine; the namespace, with the filters in
// it, goes when the test has closed what it opened there.
func newHost(t testing.TB) *host {
	t.Helper()
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (these tests need root): %v", err)
	}
	h := &host{t: t, ns: ns}
	t.Cleanup(func() { _ = ns.Close() })
	if h.link, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.link.Close)
	h.up("lo")
	return h
}

// newPair makes two hosts with a cable between their eth0, and addresses of
// their own: 192.0.2.1 and 2001:db8::1 here, .2 and ::2 there. The test stays
// here.
func newPair(t testing.TB) (here, there *host) {
	t.Helper()
	there = newHost(t)
	here = newHost(t)
	here.cable("eth0", there)
	here.assign("eth0", "192.0.2.1/24", "2001:db8::1/64")
	there.assign("eth0", "192.0.2.2/24", "2001:db8::2/64")
	return here, there
}

// cable connects an interface of this host with one of the same name there.
func (h *host) cable(name string, there *host) {
	h.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := h.link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(there.ns)})
	if err != nil {
		h.t.Fatalf("make a veth pair: %v", err)
	}
	h.up(name)
	there.up(name)
}

// in runs f, on this thread, in the host's namespace.
func (h *host) in(f func()) {
	h.t.Helper()
	before, err := netns.Get()
	must(h.t, err)
	defer before.Close()
	must(h.t, netns.Set(h.ns))
	defer func() { must(h.t, netns.Set(before)) }()
	f()
}

func (h *host) get(iface string) netlink.Link {
	h.t.Helper()
	l, err := h.link.LinkByName(iface)
	must(h.t, err)
	return l
}

func (h *host) mac() net.HardwareAddr { return h.get("eth0").Attrs().HardwareAddr }

func (h *host) up(iface string) {
	h.t.Helper()
	must(h.t, h.link.LinkSetUp(h.get(iface)))
}

// assign gives the host addresses, for ever and without DAD.
func (h *host) assign(iface string, cidrs ...string) {
	h.t.Helper()
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		must(h.t, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		must(h.t, h.link.AddrAdd(h.get(iface), a))
	}
}

// assignVirtual gives the host both virtual addresses.
func (h *host) assignVirtual(iface string) {
	h.t.Helper()
	h.assign(iface, vip4.String()+"/32", vip6.String()+"/128")
}

// remembered returns the MAC in the host's neighbour cache, nil when it has
// none.
func (h *host) remembered(addr netip.Addr) net.HardwareAddr {
	h.t.Helper()
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := h.link.NeighList(h.get("eth0").Attrs().Index, family)
	must(h.t, err)
	for _, n := range list {
		if n.IP.Equal(addr.AsSlice()) {
			return n.HardwareAddr
		}
	}
	return nil
}

// forget empties the host's neighbour cache of an address.
func (h *host) forget(addr netip.Addr) {
	h.t.Helper()
	err := h.link.NeighDel(&netlink.Neigh{LinkIndex: h.get("eth0").Attrs().Index, IP: addr.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		h.t.Fatal(err)
	}
}

// route sends what is for an address out of an interface.
func (h *host) route(addr netip.Addr, iface string) {
	h.t.Helper()
	must(h.t, h.link.RouteReplace(&netlink.Route{LinkIndex: h.get(iface).Attrs().Index,
		Dst: netlink.NewIPNet(addr.AsSlice()), Scope: netlink.SCOPE_LINK}))
}

// listen opens a socket of the host, bound to an address and port 7.
func (h *host) listen(addr netip.Addr) *net.UDPConn {
	h.t.Helper()
	var conn *net.UDPConn
	h.in(func() {
		var err error
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 7)))
		must(h.t, err)
	})
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// echo answers datagrams to an address of the host, port 7, from this address.
func (h *host) echo(addr netip.Addr) *net.UDPConn {
	h.t.Helper()
	conn := h.listen(addr)
	go func() { // ends with the socket
		buf := make([]byte, 64)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return conn
}

// dial opens a socket of the host towards another's echo.
func (h *host) dial(addr netip.Addr) *net.UDPConn {
	h.t.Helper()
	var conn *net.UDPConn
	h.in(func() {
		var err error
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 7)))
		must(h.t, err)
	})
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// answers reports whether a question on conn is answered within the patience.
// It is asked again and again, because a busy machine loses packets.
func answers(t testing.TB, conn *net.UDPConn, patience time.Duration) bool {
	t.Helper()
	end := time.Now().Add(patience)
	question := strconv.FormatInt(end.UnixNano(), 10) // no answer to an earlier one counts
	for buf := make([]byte, 64); time.Now().Before(end); {
		_, _ = conn.Write([]byte(question)) // a refusal is no answer either
		must(t, conn.SetReadDeadline(time.Now().Add(brief/2)))
		for {
			n, err := conn.Read(buf)
			if err == nil && string(buf[:n]) == question {
				return true
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
		}
	}
	return false
}

const (
	patient = 3 * time.Second       // for what must come
	brief   = 60 * time.Millisecond // for what must not
)

// open opens a gate in the namespace the test is in.
func open(t testing.TB) *Gate {
	t.Helper()
	g, err := Open(config())
	must(t, err)
	t.Cleanup(g.Close)
	return g
}

func config() Config { return Config{Name: "test", Logger: hclog.NewNullLogger()} }

// eventually waits for what another thread or the kernel does.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	const patience = 5 * time.Second
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
