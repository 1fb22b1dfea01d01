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

	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"had/internal/clock"
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
// §7.2.6, RFC 4862 §5.4.2.
func TestFrames(t *testing.T) {
	mac := net.HardwareAddr{0x02, 0, 0x5e, 0, 0x53, 0x07}
	v4, v6 := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::1234:5678")
	parse := func(t *testing.T, frame []byte, err error) (*claimParser, claim) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		p := newClaimParser()
		c, ok := p.parse(frame)
		if !ok || c.mac != string(mac) {
			t.Errorf("claim = %v, %v; want one of %s", c, ok, mac)
		}
		return p, c
	}
	t.Run("ARP announcement", func(t *testing.T) {
		f, err := announcement(v4, mac)
		p, c := parse(t, f, err)
		if c.addr != v4 || p.arp.Operation != layers.ARPRequest || p.eth.DstMAC.String() != "ff:ff:ff:ff:ff:ff" ||
			!slices.Equal(p.arp.SourceProtAddress, p.arp.DstProtAddress) {
			t.Errorf("%+v", p.arp)
		}
	})
	t.Run("ARP probe", func(t *testing.T) {
		f, err := probe(v4, mac)
		p, c := parse(t, f, err)
		if c.addr != v4 || p.arp.Operation != layers.ARPRequest || !net.IP(p.arp.SourceProtAddress).IsUnspecified() {
			t.Errorf("%+v", p.arp)
		}
	})
	t.Run("unsolicited neighbour advertisement", func(t *testing.T) {
		f, err := announcement(v6, mac)
		p, c := parse(t, f, err)
		na := p.advertisement
		if c.addr != v6 || p.ip.DstIP.String() != "ff02::1" || p.ip.HopLimit != 255 || p.eth.DstMAC.String() != "33:33:00:00:00:01" ||
			!na.Override() || na.Solicited() || na.Router() || len(na.Options) != 1 || !slices.Equal(na.Options[0].Data, mac) {
			t.Errorf("%+v in %+v", na, p.ip)
		}
	})
	t.Run("neighbour solicitation of DAD", func(t *testing.T) {
		f, err := probe(v6, mac)
		p, c := parse(t, f, err)
		if c.addr != v6 || !p.ip.SrcIP.IsUnspecified() || p.ip.DstIP.String() != "ff02::1:ff34:5678" ||
			p.eth.DstMAC.String() != "33:33:ff:34:56:78" || p.ip.HopLimit != 255 || len(p.solicitation.Options) != 0 {
			t.Errorf("%+v in %+v", p.solicitation, p.ip)
		}
	})
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
			frame, err := build(a.Addr, mac)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(frame)
		}
	}
	p := newClaimParser()
	f.Fuzz(func(t *testing.T, frame []byte) {
		if c, ok := p.parse(frame); ok && (!c.addr.IsValid() || len(c.mac) != 6) {
			t.Errorf("claim %+v from %x", c, frame)
		}
	})
}
