package vip

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernel is the routing netlink (rtnetlink(7)) of the network namespace it
// was opened in.
type kernel struct {
	handle *netlink.Handle // dumps and interfaces
	batch  batchSocket     // changes of addresses

	// list is the one place that reads the kernel's addresses: tests make it
	// fail, so that all above it is what runs in production.
	list func(link netlink.Link, family int) ([]netlink.Addr, error)
}

// kernelTimeout bounds every wait for an answer. rtnetlink answers in
// microseconds, before sendmsg(2) returns; only a kernel bug takes longer.
const kernelTimeout = 2 * time.Second

func openKernel() (*kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := handle.SetSocketTimeout(kernelTimeout); err != nil {
		handle.Close()
		return nil, fmt.Errorf("bound the netlink socket's waits: %w", err)
	}
	k := &kernel{handle: handle, list: handle.AddrList}
	if err := k.batch.open(); err != nil {
		handle.Close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) close() {
	k.handle.Close()
	k.batch.socket.Close()
}

// placed is an address as the kernel has it.
type placed struct {
	addr  netip.Addr
	index int // of the interface
	bits  int // prefix length
}

// isHost reports whether it has the form in which this package adds addresses.
func (p placed) isHost() bool { return p.bits == p.addr.BitLen() }

// find returns where the kernel has any of addrs, on all interfaces and with
// any prefix length. What it returns beside an error is there, but may not be
// all.
func (k *kernel) find(addrs map[netip.Addr]bool) ([]placed, error) {
	assigned, err := listAddrs(k.list, netlink.FAMILY_ALL)
	var found []placed
	for _, a := range assigned {
		p, ok := prefix(a.IPNet)
		if !ok || !addrs[p.Addr()] {
			continue
		}
		bits := p.Bits()
		if a.Peer != nil {
			bits, _ = a.Peer.Mask.Size()
		}
		found = append(found, placed{addr: p.Addr(), index: a.LinkIndex, bits: bits})
	}
	return found, err
}

// listAddrs dumps the addresses of a family, again if they changed meanwhile:
// such a dump may miss some.
func listAddrs(list func(netlink.Link, int) ([]netlink.Addr, error), family int) ([]netlink.Addr, error) {
	const attempts = 10
	var assigned []netlink.Addr
	var err error
	for range attempts {
		assigned, err = list(nil, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return assigned, err
}

// setRequest adds the address or renews its lifetime.
func setRequest(p placed, lifetime time.Duration) *nl.NetlinkRequest {
	seconds := uint32(lifetime / time.Second)
	life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: seconds, Prefered: seconds}}
	var flags uint32
	if p.addr.Is6() {
		// Never preferred: the host's own connections must not start from an
		// address that moves away (RFC 6724 rule 3). v4 has no such rule.
		life.Prefered = 0
		// Without DAD it is usable at once; Conflicts has asked already. The
		// prefix route of a /128 would outlive the deletion of the address by
		// its whole lifetime and point at this interface.
		flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	req := addressRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, p)
	if flags != 0 {
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	return req
}

// deleteRequest removes the address in exactly the form given.
func deleteRequest(p placed) *nl.NetlinkRequest {
	return addressRequest(unix.RTM_DELADDR, 0, p)
}

func addressRequest(kind, flags int, p placed) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	msg := nl.NewIfAddrmsg(familyOf(p.addr))
	msg.Index = uint32(p.index)
	msg.Prefixlen = uint8(p.bits)
	req.AddData(msg)
	raw := p.addr.AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, raw))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, raw))
	return req
}

// batchSize is how many requests go into one sendmsg(2). It bounds how far a
// Set can run past its deadline, and for how long a kernel without preemption
// does nothing else on that CPU: 32 addresses take it less than 1 ms, 8 ms where
// there are a thousand IPv6 addresses (DESIGN.md).
const batchSize = 32

// batchSocket sends many requests in one system call. Not only for speed: a
// process can't be stopped inside it, so that between the look at the clock
// and the last address of the batch there is only the kernel's own work.
type batchSocket struct {
	mu     sync.Mutex
	socket *nl.NetlinkSocket
	seq    uint32
}

func (b *batchSocket) open() error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(kernelTimeout.Nanoseconds())
	// Room for a refusal of every request of a batch; each is about 1 KiB.
	err = errors.Join(s.SetReceiveTimeout(&timeout), s.SetReceiveBufferSize(4<<20, true), s.SetExtAck(true))
	if err != nil {
		s.Close()
		return fmt.Errorf("prepare a netlink socket (it needs CAP_NET_ADMIN): %w", err)
	}
	b.socket = s
	return nil
}

// execute runs at most batchSize requests in order, each whatever became of
// those before it. It returns the kernel's refusals by position; the error is
// for a batch of which nothing is known.
func (b *batchSocket) execute(reqs []*nl.NetlinkRequest) (map[int]error, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seq > math.MaxUint32-batchSize {
		b.seq = 0
	}
	first := b.seq + 1
	last := b.seq + uint32(len(reqs))
	b.seq = last
	var wire []byte
	for i, req := range reqs {
		req.Seq = first + uint32(i)
		// A refusal is always reported; one acknowledgement at the end says
		// that all were looked at.
		if req.Seq == last {
			req.Flags |= unix.NLM_F_ACK
		}
		wire = append(wire, req.Serialize()...) // every attribute is padded to 4 bytes
	}
	if err := unix.Sendto(b.socket.GetFd(), wire, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send %d requests to the kernel: %w", len(reqs), err)
	}
	refused := map[int]error{}
	for {
		replies, _, err := b.socket.Receive()
		if err != nil {
			return nil, fmt.Errorf("read the kernel's answer to %d requests: %w", len(reqs), err)
		}
		for _, m := range replies {
			seq := m.Header.Seq
			if m.Header.Type != unix.NLMSG_ERROR || seq < first || seq > last {
				continue // left over from a batch that timed out
			}
			if err := refusal(m); err != nil {
				refused[int(seq-first)] = err
			}
			if seq == last {
				return refused, nil
			}
		}
	}
}

// refusal decodes an NLMSG_ERROR message: nil is an acknowledgement. The
// kernel's own explanation, if there is one, follows the echoed request.
func refusal(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4+unix.SizeofNlMsghdr {
		return fmt.Errorf("the kernel's answer has only %d bytes", len(m.Data))
	}
	native := nl.NativeEndian()
	errno := syscall.Errno(-int32(native.Uint32(m.Data)))
	if errno == 0 {
		return nil
	}
	echoed := int(native.Uint32(m.Data[4:])) // nlmsghdr.nlmsg_len of the request
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || 4+echoed > len(m.Data) {
		return errno
	}
	attrs, err := nl.ParseRouteAttr(m.Data[4+echoed:])
	if err != nil {
		return errno
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", errno, nl.BytesToString(a.Value))
		}
	}
	return errno
}

// index finds an interface. It is asked at every renewal, and netdevice(7) costs
// a twentieth of what rtnetlink does, whose answer has all there is to say of it.
func (k *kernel) index(name string) (int, error) {
	if req, err := unix.NewIfreq(name); err == nil {
		if err := unix.IoctlIfreq(k.batch.socket.GetFd(), unix.SIOCGIFINDEX, req); err == nil {
			return int(req.Uint32()), nil
		}
	}
	link, err := linkByName(k.handle, name) // by another of its names, or not at all
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// name returns an interface's name for a message.
func (k *kernel) name(index int) string {
	link, err := k.handle.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}
