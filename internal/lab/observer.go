package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Observer watches which server has which VIP, in the kernels' own words and
// independently of every daemon: RTM_NEWADDR and RTM_DELADDR (rtnetlink(7)) of
// all servers, expired lifetimes included.
//
// One socket hears all namespaces (NETLINK_LISTEN_ALL_NSID, netlink(7)), so
// events of different hosts come in the order in which the kernel sent them:
// a busy machine makes the observer late, but can't make it see an overlap
// that wasn't, or miss one that was. The kernel announces an address after it
// is added and after it is gone. An IPv6 address begins to work, and is
// announced, in a work queue shortly after the request that adds it; one that
// is deleted before is never announced.
type Observer struct {
	hosts  map[int]string // by namespace number
	fabric *fabric
	inbox  *inbox
	start  time.Time

	mu      sync.Mutex
	err     error                         // the record is incomplete from here on
	held    map[netip.Addr]map[place]bool // has a key for every VIP, and for no other address
	events  map[netip.Addr][]Transition
	changed chan struct{} // closed at each change, then replaced
	marks   int           // markers drawn, see sync
	seen    map[netip.Addr]bool
}

// place is a link of a host.
type place struct {
	host string
	link uint32
}

// observerBuffer holds some 40,000 events: more than a test makes.
const observerBuffer = 16 << 20

func newObserver(f *fabric, servers []*Host, vips []netip.Addr) (_ *Observer, err error) {
	o := &Observer{
		hosts: map[int]string{}, fabric: f, start: time.Now(),
		held: map[netip.Addr]map[place]bool{}, events: map[netip.Addr][]Transition{},
		changed: make(chan struct{}), seen: map[netip.Addr]bool{},
	}
	for _, vip := range vips {
		o.held[vip] = map[place]bool{}
	}
	for _, h := range servers {
		o.hosts[h.number] = h.Name
	}
	sock, err := subscribe(f.ns)
	if err != nil {
		return nil, err
	}
	if o.inbox, err = openInbox(sock); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.inbox.close()
		}
	}()
	// After the subscription, so that nothing falls between the two.
	for _, h := range servers {
		if err := o.dump(h); err != nil {
			return nil, err
		}
	}
	o.inbox.start(o.take, o.fail)
	return o, nil
}

// subscribe opens the socket in the switch, which has a number for every
// server's namespace.
func subscribe(ns *namespace) (sock int, err error) {
	err = ns.do(func() (err error) {
		sock, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open netlink in the switch: %w", err)
	}
	groups := uint32(1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
	err = errors.Join(
		unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, observerBuffer),
		unix.SetsockoptInt(sock, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1),
		unix.Bind(sock, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("subscribe to address events: %w", err), unix.Close(sock))
	}
	return sock, nil
}

// dump records what a server has already.
func (o *Observer) dump(h *Host) error {
	addrs, err := h.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of host %s: %w", h.Name, err)
	}
	for _, a := range addrs {
		if vip, ok := netip.AddrFromSlice(a.IP); ok {
			o.record(time.Now(), vip.Unmap(), place{h.Name, uint32(a.LinkIndex)}, true)
		}
	}
	return nil
}

// take records the events of one datagram.
func (o *Observer) take(event message) error {
	if sa, ok := event.from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return nil // not from the kernel
	}
	msgs, err := syscall.ParseNetlinkMessage(event.data)
	if err != nil {
		return fmt.Errorf("parse address events: %w", err)
	}
	host, err := o.origin(event.oob)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR && m.Header.Type != unix.RTM_DELADDR {
			continue
		}
		addr, link, err := parseAddr(m)
		if err != nil {
			return err
		}
		added := m.Header.Type == unix.RTM_NEWADDR
		switch {
		case host != "":
			o.record(event.at, addr, place{host, link}, added)
		case added:
			o.mark(addr)
		}
	}
	return nil
}

// origin returns the host an event comes from; "" is the switch itself, whose
// events carry no namespace number, or the client.
func (o *Observer) origin(oob []byte) (string, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return "", fmt.Errorf("parse an event's namespace number: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return o.hosts[int(int32(binary.NativeEndian.Uint32(m.Data)))], nil
		}
	}
	return "", nil
}

