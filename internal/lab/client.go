package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ClientConfig says what a client measures.
type ClientConfig struct {
	// Target is the address whose responder is asked.
	Target netip.Addr
	// Every is the time between two requests; default 1 ms.
	Every time.Duration
	// Resolution is the longest silence that counts as uninterrupted service;
	// default 5 ms. Of what is shorter nothing is kept, so that a client may
	// run for days.
	Resolution time.Duration
	// MaxRuns bounds the report; default 10,000. The oldest runs are
	// forgotten first.
	MaxRuns int
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.Every == 0 {
		c.Every = time.Millisecond
	}
	if c.Resolution == 0 {
		c.Resolution = 5 * time.Millisecond
	}
	if c.MaxRuns == 0 {
		c.MaxRuns = 10_000
	}
	return c
}

// Client sends requests from a host to a virtual address at a steady rate and
// notes when an answer comes and from whom. It resolves the address as every
// program on that host does, with the kernel's neighbour cache: a stale entry
// there is part of what a client of the cluster suffers.
type Client struct {
	cfg    ClientConfig
	conn   *net.UDPConn
	ticker *os.File
	start  time.Time
	once   sync.Once
	work   sync.WaitGroup

	mu      sync.Mutex
	report  Report
	changed chan struct{} // closed at each new run, then replaced
}

// Measure starts a client on the host; it runs until Stop or until the lab
// closes.
func (h *Host) Measure(cfg ClientConfig) (*Client, error) {
	c := &Client{cfg: cfg.withDefaults(), start: time.Now(), changed: make(chan struct{})}
	c.report = Report{Start: c.start, Answers: map[string]int{}, every: c.cfg.Every, resolution: c.cfg.Resolution}
	// A connected socket: the kernel passes on only what comes from the target
	// (udp(7)), so an answer from any other address is no answer.
	err := h.ns.do(func() (err error) {
		c.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(cfg.Target, ResponderPort)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect a client on host %s to %s: %w", h.Name, cfg.Target, err)
	}
	if c.ticker, err = newTicker(c.cfg.Every); err != nil {
		return nil, errors.Join(fmt.Errorf("start a client on host %s: %w", h.Name, err), c.conn.Close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients == nil {
		return nil, errors.Join(ErrClosed, c.ticker.Close(), c.conn.Close())
	}
	h.clients[c] = true
	c.work.Go(c.send)
	c.work.Go(c.receive)
	return c, nil
}

// send asks until the client stops. Each request carries the time since the
// start at which it was sent, in nanoseconds.
func (c *Client) send() {
	ticks := make([]byte, 8) // how many there were (timerfd_create(2))
	for {
		if _, err := c.ticker.Read(ticks); err != nil {
			return // closed
		}
		now := time.Now()
		c.mu.Lock()
		c.report.ask(now)
		c.mu.Unlock()
		request := binary.BigEndian.AppendUint64(nil, uint64(now.Sub(c.start)))
		// The kernel refuses while it knows that nobody has the address
		// (EHOSTUNREACH, ECONNREFUSED): a request without an answer.
		_, _ = c.conn.Write(request)
	}
}

// newTicker returns a file that has something to read after every such time. A
// time.Ticker has whole milliseconds where nothing else wakes the program: it
// waits in epoll_wait(2).
func newTicker(every time.Duration) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "timerfd")
	interval := unix.NsecToTimespec(every.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: interval, Value: interval}, nil); err != nil {
		return nil, errors.Join(os.NewSyscallError("timerfd_settime", err), f.Close())
	}
	return f, nil
}

// receive notes answers until the socket is closed.
func (c *Client) receive() {
	buf := make([]byte, 512)
	for {
		n, err := c.conn.Read(buf)
		at := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n <= 8 {
			continue // an ICMP error, or not an answer
		}
		asked := c.start.Add(time.Duration(binary.BigEndian.Uint64(buf)))
		c.note(asked, at, string(buf[8:n]))
	}
}

func (c *Client) note(asked, at time.Time, host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.report.note(asked, at, host) {
		c.report.keep(c.cfg.MaxRuns)
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// Report returns what the client has seen so far.
func (c *Client) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report.clone(time.Now())
}

// AwaitAnswer returns the first run of answers, going on or new, in which a
// host other than the excepted ones answered after the given time.
func (c *Client) AwaitAnswer(ctx context.Context, after time.Time, except ...string) (Run, error) {
	for {
		c.mu.Lock()
		run, ok := c.report.answered(after, except)
		changed := c.changed
		c.mu.Unlock()
		if ok {
			return run, nil
		}
		// A run that goes on makes no change: look again after a while.
		again := time.NewTimer(c.cfg.Resolution)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return Run{}, fmt.Errorf("wait for an answer of %s from a host other than %v: %w", c.cfg.Target, except, context.Cause(ctx))
		}
		again.Stop()
	}
}

// Stop ends the client and returns what it has seen. It may be called again.
func (c *Client) Stop() Report {
	c.once.Do(func() {
		_ = c.ticker.Close()
		_ = c.conn.Close() // a datagram socket has nothing left to lose
		c.work.Wait()
		c.mu.Lock()
		c.report.End = time.Now()
		c.mu.Unlock()
	})
	return c.Report()
}
