package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"had/internal/pki"
)

// maxOperators is how many connections of operators a node has at the same
// time: those of its peers are never fewer for it.
const maxOperators = 64

// Operator is who opened a connection of OperatorListener, by its certificate.
// It is that connection's remote address.
type Operator struct {
	Name  string
	Role  pki.Role
	Until time.Time // when the certificate expires
	TCP   net.Addr  // where the connection comes from
}

// Network implements net.Addr.
func (Operator) Network() string { return "had-operator" }

// String implements net.Addr: "alice (operator)".
func (o Operator) String() string { return fmt.Sprintf("%s (%s)", o.Name, o.Role) }

// operatorConn is a connection of an operator. It gives its slot back when it
// is closed.
type operatorConn struct {
	*link
	who  Operator
	once sync.Once
	free func()
}

// RemoteAddr returns an Operator.
func (c *operatorConn) RemoteAddr() net.Addr { return c.who }

// Close implements net.Conn.
func (c *operatorConn) Close() error {
	c.once.Do(c.free)
	return c.link.Close()
}

// OperatorListener is RaftListener for the connections of operators.
func (p *Port) OperatorListener() net.Listener { return p.operators }

// acceptOperator answers a hello of an operator. Who it is, only the
// certificate says.
func (p *Port) acceptOperator(c net.Conn, h hello) (net.Conn, error) {
	who, no := p.admit(c, h)
	conn := &operatorConn{link: &link{Conn: c, who: who.String(), operator: true}, who: who}
	if no == nil {
		select {
		case p.slots <- struct{}{}:
			conn.free = func() { <-p.slots }
		default:
			no = &refusal{Code: codeBusy, Sentence: fmt.Sprintf("%s has %d connections of operators already: close some", p.self, maxOperators)}
		}
	}
	us := hello{Protocol: protocolVersion, Had: p.version, Kind: kindOperator, Cluster: p.cluster, From: p.self}
	err := writeFrame(c, answer{Refused: no, Hello: us})
	switch {
	case no != nil:
		p.ledger.turnedAway(no, c.RemoteAddr())
		_ = c.Close() // it has its answer
		return nil, errRefused
	case err != nil:
		conn.free()
		return nil, err
	}
	p.links.note(conn.link)
	return conn, nil
}

// admit returns who shows the certificate, or why nobody is let in with it.
func (p *Port) admit(c net.Conn, h hello) (Operator, *refusal) {
	no := func(c code, format string, args ...any) (Operator, *refusal) {
		return Operator{}, &refusal{Code: c, Sentence: printable(fmt.Sprintf(format, args...))}
	}
	t, ok := c.(*tls.Conn)
	switch {
	case h.Protocol != protocolVersion:
		return no(codeProtocol, "this hactl speaks version %d of the protocol and %s version %d: use the hactl of the same release", h.Protocol, p.self, protocolVersion)
	case !ok:
		return no(codeCertificate, "%s runs without TLS, so it can't tell who asks: use hactl on the node itself", p.self)
	}
	leaf := leafOf(t)
	name, err := pki.NameIn(leaf)
	revoked := p.tls.checkRevoked(leaf)
	switch {
	case revoked != nil:
		return no(codeCertificate, "%s", revoked)
	case err != nil:
		return no(codeCertificate, "the certificate that was shown names no operator (%v): make one with hactl tls issue --client NAME --role ROLE", err)
	case !strings.EqualFold(name.Cluster, p.cluster):
		return no(codeCluster, "the certificate that was shown is for the cluster %q, and %s is a node of %q", name.Cluster, p.self, p.cluster)
	case name.Role == pki.NoRole:
		return no(codeCertificate, "the certificate that was shown is a node's: make one with hactl tls issue --client NAME --role ROLE")
	case p.id.phase() != born:
		return no(codeUnborn, "%s isn't born yet: it waits to meet all members", p.self)
	}
	return Operator{Name: name.Client, Role: name.Role, Until: leaf.NotAfter, TCP: c.RemoteAddr()}, nil
}

// ForOperators is a configuration for a server of another protocol: it lets in
// who shows a certificate of an operator of the cluster, whatever the role.
func (f *TLSFiles) ForOperators(cluster string) *tls.Config {
	admit := func(s tls.ConnectionState) error {
		if err := f.checkRevoked(s.PeerCertificates[0]); err != nil {
			return err
		}
		name, err := pki.NameIn(s.PeerCertificates[0])
		switch {
		case err != nil:
			return err
		case !strings.EqualFold(name.Cluster, cluster) || name.Role == pki.NoRole:
			return fmt.Errorf("%s is no operator of the cluster %s", name, cluster)
		}
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := f.server() // as the files are now
			c.VerifyConnection = admit
			return c, nil
		},
	}
}

// CheckCluster returns an error when this node's certificate is made out to another
// cluster than had.hcl's, as where a second one on a host has the first one's files.
func (f *TLSFiles) CheckCluster(cluster string) error {
	name, err := pki.NameIn(f.inUse.Load().cert.Leaf)
	switch {
	case errors.Is(err, pki.ErrNoName):
		return nil // another CA's tools made it
	case err != nil:
		return fmt.Errorf("use the certificate %s: %w", f.cert, err)
	case strings.EqualFold(name.Cluster, cluster):
		return nil
	}
	return fmt.Errorf("use the certificate %s: it is made out to a node of the cluster %q, and had.hcl describes %q: a second cluster on a host needs files of its own, and a tls block that names them", f.cert, name.Cluster, cluster)
}

// certifiedAs returns an error when the connection is TLS and the other side's
// certificate isn't that of this node in this cluster.
func certifiedAs(c net.Conn, node, cluster string) error {
	leaf := leafOf(c)
	if leaf == nil {
		return nil
	}
	if err := leaf.VerifyHostname(node); err != nil {
		return err
	}
	switch name, err := pki.NameIn(leaf); {
	case errors.Is(err, pki.ErrNoName):
		return nil // another CA's tools made it
	case err != nil:
		return err
	case !strings.EqualFold(name.Node, node) || !strings.EqualFold(name.Cluster, cluster):
		return fmt.Errorf("it is made out to %s", name)
	}
	return nil
}

// TLS returns this node's TLS files; nil: it has none.
func (p *Port) TLS() *TLSFiles { return p.tls }

// TLSProblems returns what a person should know of this node's TLS files,
// whole sentences.
func (p *Port) TLSProblems() []string {
	if p.tls == nil {
		return nil
	}
	return p.tls.Problems(time.Now())
}

// shake runs the TLS handshake of either end, if there is TLS.
func shake(ctx context.Context, raw net.Conn, end func(net.Conn, *tls.Config) *tls.Conn, cfg *tls.Config) (net.Conn, error) {
	t := end(raw, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return t, nil
}
