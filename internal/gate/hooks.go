package gate

import (
	"errors"
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// hooks is where a gate meets the interfaces of a network namespace: one
// filter for each direction, on the clsact qdisc of each.
type hooks struct {
	filterName string
	logger     hclog.Logger
	namespace  netns.NsHandle
	handle     *netlink.Handle

	// receiveBuffer is the size in bytes of subscribe's buffer: some thousand
	// reports. Tests make it overflow.
	receiveBuffer int

	mu       sync.Mutex       // one change of filters at a time
	programs [2]*ebpf.Program // by direction; nil before load
	ids      [2]ebpf.ProgramID
}

// openHooks opens the namespace of the calling thread.
func openHooks(name string, logger hclog.Logger) (*hooks, error) {
	namespace, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("find this thread's network namespace: %w", err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a netlink socket: %w", err), namespace.Close())
	}
	h := &hooks{filterName: "had-gate/" + name, logger: logger, namespace: namespace, handle: handle, receiveBuffer: 1 << 20}
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
	_ = h.namespace.Close() // a descriptor
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

// number is the filter's handle, the same wherever the gate is attached, so
// that a filter can be replaced in place.
func (h *hooks) number() uint32 {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(h.filterName)) // never fails (hash.Hash)
	return sum.Sum32() | 1                 // 0 would let the kernel choose
}

// isOurs reports whether a filter is this gate's, of whatever version of had.
func (h *hooks) isOurs(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == h.filterName && b.Handle == h.number()
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
			for _, f := range filters {
				if !h.isOurs(f) {
					continue
				}
				m, err := mapsOf(ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
				if err != nil {
					return nil, fmt.Errorf("take over the gate on %s %s: %w", link.Attrs().Name, d, err)
				}
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("find %s: %w", h.filterName, ErrNotInstalled)
}

// attachAll sees to it that every interface has both filters, with the
// programs of this process. It returns what was missing or another's, as
// "eth0 ingress"; beside an error the rest is attached all the same.
func (h *hooks) attachAll() ([]string, error) {
	links, err := h.links()
	if err != nil {
		return nil, err
	}
	var added []string
	var errs []error
	for _, link := range links {
		a, err := h.attach(link)
		added, errs = append(added, a...), append(errs, err)
	}
	return added, errors.Join(errs...)
}

// attach is attachAll for one interface. That it has gone is fine.
func (h *hooks) attach(link netlink.Link) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var added []string
	for _, d := range directions() {
		changed, err := h.attachTo(link, d)
		if err != nil {
			if h.isGone(link) {
				return nil, nil
			}
			return added, fmt.Errorf("attach the gate to %s %s: %w", link.Attrs().Name, d, err)
		}
		if changed {
			added = append(added, link.Attrs().Name+" "+d.String())
		}
	}
	return added, nil
}

func (h *hooks) attachTo(link netlink.Link, d direction) (bool, error) {
	filters, err := h.filters(link, d)
	if err != nil {
		return false, err
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: d.parent(), Handle: h.number(), Protocol: unix.ETH_P_ALL},
		Fd: h.programs[d].FD(), Name: h.filterName, DirectAction: true,
	}
	for _, f := range filters {
		if !h.isOurs(f) {
			continue
		}
		if ebpf.ProgramID(f.(*netlink.BpfFilter).Id) == h.ids[d] {
			return false, nil
		}
		// The kernel exchanges the program of a filter that is there
		// (cls_bpf_change), so no packet goes past it.
		filter.Priority = f.Attrs().Priority
		return true, h.handle.FilterReplace(filter)
	}
	if err := h.addQdisc(link); err != nil {
		return false, err
	}
	filter.Priority = firstPriority(filters)
	if filter.Priority > 1 {
		h.logger.Warn("a filter comes before the gate: packets that it accepts don't meet the gate",
			"interface", link.Attrs().Name, "direction", d, "gate's priority", filter.Priority)
	}
	return true, h.handle.FilterAdd(filter)
}

// firstPriority is the first at which our filter can be. Filters of one
// priority share kind and protocol, and among those of BPF the one added last
// is asked first.
func firstPriority(filters []netlink.Filter) uint16 {
	taken := map[uint16]bool{}
	for _, f := range filters {
		if f.Type() != "bpf" || f.Attrs().Protocol != unix.ETH_P_ALL {
			taken[f.Attrs().Priority] = true
		}
	}
	priority := uint16(1)
	for taken[priority] {
		priority++
	}
	return priority
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
			for _, f := range filters {
				if h.isOurs(f) {
					f.(*netlink.BpfFilter).Fd = -1
					err = errors.Join(err, h.handle.FilterDel(f))
				}
			}
			if err != nil && !h.isGone(link) {
				errs = append(errs, fmt.Errorf("take the gate off %s %s: %w", link.Attrs().Name, d, err))
			}
		}
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
