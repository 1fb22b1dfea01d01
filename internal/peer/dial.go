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
)

// DialRaft connects to the raft of the named member. It fails before the
// cluster is born, and within 2 s when the member doesn't answer. The error is
// a *RefusedError when the member refuses this node.
func (p *Port) DialRaft(ctx context.Context, node string) (net.Conn, error) {
	return p.dialBorn(ctx, kindRaft, node)
}

// DialRPC is DialRaft for the RPC server of the named member.
func (p *Port) DialRPC(ctx context.Context, node string) (net.Conn, error) {
	return p.dialBorn(ctx, kindRPC, node)
}

func (p *Port) dialBorn(ctx context.Context, k kind, node string) (net.Conn, error) {
	if p.id.phase() != born {
		return nil, fmt.Errorf("connect to %s: the cluster isn't born yet", node)
	}
	c, err := p.dial(ctx, k, node)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	return c, nil
}

// dial connects to a member and takes the dialing side of the handshake.
// After a nil error both sides accept each other; a meeting has been noted.
func (p *Port) dial(ctx context.Context, k kind, node string) (net.Conn, error) {
	m, ok := p.id.member(node)
	if !ok || node == p.self {
		return nil, fmt.Errorf("%q isn't another member of the cluster", node)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", m.Address)
	if err != nil {
		return nil, err
	}
	c, err := p.greet(ctx, raw, k, node)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	p.ledger.clear(node, weRefuse)
	p.ledger.clear(node, refusesUs)
	return c, nil
}

// greet runs the dialing side of the handshake with node.
func (p *Port) greet(ctx context.Context, raw net.Conn, k kind, node string) (net.Conn, error) {
	if err := tune(raw); err != nil {
		return nil, fmt.Errorf("set the connection's timeouts: %w", err)
	}
	release, err := limit(ctx, raw)
	if err != nil {
		return nil, err
	}
	c := raw
	if p.tls != nil {
		t := tls.Client(raw, p.tls.client(node))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c = t
	}
	if err := writeFrame(c, p.id.hello(k, node, p.version)); err != nil {
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
	no := p.wrongNode(node, a.Hello)
	if no == nil {
		no = p.judge(c, a.Hello, k == kindMeet && a.Refused == nil)
	}
	if no != nil {
		p.ledger.note(node, weRefuse, no, raw.RemoteAddr())
	}
	if a.Refused != nil && p.id.outdated(a.Refused) {
		return nil, errors.New("the birth has gone on meanwhile")
	}
	if a.Refused != nil {
		a.Refused.Sentence = printable(a.Refused.Sentence)
		p.ledger.note(node, refusesUs, a.Refused, raw.RemoteAddr())
		return nil, &RefusedError{Peer: node, Sentence: a.Refused.Sentence, ForGood: a.Refused.ForGood}
	}
	if no != nil {
		return nil, errors.New(no.Sentence)
	}
	return &peerConn{Conn: c, node: node}, release()
}

// wrongNode returns a refusal when another node of the cluster answers than
// the one dialed; judge knows more about a node of another cluster.
func (p *Port) wrongNode(node string, h hello) *refusal {
	if h.From == node || h.Cluster != p.cluster {
		return nil
	}
	m, _ := p.id.member(node)
	who := fmt.Sprintf("%.80q", h.From)
	if h.NodeID == p.id.NodeID() {
		who = "this node itself"
	}
	return &refusal{Code: codeAddressee, Sentence: fmt.Sprintf("%s answers at %s, the address of %s: compare the addresses in their had.hcl", who, m.Address, node)}
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
