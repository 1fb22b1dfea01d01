package vip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/frame"
)

var formerOwner = net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0x01}

// The other side believes in a former owner, as after a crash, and learned it
// this very moment: the kernel's locktime doesn't protect it.
func TestAnAnnouncementReplacesWhatNeighboursRemember(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	there.assign("eth0", "192.0.2.1/24")
	there.assign("eth0", "2001:db8::1/64")
	m := manager(t, 2*time.Second, clock.Now)
	addrs := on("eth0", "192.0.2.10", "2001:db8::10")
	for _, a := range addrs {
		there.remember(a.Addr, formerOwner)
	}
	if err := m.Announce(t.Context(), addrs); err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		eventually(t, "the neighbour to learn of "+a.String(), func() bool {
			return slices.Equal(there.remembered(a.Addr), here.mac())
		})
	}
}

// What goes over the wire, field by field: RFC 5227 §3 and §2.1.1, RFC 4861
// §7.2.6, RFC 4862 §5.4.2. Somebody else reads it, and its checksums.
func TestFrames(t *testing.T) {
	mac := net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0x07}
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::1234:5678")
	parse := func(t *testing.T, addr netip.Addr, f []byte, err error) *wire {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := parseClaim(f); !ok || c != (claim{addr, frame.MAC(mac)}) {
			t.Errorf("claim = %v, %v; want one of %s at %s", c, ok, addr, mac)
		}
		return readFrame(t, f)
	}
	t.Run("ARP announcement", func(t *testing.T) {
		f, err := announcement(v4, mac)
		w := parse(t, v4, f, err)
		if w.arp.Operation != layers.ARPRequest || w.eth.DstMAC.String() != "ff:ff:ff:ff:ff:ff" ||
			!slices.Equal(w.arp.SourceProtAddress, w.arp.DstProtAddress) {
			t.Errorf("%+v", w.arp)
		}
	})
	t.Run("ARP probe", func(t *testing.T) {
		f, err := probe(v4, mac)
		w := parse(t, v4, f, err)
		if w.arp.Operation != layers.ARPRequest || !net.IP(w.arp.SourceProtAddress).IsUnspecified() {
			t.Errorf("%+v", w.arp)
		}
	})
	t.Run("unsolicited neighbour advertisement", func(t *testing.T) {
		f, err := announcement(v6, mac)
		w := parse(t, v6, f, err)
		na := w.advertisement
		if w.ip.DstIP.String() != "ff02::1" || w.ip.HopLimit != 255 || w.eth.DstMAC.String() != "33:33:00:00:00:01" ||
			!na.Override() || na.Solicited() || na.Router() || len(na.Options) != 1 || !slices.Equal(na.Options[0].Data, mac) {
			t.Errorf("%+v in %+v", na, w.ip)
		}
	})
	t.Run("neighbour solicitation of DAD", func(t *testing.T) {
		f, err := probe(v6, mac)
		w := parse(t, v6, f, err)
		if !w.ip.SrcIP.IsUnspecified() || w.ip.DstIP.String() != "ff02::1:ff34:5678" ||
			w.eth.DstMAC.String() != "33:33:ff:34:56:78" || w.ip.HopLimit != 255 || len(w.solicitation.Options) != 0 {
			t.Errorf("%+v in %+v", w.solicitation, w.ip)
		}
	})
}

// wire is a frame as gopacket reads it.
type wire struct {
	eth           layers.Ethernet
	arp           layers.ARP
	ip            layers.IPv6
	icmp          layers.ICMPv6
	advertisement layers.ICMPv6NeighborAdvertisement
	solicitation  layers.ICMPv6NeighborSolicitation
}

func readFrame(t *testing.T, f []byte) *wire {
	t.Helper()
	w := &wire{}
	p := gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &w.eth, &w.arp, &w.ip, &w.icmp, &w.advertisement, &w.solicitation)
	p.IgnoreUnsupported = true // padding
	var found []gopacket.LayerType
	if err := p.DecodeLayers(f, &found); err != nil {
		t.Fatalf("read %x: %v", f, err)
	}
	if slices.Contains(found, layers.LayerTypeICMPv6) {
		err := w.icmp.SetNetworkLayerForChecksum(&w.ip)
		wrong, sum := w.icmp.VerifyChecksum()
		if err != nil || wrong != nil || !sum.Valid {
			t.Errorf("checksum of %x: %+v, %v, %v", f, sum, wrong, err)
		}
	}
	return w
}

