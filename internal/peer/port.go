package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Logger takes messages with key-value pairs; *slog.Logger and hclog.Logger
// are Loggers.
type Logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
}

// PortConfig is what Listen needs.
type PortConfig struct {
	Identity *Identity
	Listen   string    // host:port to bind: this node's own member address
	TLS      *TLSFiles // nil: no encryption, and names are taken on trust
	Logger   Logger
	Version  string // of had, told to peers
}

const (
	handshakeTimeout = 2 * time.Second // from connect or accept to the last byte of the preamble
	maxHandshakes    = 64              // at the same time
)

// Port is a node's TCP port. Run serves it; everything else may be called
// from any goroutine.
type Port struct {
	*Dialer
	ln  net.Listener
	log Logger

	raft, rpc *queue
	operators *queue
	slots     chan struct{} // one for each operator's connection
	news      chan struct{} // capacity 1: something was heard that Meet may act on

	mu        sync.Mutex
	dialError map[string]error // why the latest meeting with a member failed
	kicks     map[string]chan struct{}
}

// Listen binds the node's port. Its error names the address and, when the
// port is taken, says so.
func Listen(c PortConfig) (*Port, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", c.Listen)
	if err != nil {
		return nil, listenError(c.Listen, err)
	}
	p := &Port{
		Dialer: NewDialer(DialerConfig{Identity: c.Identity, TLS: c.TLS, Logger: c.Logger, Version: c.Version}),
		ln:     ln, log: c.Logger,
		raft: newQueue(ln.Addr()), rpc: newQueue(ln.Addr()),
		operators: newQueue(ln.Addr()), slots: make(chan struct{}, maxOperators),
		news:      make(chan struct{}, 1),
		dialError: make(map[string]error),
		kicks:     make(map[string]chan struct{}),
	}
	for _, m := range p.id.others() {
		p.kicks[m.Name] = make(chan struct{}, 1)
	}
	return p, nil
}

func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: the port is in use by another program (see `ss -ltnp`), perhaps by another had: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this host doesn't have that address: check `node` and this node's address in had.hcl: %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: a port below 1024 needs more privilege: %w", addr, err)
	default:
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
}

// RaftListener returns the listener of raft's connections. It is always the
// same one; its Accept returns net.ErrClosed after Run has ended.
func (p *Port) RaftListener() net.Listener { return p.raft }

// RPCListener is RaftListener for RPC connections.
func (p *Port) RPCListener() net.Listener { return p.rpc }

// Fatal delivers one error, matching ErrRefusedForGood, when so many members
// refuse this node for good that it can be part of no quorum.
func (p *Port) Fatal() <-chan error { return p.ledger.fatal }

// Refusals returns a sentence with its age for each member, and one for
// strangers, that refuses this node or is refused by it.
func (p *Port) Refusals() []string { return p.ledger.sentences(time.Now()) }

// Run accepts connections until ctx ends and returns nil then, after every
// goroutine it started has ended. It closes the port.
func (p *Port) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		_ = p.raft.Close() // never fails
		_ = p.rpc.Close()  // never fails
		_ = p.operators.Close()
		wg.Wait()
	}()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = p.ln.Close() // Accept returns its error
		close(closed)
	})
	defer func() {
		if stop() { // a connection came first
			_ = p.ln.Close()
			return
		}
		<-closed // the port is free when close(2) has returned
	}()

	wg.Go(func() { p.watchOpen(ctx) })
	slots := make(chan struct{}, maxHandshakes)
	for {
		c, err := p.ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // it came too late
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %s: %w", p.ln.Addr(), err)
			}
			p.log.Warn("can't accept a connection; trying on", "error", err)
			if !pause(ctx, acceptPause) { // out of descriptors: they come back when others close
				return nil
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close() // a flood; members dial again
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			p.serve(ctx, c)
		})
	}
}

const acceptPause = 100 * time.Millisecond

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// serve takes one accepted connection through the preamble. Whoever sends no
// proper preamble gets no answer.
func (p *Port) serve(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	c, h, err := p.accept(ctx, raw)
	if err != nil {
		_ = raw.Close() // the error worth reporting is err
		p.ledger.garbage(raw.RemoteAddr(), err)
		return
	}
	switch h.Kind {
	case kindRaft:
		p.raft.deliver(ctx, c)
	case kindRPC:
		p.rpc.deliver(ctx, c)
	case kindOperator:
		p.operators.deliver(ctx, c)
	case kindMeet:
		_ = c.Close() // all has been said
	}
}

// accept runs the accepting side of the handshake. After a nil error the
// dialer is the member h.From, or an operator, and has been told so.
func (p *Port) accept(ctx context.Context, raw net.Conn) (net.Conn, hello, error) {
	if err := tune(raw); err != nil {
		return nil, hello{}, fmt.Errorf("set the connection's timeouts: %w", err)
	}
	c := raw
	release, err := limit(ctx, raw)
	if err != nil {
		return nil, hello{}, err
	}
	if p.tls != nil {
		if c, err = shake(ctx, raw, tls.Server, p.tls.server()); err != nil {
			return nil, hello{}, err
		}
	}
	var h hello
	if err := readFrame(c, &h); err != nil {
		return nil, hello{}, err
	}
	if err := h.check(); err != nil {
		return nil, hello{}, err
	}
	if h.Kind == kindOperator {
		if c, err = p.acceptOperator(c, h); err != nil {
			return nil, hello{}, err
		}
		if err := release(); err != nil {
			_ = c.Close() // it came too late
			return nil, hello{}, err
		}
		return c, h, nil
	}
	no := p.judge(c, h, h.Kind == kindMeet)
	if err := writeFrame(c, answer{Refused: no, Hello: p.id.hello(h.Kind, h.From, p.version)}); err != nil {
		return nil, hello{}, err
	}
	if no != nil {
		p.ledger.note(p.peerKey(h), weRefuse, no, raw.RemoteAddr())
		_ = c.Close() // it has its answer
		return nil, hello{}, errRefused
	}
	p.ledger.clear(h.From, weRefuse)
	if h.Kind == kindMeet {
		p.tell()
	}
	if err := release(); err != nil {
		return nil, hello{}, err
	}
	return p.withPeer(c, h), h, nil
}

// errRefused ends a handshake whose refusal has been noted.
var errRefused = errors.New("refused")

// peerKey is the name a refusal is filed under: a member's, or one for all
// strangers, so that they can't fill memory or the log.
func (p *Port) peerKey(h hello) string {
	if slices.ContainsFunc(p.id.others(), func(m Member) bool { return m.Name == h.From }) {
		return h.From
	}
	return strangers
}

// tell wakes Meet.
func (p *Port) tell() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// limit makes c's reads and writes fail once ctx ends. release undoes that,
// and fails when it came too late.
func limit(ctx context.Context, c net.Conn) (release func() error, err error) {
	if d, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(d); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // fails only when c is closed
	})
	return func() error {
		if !stop() {
			return context.Cause(ctx)
		}
		return c.SetDeadline(time.Time{})
	}, nil
}
