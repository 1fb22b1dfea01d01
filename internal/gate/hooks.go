package gate

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hooks is where a gate meets the interfaces of a network namespace: one
// filter for each direction, on the clsact qdisc of each.
type hooks struct {
	filterName string
	handle     *netlink.Handle

	// receiveBuffer is the size in bytes of subscribe's buffer: some thousand
	// reports. Tests make it overflow.
	receiveBuffer int

	mu       sync.Mutex       // one change of filters at a time
	programs [2]*ebpf.Program // by direction; nil before load
	ids      [2]ebpf.ProgramID
}

// openHooks opens the namespace of the calling thread.
func openHooks(name string) (*hooks, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	h := &hooks{filterName: gatePrefix + name, handle: handle, receiveBuffer: 1 << 20}
	if err := handle.SetSocketTimeout(kernelTimeout); err != nil {
		h.close()
		return nil, fmt.Errorf("bound the netlink socket's waits: %w", err)
	}
	return h, nil
}

func (h *hooks) close() {
	for _, p := range h.programs {
		_ = p.Close() // a descriptor; nil is fine
	}
	h.handle.Close()
}

// load puts both programs into the kernel, attached to nothing yet.
func (h *hooks) load(m *maps) error {
	for _, d := range directions() {
		p, err := load(d, m.guarded, m.lease)
		if err != nil {
			return err
		}
		h.programs[d] = p
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("describe the %s program: %w", d, err)
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("describe the %s program: the kernel gives it no ID", d)
		}
		h.ids[d] = id
	}
	return nil
}

