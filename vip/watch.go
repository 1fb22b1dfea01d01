package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EventKind says what the kernel reported.
type EventKind int

// The kinds of events. All say what is so now; of several about one address,
// or about one link, a slow reader gets the last.
const (
	// Resynced says that reports begin here. It is the first event and comes
	// again after reports were lost: the reader looks at everything anew.
	Resynced EventKind = iota
	AddressAdded
	AddressRemoved // deleted or expired, by whomever
	CarrierUp
	CarrierLost // the link is down, without carrier, or gone
)

func (k EventKind) String() string {
	switch k {
	case Resynced:
		return "resynced"
	case AddressAdded:
		return "address added"
	case AddressRemoved:
		return "address removed"
	case CarrierUp:
		return "carrier up"
	case CarrierLost:
		return "carrier lost"
	default:
		return fmt.Sprintf("event kind %d", int(k))
	}
}

// Event is a change in this host's kernel, made by anyone, had included.
// Renewals of an address that is there are no change.
type Event struct {
	Kind      EventKind
	Addr      netip.Addr // of AddressAdded and AddressRemoved
	Interface string     // of all but Resynced; "" if it went away unseen
}

// Watcher reports changes of addresses and links in the network namespace of
// the thread that calls Run.
//
// The kernel reports a lost carrier at once after a quiet second and otherwise
// up to a second late (its link watch spaces such reports). Carrier knows
// immediately; who can't wait asks it.
type Watcher struct {
	logger hclog.Logger
	events chan Event

	// receiveBuffer is the size in bytes of the netlink sockets' buffers.
	// Tests make it overflow.
	receiveBuffer int
}

// NewWatcher returns a Watcher that reports nothing before Run.
func NewWatcher(logger hclog.Logger) *Watcher {
	// 1000 addresses renewed in one batch are about 1 MB of reports.
	return &Watcher{logger: logger, events: make(chan Event), receiveBuffer: 4 << 20}
}

// Events is where Run sends. It is never closed.
func (w *Watcher) Events() <-chan Event { return w.events }

// String names the task in logs.
func (w *Watcher) String() string { return "address and link watcher" }

// Run reports until ctx ends, and then returns nil. However slow the reader of
// Events is, the kernel's reports are read at once: what waits is at most one
// event for each address and link. When a subscription breaks (its buffer
// overflowed, rtnetlink(7)), Run makes a new one.
func (w *Watcher) Run(ctx context.Context) error {
	const retryAfter = time.Second
	for ctx.Err() == nil {
		sub, err := w.subscribe()
		if err != nil {
			w.logger.Error("addresses and links aren't watched; trying again", "error", err, "after", retryAfter)
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
			continue
		}
		if err := w.forward(ctx, sub); err != nil {
			w.logger.Warn("reports of address and link changes were lost; everything is read anew", "error", err)
		}
		sub.close()
	}
	return nil
}

// subscription is a pair of netlink sockets and the goroutines that read them.
type subscription struct {
	handle *netlink.Handle
	addrs  chan netlink.AddrUpdate
	links  chan netlink.LinkUpdate
	failed chan error    // the last failure of either reader
	done   chan struct{} // closing it ends both readers

	names    map[int]string  // of interfaces, by index
	carriers map[int]bool    // last reported
	present  map[placed]bool // last reported, if true
}

func (w *Watcher) subscribe() (*subscription, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &subscription{
		handle:   handle,
		addrs:    make(chan netlink.AddrUpdate),
		links:    make(chan netlink.LinkUpdate),
		failed:   make(chan error, 1),
		done:     make(chan struct{}),
		names:    map[int]string{},
		carriers: map[int]bool{},
		present:  map[placed]bool{},
	}
	note := func(err error) {
		select {
		case s.failed <- err:
		default: // one is enough to know why
		}
	}
	err = netlink.AddrSubscribeWithOptions(s.addrs, s.done, netlink.AddrSubscribeOptions{
		ErrorCallback: note, ReceiveBufferSize: w.receiveBuffer, ReceiveBufferForceSize: true})
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("subscribe to address changes: %w", err)
	}
	err = netlink.LinkSubscribeWithOptions(s.links, s.done, netlink.LinkSubscribeOptions{
		ErrorCallback: note, ReceiveBufferSize: w.receiveBuffer, ReceiveBufferForceSize: true})
	if err != nil {
		close(s.links) // nobody else will
		s.close()
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	return s, nil
}

