package gate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Others' filters are asked after the gate, whatever they would say, and are
// all that Uninstall leaves.
func TestOthersFiltersStay(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	eth0 := here.get("eth0")
	must(t, here.link.QdiscAdd(clsact(eth0)))
	for _, d := range directions() {
		here.accept("eth0", d, unix.ETH_P_ALL)
	}
	other := config()
	other.Name = "another cluster"
	second, err := Open(other)
	must(t, err)
	defer second.Close()

	g := open(t)
	if missing, err := second.Check(); err != nil || len(missing) > 0 {
		t.Errorf("gates push each other aside: %v, %v", missing, err)
	}
	if names, err := Installed(); err != nil || !slices.Equal(names, []string{other.Name, config().Name}) {
		t.Errorf("installed are %q (%v)", names, err)
	}
	must(t, g.Admit(7, both()))
	here.assignVirtual("eth0")
	here.echo(vip4)
	client := there.dial(vip4)
	if answers(t, client, brief) {
		t.Error("a filter that accepts everything opened the gate")
	}
	must(t, g.Extend(7, soon()))
	if !answers(t, client, patient) {
		t.Error("the address doesn't answer within its lease")
	}

	err = Uninstall(config())
	if err == nil || !strings.Contains(err.Error(), vip4.String()) {
		t.Errorf("Uninstall of a gate that guards: %v", err)
	}
	must(t, g.Forget(7, both()))
	must(t, Uninstall(config()))
	must(t, Uninstall(config())) // nothing left to do
	for _, d := range directions() {
		left, err := here.link.FilterList(eth0, d.parent())
		must(t, err)
		var names []string
		for _, f := range left {
			names = append(names, f.(*netlink.BpfFilter).Name)
		}
		slices.Sort(names)
		if !slices.Equal(names, []string{"had-gate/another cluster", "somebody's"}) {
			t.Errorf("filters left at %s: %v", d, names)
		}
	}
	if _, err := Find(config()); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("Find after Uninstall: %v", err)
	}
}

// The gate is asked first or it isn't there: what another accepts before would
// never meet it.
func TestTheGateIsAskedFirst(t *testing.T) {
	t.Parallel()
	here := newHost(t)
	lo := here.get("lo")
	g := open(t)
	run(t, here, g)
	for n := range 2 { // by the second, Run has subscribed for sure
		here.accept("lo", egress, unix.ETH_P_ALL)
		eventually(t, "the gate to be asked first", func() bool {
			filters, err := here.link.FilterList(lo, egress.parent())
			must(t, err)
			return len(filters) == n+2 && filters[0].(*netlink.BpfFilter).Name == "had-gate/test"
		})
	}
}

func TestAHookWithSomebodyAheadIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("filter of one protocol", func(t *testing.T) {
		t.Parallel()
		here := newHost(t)
		must(t, here.link.QdiscAdd(clsact(here.get("lo"))))
		here.accept("lo", egress, unix.ETH_P_IP)
		if _, err := Open(config()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "lo egress: ") || !strings.Contains(err.Error(), "asked first") {
			t.Errorf("Open: %v", err)
		}
	})
	t.Run("tcx", func(t *testing.T) {
		t.Parallel()
		here := newHost(t)
		g := open(t)
		tcx, err := link.AttachTCX(link.TCXOptions{
			Interface: here.get("lo").Attrs().Index, Program: accepting(t), Attach: ebpf.AttachTCXIngress})
		must(t, err)
		if _, err := g.Check(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "lo ingress: ") {
			t.Errorf("Check: %v", err)
		}
		if err := g.Problem(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Problem: %v", err)
		}
		run(t, here, g)
		must(t, tcx.Close())
		eventually(t, "Run to notice that it has gone", func() bool { return g.Problem() == nil })
	})
}

// accept gives an interface somebody's filter that accepts all packets of a
// protocol, at the first priority.
func (h *host) accept(iface string, d direction, protocol uint16) {
	h.t.Helper()
	must(h.t, h.link.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: h.get(iface).Attrs().Index, Parent: d.parent(), Priority: 1, Protocol: protocol},
		Fd:          accepting(h.t).FD(), Name: "somebody's", DirectAction: true}))
}

func accepting(t testing.TB) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Another version's maps aren't taken for this one's.
func TestMapsOfAnotherShapeAreRefused(t *testing.T) {
	t.Parallel()
	newHost(t)
	m, err := newMaps()
	must(t, err)
	defer m.close()
	shape := guardedSpec()
	shape.MaxEntries++
	other, err := ebpf.NewMap(shape)
	must(t, err)
	defer func() { _ = other.Close() }()
	h, err := openHooks(config().Name)
	must(t, err)
	defer h.close()
	must(t, h.load(&maps{guarded: other, lease: m.lease}))
	_, err = h.attachAll()
	must(t, err)
	if _, err := Open(config()); err == nil || !strings.Contains(err.Error(), "had-gate/test") {
		t.Errorf("Open: %v; want the name of the filters to delete", err)
	}
}

// A host whose interface has tc's older qdisc can't have the gate there.
func TestAnIngressQdiscIsNamed(t *testing.T) {
	t.Parallel()
	here := newHost(t)
	must(t, here.link.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: here.get("lo").Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}))
	if _, err := Open(config()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "lo has an ingress qdisc") {
		t.Errorf("Open: %v", err)
	}
}

// clsact is the qdisc, for somebody else's hands.
func clsact(link netlink.Link) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}
