package vip

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// host is a network namespace, alone or with a cable to another.
type host struct {
	t    *testing.T
	ns   netns.NsHandle
	link *netlink.Handle
}

// newHost makes a namespace and stays in it. The test's thread is locked for
// good and dies with the test's goroutine; the namespace goes when the test
// has closed what it opened there.
func newHost(t *testing.T) *host {
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

// newPair makes two hosts, each with one end of a cable: eth0. The test stays
// in the first.
func newPair(t *testing.T) (here, there *host) {
	t.Helper()
	there = newHost(t)
	here = newHost(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	err := here.link.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(there.ns)})
	if err != nil {
		t.Fatalf("make a veth pair: %v", err)
	}
	here.up("eth0")
	there.up("eth0")
	eventually(t, "the cable to have carrier", func() bool {
		ok, err := carrier(&netlink.Handle{}, "eth0")
		return ok && err == nil
	})
	return here, there
}

// newWired makes a host whose eth0 has a cable to nowhere in particular.
func newWired(t *testing.T) *host {
	here, _ := newPair(t)
	return here
}

// in runs f, on this thread, in the host's namespace.
func (h *host) in(f func()) {
	h.t.Helper()
	before, err := netns.Get()
	if err != nil {
		h.t.Fatal(err)
	}
	defer before.Close()
	if err := netns.Set(h.ns); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(before); err != nil {
			h.t.Fatal(err)
		}
	}()
	f()
}

func (h *host) get(iface string) netlink.Link {
	h.t.Helper()
	l, err := h.link.LinkByName(iface)
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *host) mac() net.HardwareAddr { return h.get("eth0").Attrs().HardwareAddr }

func (h *host) up(iface string) {
	h.t.Helper()
	if err := h.link.LinkSetUp(h.get(iface)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) down(iface string) {
	h.t.Helper()
	if err := h.link.LinkSetDown(h.get(iface)); err != nil {
		h.t.Fatal(err)
	}
}

// assign gives the host an address of its own, for ever and without DAD.
func (h *host) assign(iface, cidr string) {
	h.t.Helper()
	if err := h.link.AddrAdd(h.get(iface), h.parse(cidr)); err != nil {
		h.t.Fatalf("assign %s: %v", cidr, err)
	}
}

// take takes an address away behind the Manager's back.
func (h *host) take(iface, cidr string) {
	h.t.Helper()
	if err := h.link.AddrDel(h.get(iface), h.parse(cidr)); err != nil {
		h.t.Fatalf("take %s away: %v", cidr, err)
	}
}

// assignForever takes the lifetime off an address.
func (h *host) assignForever(iface, cidr string) {
	h.t.Helper()
	if err := h.link.AddrReplace(h.get(iface), h.parse(cidr)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) parse(cidr string) *netlink.Addr {
	h.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		h.t.Fatal(err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// assigned lists the interface's addresses, as "192.0.2.10/32", but for
// link-local ones.
func (h *host) assigned(iface string) map[string]netlink.Addr {
	h.t.Helper()
	link := h.get(iface)
	list, err := listAddrs(func(_ netlink.Link, family int) ([]netlink.Addr, error) { return h.link.AddrList(link, family) }, netlink.FAMILY_ALL)
	if err != nil {
		h.t.Fatal(err)
	}
	found := map[string]netlink.Addr{}
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			found[a.IPNet.String()] = a
		}
	}
	return found
}

// remember puts an entry into the host's neighbour cache.
func (h *host) remember(addr netip.Addr, mac net.HardwareAddr) {
	h.t.Helper()
	err := h.link.NeighSet(&netlink.Neigh{
		LinkIndex: h.get("eth0").Attrs().Index, Family: familyOf(addr),
		State: unix.NUD_STALE, IP: addr.AsSlice(), HardwareAddr: mac})
	if err != nil {
		h.t.Fatalf("remember %s: %v", addr, err)
	}
}

// remembered returns the MAC in the host's neighbour cache.
func (h *host) remembered(addr netip.Addr) net.HardwareAddr {
	h.t.Helper()
	list, err := h.link.NeighList(h.get("eth0").Attrs().Index, familyOf(addr))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, n := range list {
		if n.IP.Equal(addr.AsSlice()) {
			return n.HardwareAddr
		}
	}
	return nil
}

// manager makes a Manager in the namespace the test is in.
func manager(t *testing.T, lifetime time.Duration, now clock.Source) *Manager {
	t.Helper()
	m, err := New(Config{Lifetime: lifetime, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// soon is a deadline that doesn't matter to the test.
func soon() func() clock.Instant { return at(clock.Now().Add(time.Minute)) }

// at is a deadline that doesn't move.
func at(deadline clock.Instant) func() clock.Instant {
	return func() clock.Instant { return deadline }
}

func on(iface string, addrs ...string) []Address {
	list := make([]Address, len(addrs))
	for i, a := range addrs {
		list[i] = Address{netip.MustParseAddr(a), iface}
	}
	return list
}

// eventually waits until the kernel has done what it does on its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	const patience = 5 * time.Second
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
