package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"had/internal/pki"
)

// OperatorConfig is what NewOperatorDialer needs.
type OperatorConfig struct {
	Address       string // host:port of any node
	CA, Cert, Key string // PEM files
	Version       string // of the operator's program
}

// OperatorDialer connects to a node as an operator. It may be used by several
// goroutines.
type OperatorDialer struct {
	address, version string
	cluster          string // that the certificate is for; empty: it doesn't say
	cfg              *tls.Config
	timeout          time.Duration
	expires          time.Time
}

// NotAdmittedError says that a node doesn't take this operator's certificate.
type NotAdmittedError struct {
	Address string
	Reason  string
}

func (e *NotAdmittedError) Error() string {
	return fmt.Sprintf("%s doesn't let us in: %s", e.Address, e.Reason)
}

// NewOperatorDialer reads the files. It checks little of them: what counts is
// what the node thinks of the certificate.
func NewOperatorDialer(c OperatorConfig) (*OperatorDialer, error) {
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read the cluster's CA: %s holds no PEM certificate", c.CA)
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("use the certificate %s with the key %s: %w", c.Cert, c.Key, err)
	}
	name, err := pki.NameIn(pair.Leaf)
	if err != nil && !errors.Is(err, pki.ErrNoName) {
		return nil, fmt.Errorf("use the certificate %s: %w", c.Cert, err)
	}
	return &OperatorDialer{
		address: c.Address, version: c.Version, cluster: name.Cluster, timeout: handshakeTimeout, expires: pair.Leaf.NotAfter,
		cfg: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{pair},
			// Nodes are reached by addresses that their certificates don't carry:
			// which node it is, is compared with its answer.
			InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks all but the name
			VerifyConnection:   func(s tls.ConnectionState) error { return verifyNode(s, pool) },
		},
	}, nil
}

// verifyNode wants a chain to the CA and a certificate good for servers, which
// an operator's isn't.
func verifyNode(s tls.ConnectionState, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
	return nil
}

// Dial connects to the node and is admitted by it, within 2 s. The error is a
// *NotAdmittedError when the node refuses the certificate.
func (d *OperatorDialer) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var tcp net.Dialer
	raw, err := tcp.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	c, err := d.greet(ctx, raw)
	if err != nil {
		_ = raw.Close() // the error worth reporting is err
		return nil, d.explain(err)
	}
	return c, nil
}

func (d *OperatorDialer) greet(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if err := tune(raw); err != nil {
		return nil, fmt.Errorf("set the connection's timeouts: %w", err)
	}
	release, err := limit(ctx, raw)
	if err != nil {
		return nil, err
	}
	c, err := shake(ctx, raw, tls.Client, d.cfg)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(c, hello{Protocol: protocolVersion, Had: d.version, Kind: kindOperator, Cluster: d.cluster}); err != nil {
		return nil, err
	}
	var a answer
	if err := readFrame(c, &a); err != nil {
		return nil, err
	}
	switch {
	case a.Refused != nil:
		return nil, &NotAdmittedError{d.address, printable(a.Refused.Sentence)}
	case d.cluster != "" && a.Hello.Cluster != d.cluster:
		return nil, fmt.Errorf("a node of the cluster %.80q answers at %s, and the certificate is for %q", a.Hello.Cluster, d.address, d.cluster)
	}
	if err := certifiedAs(c, a.Hello.From, a.Hello.Cluster); err != nil {
		return nil, fmt.Errorf("%.80q answers at %s with a certificate that isn't its own: %w", a.Hello.From, d.address, err)
	}
	return c, release()
}

// explain finds a refusal in what TLS says: a server tells of one by an alert,
// which in TLS 1.3 comes after the client's handshake (RFC 8446 §4.4.2.4).
func (d *OperatorDialer) explain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%s closed the connection without an answer: is it a node's cluster port, and its had of this release? %w", d.address, err)
	}
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		return err
	}
	reason := fmt.Sprintf("it refuses our certificate (%v)", alert.Err)
	if now := time.Now(); now.After(d.expires) {
		reason += fmt.Sprintf(": it expired on %s; hactl tls issue --renew makes a new one", d.expires.UTC().Format(time.DateOnly))
	}
	return &NotAdmittedError{d.address, reason}
}