// findMaps opens the maps of the first filter of this gate.
func (h *hooks) findMaps() (*maps, error) {
	links, err := h.links()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		for _, d := range directions() {
			filters, err := h.filters(link, d)
			if err != nil && !h.isGone(link) {
				return nil, err
			}
			ours, _ := h.ours(filters)
			for _, f := range ours {
				m, err := mapsOf(ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
				if err != nil {
					return nil, fmt.Errorf("take over the gate on %s %s (if it is another version's, and no address is on this host, delete the filters named %s): %w",
						link.Attrs().Name, d, h.filterName, err)
				}
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("find %s: %w", h.filterName, ErrNotInstalled)
}

// attachAll sees to it that on every interface both hooks ask this process's
// programs first. It returns where that wasn't so, as "eth0 ingress"; beside an
// error the rest is attached all the same.
func (h *hooks) attachAll() ([]string, error) {
	links, err := h.links()
	if err != nil {
		return nil, err
	}
	var changed []string
	var errs []error
	for _, link := range links {
		c, err := h.attach(link)
		changed, errs = append(changed, c...), append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// attach is attachAll for one interface. That it has gone is fine.
func (h *hooks) attach(link netlink.Link) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var changed []string
	for _, d := range directions() {
		c, err := h.attachTo(link, d)
		if err != nil {
			if h.isGone(link) {
				return nil, nil
			}
			return changed, fmt.Errorf("attach the gate to %s %s: %w", link.Attrs().Name, d, err)
		}
		if c {
			changed = append(changed, link.Attrs().Name+" "+d.String())
		}
	}
	return changed, nil
}

func (h *hooks) attachTo(link netlink.Link, d direction) (bool, error) {
	if err := checkTCX(link, d); err != nil {
		return false, err
	}
	filters, err := h.filters(link, d)
	if err != nil {
		return false, err
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: d.parent(), Priority: priority, Protocol: unix.ETH_P_ALL},
		Fd: h.programs[d].FD(), Name: h.filterName, DirectAction: true,
	}
	ours, first := h.ours(filters)
	if first {
		b := ours[0].(*netlink.BpfFilter)
		if ebpf.ProgramID(b.Id) == h.ids[d] {
			return false, nil
		}
		// The kernel exchanges the program of a filter that is there
		// (cls_bpf_change), so no packet goes past it.
		filter.Handle = b.Handle
		return true, h.handle.FilterReplace(filter)
	}
	if other := blocking(filters); other != nil {
		return false, unavailable(fmt.Sprintf("a %s filter is asked first, at priority %d: move it behind", other.Type(), priority), unix.EBUSY)
	}
	if err := h.addQdisc(link); err != nil {
		return false, err
	}
	// The newest is asked first, so the old one can go once it is there.
	if err := h.handle.FilterAdd(filter); err != nil {
		return false, err
	}
	return true, h.remove(ours)
}

// priority is the first there is. Filters of one priority share their kind and
// protocol; of those of BPF the one added last is asked first (cls_bpf_change).
const priority = 1

// gatePrefix begins the filter name of every gate.
const gatePrefix = "had-gate/"

// ours picks this gate's filters, of whatever version of had, and reports
// whether the first of them is asked before all others but gates. What others
// accept before never meets the gate.
func (h *hooks) ours(filters []netlink.Filter) (ours []netlink.Filter, first bool) {
	ahead := false
	for _, f := range filters { // in the order in which they are asked
		b, ok := f.(*netlink.BpfFilter)
		switch {
		case ok && b.Name == h.filterName:
			ours = append(ours, f)
			first = first || !ahead
		case ok && strings.HasPrefix(b.Name, gatePrefix):
		case f.Attrs().Chain != nil && *f.Attrs().Chain != 0: // only asked when another sends packets there
		default:
			ahead = true
		}
	}
	return ours, first
}

// blocking returns a filter that keeps ours from being at the first priority.
func blocking(filters []netlink.Filter) netlink.Filter {
	for _, f := range filters {
		if f.Attrs().Priority == priority && (f.Type() != "bpf" || f.Attrs().Protocol != unix.ETH_P_ALL) {
			return f
		}
	}
	return nil
}

// checkTCX refuses an interface with tcx programs (Linux 6.6), which are asked
// before every filter and whose word is final.
func checkTCX(link netlink.Link, d direction) error {
	kind := ebpf.AttachTCXIngress
	if d == egress {
		kind = ebpf.AttachTCXEgress
	}
	found, err := ebpflink.QueryPrograms(ebpflink.QueryOptions{Target: link.Attrs().Index, Attach: kind})
	switch {
	case errors.Is(err, unix.EINVAL): // a kernel without tcx
		return nil
	case err != nil:
		return fmt.Errorf("look for tcx programs: %w", err)
	case len(found.Programs) > 0:
		return unavailable(fmt.Sprintf("a tcx program, %d, is asked first: take it off the interface", found.Programs[0].ID), unix.EBUSY)
	}
	return nil
}

// addQdisc gives the interface the clsact qdisc, unless it has it.
func (h *hooks) addQdisc(link netlink.Link) error {
	err := h.handle.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	qdiscs, err := again(func() ([]netlink.Qdisc, error) { return h.handle.QdiscList(link) })
	if err != nil {
		return fmt.Errorf("list its qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		// Both sit at the same place (tc-ingress is clsact without egress).
		if q.Attrs().Parent == netlink.HANDLE_CLSACT && q.Type() == "ingress" {
			return unavailable(fmt.Sprintf("%s has an ingress qdisc where clsact would go; give it clsact instead, which serves the same filters", link.Attrs().Name), unix.EEXIST)
		}
	}
	return nil
}

// detachAll removes this gate's filters and nothing else.
func (h *hooks) detachAll() error {
	links, err := h.links()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		for _, d := range directions() {
			filters, err := h.filters(link, d)
			if err == nil {
				ours, _ := h.ours(filters)
				err = h.remove(ours)
			}
			if err != nil && !h.isGone(link) {
				errs = append(errs, fmt.Errorf("take the gate off %s %s: %w", link.Attrs().Name, d, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (h *hooks) remove(filters []netlink.Filter) error {
	var errs []error
	for _, f := range filters {
		f.(*netlink.BpfFilter).Fd = -1 // not the program's descriptor but its ID is known
		errs = append(errs, h.handle.FilterDel(f))
	}
	return errors.Join(errs...)
}

func (h *hooks) links() ([]netlink.Link, error) {
	links, err := again(h.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	return links, nil
}

func (h *hooks) filters(link netlink.Link, d direction) ([]netlink.Filter, error) {
	filters, err := again(func() ([]netlink.Filter, error) { return h.handle.FilterList(link, d.parent()) })
	if err != nil {
		return nil, fmt.Errorf("list the filters of %s %s: %w", link.Attrs().Name, d, err)
	}
	return filters, nil
}

// attachIndex is attach for an interface that a report named.
func (h *hooks) attachIndex(index int) ([]string, error) {
	link, err := h.handle.LinkByIndex(index)
	if err != nil {
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
			return nil, nil
		}
		return nil, fmt.Errorf("look at interface %d: %w", index, err)
	}
	return h.attach(link)
}

// isGone reports whether an interface no longer exists, which explains an
// error about it.
func (h *hooks) isGone(link netlink.Link) bool {
	_, err := h.handle.LinkByIndex(link.Attrs().Index)
	_, gone := errors.AsType[netlink.LinkNotFoundError](err)
	return gone
}

// again repeats a dump that was interrupted by a change: it may miss
// something.
func again[T any](dump func() ([]T, error)) ([]T, error) {
	const attempts = 10
	var found []T
	var err error
	for range attempts {
		if found, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}
