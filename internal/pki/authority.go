package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// How long certificates are good for unless somebody says otherwise. A node's
// outlives many reviews: one that has expired takes the node out of the
// cluster.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	NodeLife      = 2 * 365 * 24 * time.Hour
	ClientLife    = 365 * 24 * time.Hour
)

// backdate is for hosts whose clocks are behind that of the machine that
// issues.
const backdate = time.Hour

// Authority is a cluster's CA. It signs for that cluster alone.
type Authority struct {
	cert    *x509.Certificate
	key     crypto.Signer
	revoked Revoked
}

// Issued is a certificate with its key, both as DER: X.509, and PKCS #8.
type Issued struct {
	Cert, Key []byte
}

// NewAuthority makes a CA for a cluster: ECDSA on P-256, which every tool
// understands. Its name constraints (RFC 5280 §4.2.1.10) hold it to had://
// names of this cluster and to certificates that no web browser takes: none for
// an address or a mailbox, and no further CA.
func NewAuthority(cluster string, life time.Duration, now time.Time) (*Authority, Issued, error) {
	if !ValidHost(cluster) {
		return nil, Issued{}, fmt.Errorf("%q can't be a cluster's name", cluster)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Issued{}, fmt.Errorf("make the CA's key: %w", err)
	}
	anyV4, anyV6 := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "had " + cluster + " CA"},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                        []*url.URL{{Scheme: scheme, Host: cluster, Path: "/ca"}},
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{cluster},
		ExcludedIPRanges:            []*net.IPNet{anyV4, anyV6},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, Issued{}, fmt.Errorf("sign the CA's certificate: %w", err)
	}
	return finish(der, key)
}

func finish(der []byte, key *ecdsa.PrivateKey) (*Authority, Issued, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Issued{}, fmt.Errorf("read what was signed: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, Issued{}, fmt.Errorf("encode a key: %w", err)
	}
	return &Authority{cert: cert, key: key}, Issued{Cert: der, Key: pkcs8}, nil
}

// serial is 127 random bits: unique, and positive as RFC 5280 §4.1.2.2 wants.
func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// Cluster returns the cluster that a CA's certificate is for.
func Cluster(ca *x509.Certificate) (string, error) {
	for _, u := range ca.URIs {
		if u.Scheme == scheme && u.Path == "/ca" && ValidHost(u.Host) {
			return u.Host, nil
		}
	}
	return "", errors.New("it isn't a CA that hactl tls init has made")
}

// Cluster returns the cluster that the CA is for.
func (a *Authority) Cluster() (string, error) { return Cluster(a.cert) }

// Certificate returns the CA's own.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Revoked is what the CA's folder says of whose certificates don't count any more.
func (a *Authority) Revoked() Revoked { return a.revoked }

// Issue makes a certificate with a new key. A node's is good for both ends of
// a connection and carries the node's name as DNS name, too; a client's is
// good for clients alone, and so can't pose as a node. None outlives the CA, and none
// begins as early as one of its name that is revoked.
func (a *Authority) Issue(n Name, life time.Duration, now time.Time) (Issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, fmt.Errorf("make a key: %w", err)
	}
	uri, err := url.Parse(n.String())
	if err != nil {
		return Issued{}, fmt.Errorf("write the name %q: %w", n, err)
	}
	if _, err := parseName(uri); err != nil {
		return Issued{}, fmt.Errorf("%q can't stand in a certificate: letters, digits, and \".\", \"-\", \"_\" or \"@\" between them", n.Node+n.Client)
	}
	until := now.Add(life)
	switch {
	case now.After(a.cert.NotAfter):
		return Issued{}, fmt.Errorf("the CA expired on %s: make a new one (docs/security.md, Rotation)", a.cert.NotAfter.Format(time.DateOnly))
	case until.After(a.cert.NotAfter):
		until = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: a.revoked.begin(n, now.Add(-backdate)), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		URIs: []*url.URL{uri},
	}
	if n.Node != "" {
		template.Subject.CommonName = n.Node
		template.DNSNames = []string{n.Node}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	} else {
		template.Subject.CommonName = fmt.Sprintf("%.40s (%s)", n.Client, n.Role)
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Issued{}, fmt.Errorf("sign a certificate: %w", err)
	}
	_, out, err := finish(der, key)
	return out, err
}

// Fingerprint is the SHA-256 of a certificate, by which people compare two.
func Fingerprint(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