// close ends the readers and waits until they have gone.
func (s *subscription) close() {
	close(s.done)
	for range s.addrs { // a reader may be waiting to send
	}
	for range s.links {
	}
	s.handle.Close()
}

// forward passes events on until ctx ends or a reader has stopped, which is
// the error.
func (w *Watcher) forward(ctx context.Context, s *subscription) error {
	waiting := queue{latest: map[subject]Event{}}
	waiting.put(Event{Kind: Resynced})
	for {
		var out chan<- Event // nil, which never sends, while nothing waits
		next, some := waiting.first()
		if some {
			out = w.events
		}
		select {
		case <-ctx.Done():
			return nil
		case out <- next:
			waiting.drop()
		case u, ok := <-s.addrs:
			if !ok {
				return s.failure()
			}
			if e, changed := s.addressEvent(u); changed {
				waiting.put(e)
			}
		case u, ok := <-s.links:
			if !ok {
				return s.failure()
			}
			if e, changed := s.linkEvent(u); changed {
				waiting.put(e)
			}
		}
	}
}

func (s *subscription) failure() error {
	select {
	case err := <-s.failed:
		return err
	default:
		return errors.New("a netlink subscription ended without saying why")
	}
}

func (s *subscription) addressEvent(u netlink.AddrUpdate) (Event, bool) {
	p, ok := prefix(&u.LinkAddress)
	if !ok {
		return Event{}, false
	}
	at := placed{addr: p.Addr(), index: u.LinkIndex, bits: p.Bits()}
	e := Event{Kind: AddressAdded, Addr: at.addr, Interface: s.name(at.index)}
	if !u.NewAddr {
		delete(s.present, at)
		e.Kind = AddressRemoved
		return e, true
	}
	renewal := s.present[at]
	s.present[at] = true
	return e, !renewal
}

func (s *subscription) linkEvent(u netlink.LinkUpdate) (Event, bool) {
	// Messages of family AF_BRIDGE are about a bridge port; one that says
	// RTM_DELLINK means the link has left the bridge, not that it's gone.
	if u.Family != unix.AF_UNSPEC {
		return Event{}, false
	}
	index := int(u.Index)
	gone := u.Header.Type == unix.RTM_DELLINK
	carrier := !gone && hasCarrier(u.Flags)
	before, known := s.carriers[index]
	s.carriers[index] = carrier
	s.names[index] = u.Link.Attrs().Name
	e := Event{Kind: CarrierLost, Interface: s.names[index]}
	if carrier {
		e.Kind = CarrierUp
	}
	return e, !known || before != carrier
}

// name returns an interface's name, also for a while after it has gone.
func (s *subscription) name(index int) string {
	name, ok := s.names[index]
	if !ok {
		if link, err := s.handle.LinkByIndex(index); err == nil {
			name = link.Attrs().Name
			s.names[index] = name
		}
	}
	return name
}

// queue holds events that wait for the reader, in the order in which their
// subjects first changed, one for each subject: the latest.
type queue struct {
	order  []subject
	latest map[subject]Event
}

// subject is what an event is about.
type subject struct {
	addr  netip.Addr // invalid for a link; both are zero for Resynced
	iface string
}

func (q *queue) put(e Event) {
	about := subject{e.Addr, e.Interface}
	if _, waits := q.latest[about]; !waits {
		q.order = append(q.order, about)
	}
	q.latest[about] = e
}

func (q *queue) first() (Event, bool) {
	if len(q.order) == 0 {
		return Event{}, false
	}
	return q.latest[q.order[0]], true
}

func (q *queue) drop() {
	delete(q.latest, q.order[0])
	q.order = q.order[1:]
}
