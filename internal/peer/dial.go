package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// DialerConfig is what NewDialer needs.
type DialerConfig struct {
	Identity *Identity
	TLS      *TLSFiles // nil: no encryption, and names are taken on trust
	Logger   Logger
	Version  string // of had, told to peers
}

// Dialer connects to other members as this node. Its methods may be called
// from any goroutine. A Port is one; a process that serves no port, as the
// guard, makes one alone.
type Dialer struct {
	id      *Identity
	self    string
	cluster string
	tls     *TLSFiles
	version string
	timeout time.Duration // handshakeTimeout; tests shorten it
	ledger  *ledger
	links   links
}

// NewDialer returns a dialer for the node that the identity is of.
func NewDialer(c DialerConfig) *Dialer {
	return &Dialer{
		id: c.Identity, self: c.Identity.Name(), cluster: c.Identity.Cluster(),
		tls: c.TLS, version: c.Version, timeout: handshakeTimeout,
		ledger: newLedger(c.Logger, func() int { return len(c.Identity.others()) + 1 }, c.Identity.endWith),
	}
}

// DialRaft connects to the raft of the named member. It fails before the
// cluster is born, and within 2 s when the member doesn't answer. The error is
// a *RefusedError when the member refuses this node.
func (d *Dialer) DialRaft(ctx context.Context, node string) (net.Conn, error) {
	return d.dialBorn(ctx, kindRaft, node)
}

// DialRPC is DialRaft for the RPC server of the named member.
func (d *Dialer) DialRPC(ctx context.Context, node string) (net.Conn, error) {
	return d.dialBorn(ctx, kindRPC, node)
}

func (d *Dialer) dialBorn(ctx context.Context, k kind, node string) (net.Conn, error) {
	if d.id.phase() != born {
		return nil, fmt.Errorf("connect to %s: the cluster isn't born yet", node)
	}
	c, err := d.dial(ctx, k, node)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	return c, nil
}

// dial connects to a member and takes the dialing side of the handshake.
// After a nil error both sides accept each other; a meeting has been noted.
func (d *Dialer) dial(ctx context.Context, k kind, node string) (net.Conn, error) {
	m, ok := d.id.member(node)
	if !ok || node == d.self {
		return nil, fmt.Errorf("%q isn't another member of the cluster", node)
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var tcp net.Dialer
	raw, err := tcp.DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return nil, err
	}
	c, err := d.greet(ctx, raw, k, m)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	d.ledger.clear(node, weRefuse)
	d.ledger.clear(node, refusesUs)
	return c, nil
}

// greet runs the dialing side of the handshake with a member.
func (d *Dialer) greet(ctx context.Context, raw net.Conn, k kind, m BornMember) (net.Conn, error) {
	node := m.Name
	if err := tune(raw); err != nil {
		return nil, fmt.Errorf("set the connection's timeouts: %w", err)
	}
	release, err := limit(ctx, raw)
	if err != nil {
		return nil, err
	}
	c := raw
	if d.tls != nil {
		if c, err = shake(ctx, raw, tls.Client, d.tls.client(node)); err != nil {
			return nil, err
		}
	}
	if err := writeFrame(c, d.id.hello(k, node, d.version)); err != nil {
		return nil, err
	}
	var a answer
	if err := readFrame(c, &a); err != nil {
		return nil, err
	}
	if err := a.Hello.check(); err != nil {
		return nil, err
	}
	if a.Hello.Kind != k {
		return nil, fmt.Errorf("read an answer of kind %.40q to %q: %w", a.Hello.Kind, k, errNotHad)
	}
	no := d.wrongNode(node, a.Hello)
	if no == nil {
		no = d.judge(c, a.Hello, k == kindMeet && a.Refused == nil)
	}
	if no == nil && k != kindMeet {
		no = d.unknown(m, a.Hello)
	}
	if no != nil {
		d.ledger.note(node, weRefuse, no, raw.RemoteAddr())
	}
	if a.Refused != nil && d.id.outdated(a.Refused) {
		return nil, errors.New("the birth has gone on meanwhile")
	}
	if a.Refused != nil {
		a.Refused.Sentence = printable(a.Refused.Sentence)
		d.ledger.note(node, refusesUs, a.Refused, raw.RemoteAddr())
		return nil, &RefusedError{Peer: node, Sentence: a.Refused.Sentence, ForGood: a.Refused.ForGood, ToAdd: a.Hello.Phase == born && a.Refused.Code == codeStranger && !a.Refused.ForGood}
	}
	if no != nil {
		return nil, errors.New(no.Sentence)
	}
	if err := release(); err != nil {
		return nil, err
	}
	return d.withPeer(c, a.Hello), nil
}

// wrongNode returns a refusal when another node of the cluster answers than
// the one dialed; judge knows more about a node of another cluster.
func (d *Dialer) wrongNode(node string, h hello) *refusal {
	if h.From == node || h.Cluster != d.cluster {
		return nil
	}
	m, _ := d.id.member(node)
	who := fmt.Sprintf("%.80q", h.From)
	if h.NodeID == d.id.NodeID() {
		who = "this node itself"
	}
	return &refusal{Code: codeAddressee, Sentence: fmt.Sprintf("%s answers at %s, the address of %s: compare the addresses in their had.hcl", who, m.Address, node)}
}

// unknown returns a refusal when the node that was dialed isn't the member that
// this node knows by that name: its answers would be counted as that member's. It
// may have been replaced, which this node learns from the log.
func (d *Dialer) unknown(m BornMember, h hello) *refusal {
	if h.NodeID == m.NodeID {
		return nil
	}
	return &refusal{Code: codeNodeID, Sentence: fmt.Sprintf("%s answers with the ID %s, and %s knows %s by %s: it was replaced, or this node is behind with its log", m.Name, shortID(h.NodeID), d.self, m.Name, shortID(m.NodeID))}
}

// judge returns why the sender of h is refused, or nil. With note, what an
// acceptable sender says of itself counts for the birth from then on.
func (d *Dialer) judge(c net.Conn, h hello, note bool) *refusal {
	if err := d.checkRevoked(c); err != nil {
		return &refusal{Code: codeCertificate, Sentence: err.Error()}
	}
	if err := certifiedAs(c, h.From, d.cluster); err != nil {
		return &refusal{Code: codeCertificate, Sentence: fmt.Sprintf("%.80q shows a TLS certificate that isn't its own (%v): issue one that carries the node's name as a DNS name", h.From, err)}
	}
	if note {
		return d.id.hear(h)
	}
	return d.id.judge(h)
}

// plainly puts why a connection failed into the fewest words.
func plainly(err error) string {
	var refused *RefusedError
	var errno syscall.Errno
	var lookup *net.DNSError
	switch {
	case errors.As(err, &refused):
		return refused.Sentence
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.As(err, &lookup):
		return lookup.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it closed the connection without an answer: compare the tls blocks, and what listens there"
	case errors.As(err, &errno):
		return errno.Error()
	default:
		return err.Error()
	}
}
