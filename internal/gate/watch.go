package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernelTimeout bounds every wait for an answer. rtnetlink answers in
// microseconds; only a kernel bug takes longer.
const kernelTimeout = 2 * time.Second

// String names the task in logs.
func (g *Gate) String() string { return "packet gate" }

// Check looks whether the gate is on every interface, before all other filters,
// puts that right where it isn't so, and returns where, as "eth0 ingress". After
// an error, which names the interfaces, the gate is not to be relied on.
func (g *Gate) Check() (missing []string, err error) {
	missing, err = g.hooks.attachAll()
	if err != nil {
		// Whoever relies on the gate gives up for a problem, so one that passes
		// is none.
		var more []string
		more, err = g.hooks.attachAll()
		missing = append(missing, more...)
	}
	if err != nil {
		err = fmt.Errorf("check the gate: %w", err)
		g.problem.Store(&err)
		return missing, err
	}
	g.problem.Store(nil)
	return missing, nil
}

// Problem returns why the gate is not to be relied on: it couldn't be put on
// some interface, or not before all others. Nil: it is everywhere, as far as Run
// and Check have seen.
func (g *Gate) Problem() error {
	if err := g.problem.Load(); err != nil {
		return *err
	}
	return nil
}

// Run keeps the gate on every interface until ctx ends, and then returns nil:
// on interfaces that appear, and again where somebody takes it off or puts a
// filter before it. It acts on the kernel's reports, asks for them anew when
// some were lost or they break off, and checks everything from time to time.
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

const (
	// The kernel reports nothing of tcx programs.
	checkEvery = 10 * time.Second
	// mendEvery is how soon Run tries again what failed.
	mendEvery = time.Second
)

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
	for checked := time.Now(); ; {
		pause := checkEvery
		if g.Problem() != nil {
			pause = mendEvery
		}
		wait := unix.NsecToTimeval(pause.Nanoseconds())
		if err := reports.SetReceiveTimeout(&wait); err != nil {
			return fmt.Errorf("bound the wait for reports of interfaces: %w", err)
		}
		messages, _, err := reports.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			// The buffer overflowed (rtnetlink(7)), and until it is empty the
			// kernel says of no further loss (NETLINK_S_CONGESTED): a check
			// now could miss something.
			return nil
		case err != nil && !errors.Is(err, unix.EAGAIN): // a quiet while
			return fmt.Errorf("read reports of interfaces: %w", err)
		}
		for _, m := range messages {
			if index, ok := concerned(m.Header.Type, m.Data); ok {
				missing, err := g.hooks.attachIndex(index)
				if err != nil {
					missing, err = g.Check()
				}
				g.report(missing, err)
			}
		}
		since := time.Since(checked)
		if since >= checkEvery || since >= mendEvery && g.Problem() != nil {
			g.report(g.Check())
			checked = time.Now()
		}
	}
}

// report logs what was found missing, and keeps a problem until a Check of all
// interfaces finds none. A problem that lasts is logged once.
func (g *Gate) report(missing []string, err error) {
	if len(missing) > 0 {
		g.logger.Info("put the gate where it was missing or not the first", "hooks", missing)
	}
	switch {
	case err != nil:
		g.problem.Store(&err)
		if text := err.Error(); text != g.logged {
			g.logger.Error("the gate isn't to be relied on", "error", err)
			g.logged = text
		}
	case g.Problem() == nil:
		g.logged = ""
	}
}

// subscribe opens a socket for reports of links and of filters.
func (h *hooks) subscribe() (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC)
	if err != nil {
		return nil, fmt.Errorf("subscribe to reports of interfaces and filters: %w", err)
	}
	if err := s.SetReceiveBufferSize(h.receiveBuffer, true); err != nil {
		s.Close()
		return nil, fmt.Errorf("prepare the socket for reports of interfaces: %w", err)
	}
	return s, nil
}

// concerned returns the index of the interface whose filters a report makes
// worth a look: one that came, one that lost a filter or a qdisc, or one that
// got a filter, which may be asked before the gate.
func concerned(kind uint16, data []byte) (int, bool) {
	switch kind {
	case unix.RTM_NEWLINK:
		// Also the report of any change of a link: it costs two dumps.
		if len(data) >= unix.SizeofIfInfomsg {
			return int(nl.DeserializeIfInfomsg(data).Index), true
		}
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
		if len(data) >= nl.SizeofTcMsg {
			return int(nl.DeserializeTcMsg(data).Ifindex), true
		}
	}
	return 0, false
}
