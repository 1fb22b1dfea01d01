package peer

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"
)

// TLSFiles is what a node shows and what it accepts on the port: TLS 1.3,
// certificates on both sides, each carrying its node's name as a DNS name.
type TLSFiles struct {
	cert tls.Certificate
	ca   *x509.CertPool
}

// LoadTLS reads PEM files: the CA that signed every node's certificate, the
// certificate of the node self and its key. It returns an error when a file
// can't be read, when key and certificate don't belong together, and when the
// other nodes would refuse the certificate: not signed by the CA, expired, not
// yet valid, or without self as a DNS name.
func LoadTLS(ca, cert, key, self string) (*TLSFiles, error) {
	caPEM, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("read the CA's certificate: %s holds no PEM certificate", ca)
	}
	certPEM, err := os.ReadFile(cert)
	if err != nil {
		return nil, fmt.Errorf("read this node's certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(key)
	if err != nil {
		return nil, fmt.Errorf("read this node's key: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("use the certificate %s with the key %s: %w", cert, key, err)
	}
	if err := checkCertificate(pair, pool, self, time.Now()); err != nil {
		return nil, fmt.Errorf("use the certificate %s: %w", cert, err)
	}
	return &TLSFiles{cert: pair, ca: pool}, nil
}

// checkCertificate applies what a peer will apply, on both roles.
func checkCertificate(pair tls.Certificate, pool *x509.CertPool, self string, now time.Time) error {
	leaf := pair.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("it expired at %s: issue a new one", leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it isn't valid before %s: check this host's clock", leaf.NotBefore.Format(time.RFC3339))
	}
	if err := leaf.VerifyHostname(self); err != nil {
		return fmt.Errorf("it is made out to %q, not to this node, %q: issue one that carries the node's name as a DNS name", strings.Join(leaf.DNSNames, ", "), self)
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("read its chain: %w", err)
		}
		between.AddCert(c)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use},
		})
		if err != nil {
			return fmt.Errorf("other nodes would refuse it: %w (it needs the CA's signature and the extended key usages serverAuth and clientAuth)", err)
		}
	}
	return nil
}

// server accepts any certificate of the CA; whose it is, is compared with the
// preamble.
func (f *TLSFiles) server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{f.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    f.ca,
		// Every connection shows its certificate anew.
		SessionTicketsDisabled: true,
	}
}

// client accepts node's certificate only.
func (f *TLSFiles) client(node string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{f.cert},
		RootCAs:      f.ca,
		ServerName:   node,
	}
}
