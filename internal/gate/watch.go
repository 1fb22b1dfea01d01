package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernelTimeout bounds every wait for an answer. rtnetlink answers in
// microseconds; only a kernel bug takes longer.
const kernelTimeout = 2 * time.Second

// String names the task in logs.
func (g *Gate) String() string { return "packet gate" }

// Check looks whether the gate is on every interface, puts it back where it
// isn't, and returns where it was missing, as "eth0 ingress". After an error,
// which names the interfaces, the gate is not to be relied on.
func (g *Gate) Check() (missing []string, err error) {
	if missing, err = g.hooks.attachAll(); err != nil {
		return missing, fmt.Errorf("check the gate: %w", err)
	}
	return missing, nil
}

// Run keeps the gate on every interface until ctx ends, and then returns nil:
// on interfaces that appear, and again where somebody takes it off. It acts on
// the kernel's reports. When some were lost (rtnetlink(7): the buffer
// overflowed) or they break off, it asks for them anew and checks everything.
func (g *Gate) Run(ctx context.Context) error {
	const retryAfter = time.Second
	for ctx.Err() == nil {
		err := g.follow(ctx)
		if err == nil {
			continue
		}
		g.logger.Error("interfaces aren't watched for the gate; trying again", "error", err, "after", retryAfter)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return nil
}

// follow is Run with one subscription. It returns nil when ctx has ended or
// reports were lost.
func (g *Gate) follow(ctx context.Context) error {
	reports, err := g.hooks.subscribe()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, reports.Close) // ends Receive
	defer func() {
		if stop() {
			reports.Close()
		}
	}()
	g.report(g.Check()) // of what happened before the subscription
	for {
		messages, _, err := reports.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENOBUFS) {
			// Until the buffer is empty the kernel says of no further loss, so
			// a check now could miss something: subscribe anew, then check.
			return nil
		}
		if err != nil {
			return fmt.Errorf("read reports of interfaces: %w", err)
		}
		for _, m := range messages {
			if index, ok := concerned(m.Header.Type, m.Data); ok {
				g.report(g.hooks.attachIndex(index))
			}
		}
	}
}

// report logs what was found missing.
func (g *Gate) report(missing []string, err error) {
	if len(missing) > 0 {
		g.logger.Info("put the gate where it was missing", "hooks", missing)
	}
	if err != nil {
		g.logger.Error("the gate isn't everywhere", "error", err)
	}
}

// subscribe opens a socket for reports of links and of filters in the gate's
// namespace.
func (h *hooks) subscribe() (*nl.NetlinkSocket, error) {
	s, err := nl.SubscribeAt(h.namespace, netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC)
	if err != nil {
		return nil, fmt.Errorf("subscribe to reports of interfaces and filters: %w", err)
	}
	if err := s.SetReceiveBufferSize(h.receiveBuffer, true); err != nil {
		s.Close()
		return nil, fmt.Errorf("size the buffer for reports of interfaces: %w", err)
	}
	return s, nil
}

// concerned returns the index of the interface whose filters a report makes
// worth a look: one that came, or one that lost a filter or a qdisc.
func concerned(kind uint16, data []byte) (int, bool) {
	switch kind {
	case unix.RTM_NEWLINK:
		// Also the report of any change of a link: it costs two dumps.
		if len(data) >= unix.SizeofIfInfomsg {
			return int(nl.DeserializeIfInfomsg(data).Index), true
		}
	case unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
		if len(data) >= nl.SizeofTcMsg {
			return int(nl.DeserializeTcMsg(data).Ifindex), true
		}
	}
	return 0, false
}
