package vip

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	h := newWired(t)
	h.assign("eth0", "192.0.2.1/24")
	h.assign("eth0", "2001:db8::1/64")
	h.assign("lo", "192.0.2.65/26")    // more specific than eth0's
	h.assign("lo", "198.51.100.10/32") // no subnet
	h.assign("eth0", "203.0.113.1/24")
	h.assign("lo", "203.0.113.2/24") // as specific; lo has the lower index

	cases := []struct{ addr, iface, want string }{
		{"192.0.2.10", "", "192.0.2.10 on eth0"},
		{"192.0.2.70", "", "192.0.2.70 on lo"},
		{"::ffff:192.0.2.10", "", "192.0.2.10 on eth0"},
		{"203.0.113.9", "", "203.0.113.9 on lo"},
		{"2001:db8::10", "", "2001:db8::10 on eth0"},
		{"198.51.100.7", "eth0", "198.51.100.7 on eth0"},
		{"198.51.100.10", "", "no interface has a subnet that contains 198.51.100.10: name one with `interface = \"…\"`"},
		{"192.0.2.10", "eth1", `interface "eth1" doesn't exist on this host: it has eth0, lo`},
		{"fe80::1", "eth0", "link-local"},
		{"2001:db8::1%eth0", "eth0", "link-local"},
		{"224.0.0.1", "eth0", "isn't the address of one host"},
		{"::", "eth0", "isn't the address of one host"},
	}
	var want []Wanted
	for _, c := range cases {
		want = append(want, Wanted{netip.MustParseAddr(c.addr), c.iface})
	}
	for i, r := range Resolve(want) {
		c := cases[i]
		got := r.String()
		if r.Err != nil {
			got = r.Err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("Resolve(%s, %q) = %s; want %s", c.addr, c.iface, got, c.want)
		}
	}
	if r := Resolve([]Wanted{{}}); r[0].Err == nil {
		t.Error("no address at all was resolved")
	}
}

func TestTheZeroPresenceIsUnknown(t *testing.T) {
	var p Presence
	if p != Unknown || p.String() != "unknown" || p == Inactive {
		t.Errorf("the zero Presence is %s", p)
	}
}

func TestCarrierAndHardwareAddrs(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	there.down("eth0")
	eventually(t, "the carrier to go", func() bool {
		up, err := carrier(&netlink.Handle{}, "eth0")
		return !up && err == nil
	})
	if _, err := carrier(&netlink.Handle{}, "eth1"); err == nil || !strings.Contains(err.Error(), "it has eth0, lo") {
		t.Errorf("Carrier of no interface: %v", err)
	}
	macs, err := HardwareAddrs()
	if err != nil || len(macs) != 1 || !slices.Equal(macs[0], here.mac()) {
		t.Errorf("HardwareAddrs() = %v, %v; want only eth0's %s", macs, err, here.mac())
	}
}
