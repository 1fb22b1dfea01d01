package gate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/vip"
)

// What drivers make of packets: a head that isn't all in the first piece, where
// the program has to look for it, and a priority tag, which Linux takes off
// without a VLAN interface (IEEE 802.1Q: VLAN 0 is none).
func TestDriversPackets(t *testing.T) {
	t.Parallel()
	const page = 8000 // bytes of payload: in one page all would be in one piece
	peer := netip.MustParseAddr("192.0.2.2")
	plain := udp(peer, vip4, page)
	tagged := slices.Concat(plain[:12], []byte{0x81, 0x00, 0xe0, 0x00}, plain[12:])
	for name, frame := range map[string][]byte{
		"head in a later piece":             behind(14, plain),
		"priority tag":                      behind(0, tagged),
		"priority tag, head in later piece": behind(18, tagged),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here := newHost(t)
			tap := here.tap("tap0")
			copy(frame[virtioHeader:], here.get("tap0").Attrs().HardwareAddr) // its destination
			g := open(t)
			must(t, g.Admit(7, both()))
			here.assignVirtual("tap0")
			here.assign("tap0", "192.0.2.1/24")
			conn := here.listen(vip4)
			arrives := func() bool {
				t.Helper()
				_, err := tap.Write(frame)
				must(t, err)
				must(t, conn.SetReadDeadline(time.Now().Add(brief)))
				n, err := conn.Read(make([]byte, page))
				return err == nil && n == page
			}
			if arrives() {
				t.Error("it came through a closed gate")
			}
			must(t, g.Extend(7, soon()))
			eventually(t, "it to come through an open gate", arrives)
		})
	}
}

// virtioHeader is the size of struct virtio_net_hdr (linux/virtio_net.h).
const virtioHeader = 10

// behind puts a frame behind a struct virtio_net_hdr without offloads. The
// kernel puts the frame's first bytes, as many as said, into the first piece; 0
// leaves it the choice.
func behind(first uint16, frame []byte) []byte {
	header := make([]byte, virtioHeader)
	binary.NativeEndian.PutUint16(header[2:], first) // hdr_len
	return slices.Concat(header, frame)
}

// tap makes an interface whose frames are read and written by this test, each
// behind a struct virtio_net_hdr.
func (h *host) tap(name string) *os.File {
	h.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_ONE_QUEUE}
	must(h.t, h.link.LinkAdd(tap))
	h.t.Cleanup(func() { _ = tap.Fds[0].Close() })
	must(h.t, h.link.LinkSetMTU(h.get(name), 9000))
	h.up(name)
	return tap.Fds[0]
}

// Announcements of an address whose lease is over stay on this host: they would
// draw clients away from the new owner.
func TestAStaleAnnouncementStaysHere(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	g := open(t)
	must(t, g.Admit(7, both()))
	there.remember(mac)
	if err := here.announce(); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("announce through a closed gate: %v; want to be told", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), brief)
	defer stop()
	<-ctx.Done()
	if !there.believes(mac) {
		t.Error("an announcement left a host whose lease is over")
	}
	must(t, g.Extend(7, soon()))
	must(t, here.announce())
	eventually(t, "the neighbour to hear the owner", func() bool { return there.believes(here.mac()) })
}

func TestANewOwnersAnnouncementComesIn(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	must(t, open(t).Admit(7, both()))
	here.remember(mac)
	must(t, there.announce())
	eventually(t, "this host to hear the new owner", func() bool { return here.believes(there.mac()) })
}

// announce tells the neighbours that the host has both virtual addresses.
func (h *host) announce() (err error) {
	h.t.Helper()
	h.in(func() {
		m, newErr := vip.New(vip.Config{Lifetime: 2 * time.Second, Now: clock.Now})
		must(h.t, newErr)
		defer m.Close()
		err = m.Announce(h.t.Context(), []vip.Address{{Addr: vip4, Interface: "eth0"}, {Addr: vip6, Interface: "eth0"}})
	})
	return err
}

// remember puts both virtual addresses into the host's neighbour cache.
func (h *host) remember(at net.HardwareAddr) {
	h.t.Helper()
	for _, addr := range both() {
		must(h.t, h.link.NeighSet(&netlink.Neigh{LinkIndex: h.get("eth0").Attrs().Index,
			State: unix.NUD_STALE, IP: addr.AsSlice(), HardwareAddr: at}))
	}
}

// believes reports whether the host's neighbour cache has both at a MAC.
func (h *host) believes(at net.HardwareAddr) bool {
	h.t.Helper()
	return slices.Equal(h.remembered(vip4), at) && slices.Equal(h.remembered(vip6), at)
}

// FuzzOthersPackets holds that the gate drops nothing that doesn't contain a
// guarded address.
func FuzzOthersPackets(f *testing.F) {
	for _, r := range rules() {
		f.Add(r.frame)
	}
	m, in, out := programs(f)
	must(f, (&Gate{Control: Control{maps: m}}).Admit(7, both()))
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, run := range []func([]byte) (int32, error){in, out} {
			verdict, err := run(frame)
			if err != nil {
				return // the kernel makes no packet of it
			}
			mentioned := bytes.Contains(frame, vip4.AsSlice()) || bytes.Contains(frame, vip6.AsSlice())
			if verdict != actUnspec && (verdict != actShot || !mentioned) {
				t.Errorf("verdict %d on % x", verdict, frame)
			}
		}
	})
}