func TestConflictsNameTheOtherHost(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	there.assign("eth0", "192.0.2.10/24")
	there.assign("eth0", "2001:db8::10/64")
	m := manager(t, 2*time.Second, clock.Now)
	used, free := on("eth0", "192.0.2.10", "2001:db8::10"), on("eth0", "192.0.2.11", "2001:db8::11")
	const window = 100 * time.Millisecond

	found, err := m.Conflicts(t.Context(), slices.Concat(free, used), window, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range found {
		got = append(got, c.String())
	}
	want := []string{"192.0.2.10 on eth0 is used by " + there.mac().String(), "2001:db8::10 on eth0 is used by " + there.mac().String()}
	if !slices.Equal(got, want) {
		t.Errorf("conflicts = %v, want %v", got, want)
	}

	for name, known := range map[string][]net.HardwareAddr{"known": {there.mac()}, "somebody else": {formerOwner}} {
		found, err := m.Conflicts(t.Context(), used, window, known)
		if err != nil || (len(found) == 0) != (name == "known") {
			t.Errorf("the answer's MAC is %s: %v, %v", name, found, err)
		}
	}
	if found, err := m.Conflicts(t.Context(), free, window, nil); err != nil || len(found) > 0 {
		t.Errorf("free addresses: %v, %v", found, err)
	}
	// What this host holds itself is no conflict either.
	here.assign("eth0", "192.0.2.12/32")
	if found, err := m.Conflicts(t.Context(), on("eth0", "192.0.2.12"), window, nil); err != nil || len(found) > 0 {
		t.Errorf("our own address: %v, %v", found, err)
	}
}

// Another host that only asks, or only announces, is a conflict too: nobody
// has the address yet and both are about to.
func TestConflictsSeeOtherProbesAndAnnouncements(t *testing.T) {
	t.Parallel()
	_, there := newPair(t)
	m := manager(t, 2*time.Second, clock.Now)
	addrs := on("eth0", "192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11")
	var frames [][]byte
	for i, a := range addrs {
		build := probe
		if i%2 == 1 {
			build = announcement
		}
		f, err := build(a.Addr, formerOwner)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	there.in(func() {
		link := there.get("eth0").Attrs()
		conn, err := packet.Listen(&net.Interface{Index: link.Index, HardwareAddr: link.HardwareAddr}, packet.Raw, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(func() { cancel(); <-done; _ = conn.Close() })
		go func() { // until the test has seen them
			defer close(done)
			for ctx.Err() == nil {
				for _, f := range frames {
					_, _ = conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]})
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	})
	found, err := m.Conflicts(t.Context(), addrs, 100*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range addrs {
		if i >= len(found) || found[i].Address != a || !slices.Equal(found[i].MAC, formerOwner) {
			t.Errorf("conflicts = %v, want one with %s for each of %v", found, formerOwner, addrs)
			break
		}
	}
}

func TestInterfacesWithoutNeighboursAreSkipped(t *testing.T) {
	t.Parallel()
	newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	addrs := on("lo", "192.0.2.10", "2001:db8::10")
	if err := m.Announce(t.Context(), addrs); err != nil {
		t.Errorf("Announce on lo: %v", err)
	}
	if found, err := m.Conflicts(t.Context(), addrs, time.Millisecond, nil); err != nil || len(found) > 0 {
		t.Errorf("Conflicts on lo: %v, %v", found, err)
	}
}

func TestNetworkErrorsNameTheInterface(t *testing.T) {
	t.Parallel()
	here := newWired(t)
	m := manager(t, 2*time.Second, clock.Now)
	addrs := on("eth0", "192.0.2.10")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Announce(ended, addrs); !errors.Is(err, context.Canceled) {
		t.Errorf("Announce after the context's end: %v", err)
	}
	if _, err := m.Conflicts(ended, addrs, time.Hour, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Conflicts after the context's end: %v", err)
	}
	if _, err := m.Conflicts(t.Context(), addrs, 0, nil); err == nil {
		t.Error("a window of nothing was accepted")
	}
	here.down("eth0")
	err := m.Announce(t.Context(), addrs)
	if !errors.Is(err, unix.ENETDOWN) || !strings.Contains(err.Error(), "on eth0") {
		t.Errorf("Announce on an interface that is down: %v", err)
	}
	_, err = m.Conflicts(t.Context(), addrs, time.Millisecond, nil)
	if !errors.Is(err, unix.ENETDOWN) || !strings.Contains(err.Error(), "on eth0") {
		t.Errorf("Conflicts on an interface that is down: %v", err)
	}
	if err := m.Announce(t.Context(), on("eth5", "192.0.2.10")); err == nil || !strings.Contains(err.Error(), "it has eth0, lo") {
		t.Errorf("Announce on no interface: %v", err)
	}
}

func FuzzClaims(f *testing.F) {
	mac := net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0x07}
	for _, a := range on("", "192.0.2.10", "2001:db8::10") {
		for _, build := range []func(netip.Addr, net.HardwareAddr) ([]byte, error){probe, announcement} {
			b, err := build(a.Addr, mac)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := parseClaim(b); ok && c.addr.Is4() != (b[13] == frame.TypeARP&0xff) {
			t.Errorf("claim %+v from %x", c, b)
		}
	})
}
