package gate

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// A gate that another cluster left is taken off as soon as that opens nothing:
// an address that this gate guards by now must not keep it for ever.
func TestTakeOff(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	earlier := config()
	earlier.Name = "earlier"
	old, err := Open(earlier)
	must(t, err)
	defer old.Close()
	g := open(t)
	all := func(a []netip.Addr) ([]netip.Addr, error) { return a, nil }
	none := func([]netip.Addr) ([]netip.Addr, error) { return nil, nil }
	refused := func(want string, onHost func([]netip.Addr) ([]netip.Addr, error)) {
		t.Helper()
		if err := g.TakeOff(earlier.Name, onHost); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("TakeOff: %v; want an error with %q", err, want)
		}
		if _, err := Find(earlier); err != nil {
			t.Fatalf("it is gone all the same: %v", err)
		}
	}

	must(t, old.Admit(7, both()))
	must(t, old.Extend(7, soon()))
	refused("lease of epoch 7", none)
	old.Shut(7)
	refused(vip4.String(), all)
	refused("unreadable", func([]netip.Addr) ([]netip.Addr, error) { return nil, errors.New("unreadable") })

	must(t, g.Admit(1, []netip.Addr{vip4}))
	refused(vip6.String(), all)
	must(t, g.Admit(1, both()))
	here.assignVirtual("eth0")
	here.echo(vip4)
	client := there.dial(vip4)
	must(t, g.TakeOff(earlier.Name, all))
	if answers(t, client, brief) {
		t.Error("what this gate guards was opened with the other")
	}
	must(t, g.Extend(1, soon()))
	if !answers(t, client, patient) {
		t.Error("the address doesn't answer within its lease")
	}
	if _, err := Find(earlier); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("Find after TakeOff: %v", err)
	}
	must(t, g.TakeOff(earlier.Name, all)) // nothing left to do
}