// parseAddr reads an ifaddrmsg (rtnetlink(7)): the address and its link.
func parseAddr(m syscall.NetlinkMessage) (addr netip.Addr, link uint32, err error) {
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("parse an address event: %w", err)
	}
	link = binary.NativeEndian.Uint32(m.Data[4:])
	for _, a := range attrs {
		// IFA_LOCAL is the host's own address; IFA_ADDRESS is too, unless the
		// link is point-to-point. IPv6 sends only the latter.
		local := a.Attr.Type == unix.IFA_LOCAL
		if v, ok := netip.AddrFromSlice(a.Value); ok && (local || a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid()) {
			addr = v
		}
	}
	if !addr.IsValid() {
		return addr, link, errors.New("parse an address event: it has no address")
	}
	return addr, link, nil
}

// record notes that a link got or lost an address; repeats (a renewed
// lifetime, a second link) change nothing.
func (o *Observer) record(at time.Time, vip netip.Addr, where place, held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	places, watched := o.held[vip]
	if !watched {
		return
	}
	before := len(o.holders(vip))
	if held {
		places[where] = true
	} else {
		delete(places, where)
	}
	if len(o.holders(vip)) != before {
		o.events[vip] = append(o.events[vip], Transition{at, where.host, held})
		o.wake()
	}
}

// wake tells waiters to look again; the caller has the lock.
func (o *Observer) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *Observer) mark(addr netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen[addr] = true
	o.wake()
}

func (o *Observer) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.wake()
}

// History returns everything that has happened to the VIP up to now: every
// address change that was made before the call is in it. An error means that
// the record is not complete.
func (o *Observer) History(ctx context.Context, vip netip.Addr) (History, error) {
	if err := o.sync(ctx); err != nil {
		return History{}, err
	}
	return o.history(vip), nil
}

func (o *Observer) history(vip netip.Addr) History {
	o.mu.Lock()
	defer o.mu.Unlock()
	return History{VIP: vip, Start: o.start, End: time.Now(), Transitions: slices.Clone(o.events[vip])}
}

// Await returns when exactly these hosts have the VIP.
func (o *Observer) Await(ctx context.Context, vip netip.Addr, hosts ...string) error {
	want := slices.Sorted(slices.Values(hosts))
	err := o.wait(ctx, func() bool { return slices.Equal(o.holders(vip), want) })
	if err != nil {
		return fmt.Errorf("wait for %s on %v, now on %v: %w", vip, want, o.history(vip).Holders(), err)
	}
	return nil
}

// AwaitHolder returns the host that has the VIP as soon as exactly one has
// it that is not among except.
func (o *Observer) AwaitHolder(ctx context.Context, vip netip.Addr, except ...string) (string, error) {
	var holder string
	err := o.wait(ctx, func() bool {
		now := o.holders(vip)
		if len(now) != 1 || slices.Contains(except, now[0]) {
			return false
		}
		holder = now[0]
		return true
	})
	if err != nil {
		return "", fmt.Errorf("wait for a holder of %s other than %v, now on %v: %w", vip, except, o.history(vip).Holders(), err)
	}
	return holder, nil
}

// holders returns who has the VIP now, in byte order; the caller has the lock.
func (o *Observer) holders(vip netip.Addr) []string {
	var hosts []string
	for p := range o.held[vip] {
		hosts = append(hosts, p.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// wait returns when ok, called with the lock held, says so.
func (o *Observer) wait(ctx context.Context, ok func() bool) error {
	for {
		o.mu.Lock()
		err, done, changed := o.err, ok(), o.changed
		o.mu.Unlock()
		if err != nil || done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sync returns when every event sent before the call is recorded: it has the
// switch itself make one, and waits for that.
func (o *Observer) sync(ctx context.Context) error {
	o.mu.Lock()
	n := o.marks
	o.marks++
	o.mu.Unlock()
	mark := netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(mark.AsSlice())}
	lo, err := o.fabric.nl.LinkByName("lo")
	if err == nil {
		err = o.fabric.nl.AddrAdd(lo, addr)
	}
	if err != nil {
		return fmt.Errorf("mark the observer's record: %w", err)
	}
	err = o.wait(ctx, func() bool { return o.seen[mark] })
	if err != nil {
		err = fmt.Errorf("wait for the observer to catch up: %w", err)
	}
	o.mu.Lock()
	delete(o.seen, mark)
	o.mu.Unlock()
	return errors.Join(err, o.fabric.nl.AddrDel(lo, addr))
}

// close stops the reader; the record stays readable, waiting does not.
func (o *Observer) close() {
	o.inbox.close()
	o.fail(ErrClosed)
}
