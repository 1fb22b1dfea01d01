package vip

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/clock"
)

func TestHoldersNameTheOtherHost(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	there.assign("eth0", "192.0.2.10/24")
	there.assign("eth0", "2001:db8::10/64")
	m := manager(t, 2*time.Second, clock.Now)
	used, free := on("eth0", "192.0.2.10", "2001:db8::10"), on("eth0", "192.0.2.11", "2001:db8::11")
	const window = 100 * time.Millisecond

	if _, err := m.Holders(t.Context(), free[:1], window, nil); err == nil || !strings.Contains(err.Error(), "no address of that family") {
		t.Errorf("asked without an address of its own: %v", err)
	}
	here.assign("eth0", "192.0.2.1/24")
	here.assign("eth0", "2001:db8::1/64")
	found, err := m.Holders(t.Context(), slices.Concat(free, used), window, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range found {
		got = append(got, c.String())
	}
	want := []string{"192.0.2.10 on eth0 is used by " + there.mac().String(), "2001:db8::10 on eth0 is used by " + there.mac().String()}
	if !slices.Equal(got, want) {
		t.Errorf("holders = %v, want %v", got, want)
	}
}

// A host that looks who has an address must not keep another from taking it over.
func TestAQuestionIsNoClaim(t *testing.T) {
	for own, addr := range map[string]string{"192.0.2.1": "192.0.2.10", "fe80::1": "2001:db8::10"} {
		f, err := question(netip.MustParseAddr(own), netip.MustParseAddr(addr), formerOwner)
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := parseClaim(f); ok && c.addr == netip.MustParseAddr(addr) {
			t.Errorf("the question of %s for %s claims it: %v", own, addr, c)
		}
		if p, err := probe(netip.MustParseAddr(addr), formerOwner); err != nil {
			t.Fatal(err)
		} else if c, ok := parseClaim(p); !ok || c.addr != netip.MustParseAddr(addr) {
			t.Errorf("a probe for %s claims nothing: %v", addr, c)
		}
	}
}
