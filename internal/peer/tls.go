package peer

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"had/internal/pki"
)

// TLSFiles is what a node shows and what it accepts on the port: TLS 1.3,
// certificates on both sides, each carrying its node's name as a DNS name. The
// files are looked at before each handshake and read again when they have
// changed; connections that are open stay as they are, unless they rest on a
// certificate that is now revoked (Port).
type TLSFiles struct {
	ca, cert, key, revoked, self string
	frozen                       bool

	inUse atomic.Pointer[material]

	looking sync.Mutex // held by whoever looks at the files
	looked  [4]stamp   // the files as they were when last read, of use or not
	problem atomic.Pointer[string]
	changed chan struct{} // capacity 1: what is in use is new
}

// PEM is what the files hold, with the key in the clear.
type PEM struct {
	CA   []byte `json:"ca"`
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
	// Revoked is the text that says whose certificates don't count; empty: nobody's.
	Revoked []byte `json:"revoked,omitempty"`
}

// material is one reading of the files.
type material struct {
	pem   PEM
	cert  tls.Certificate
	ca    *x509.CertPool
	chain []Certificate // the node's, then those that vouch for it

	revoked pki.Revoked
}

// Certificate is one that a node's connections rest on.
type Certificate struct {
	CA      bool   // it vouches for the node's; else it is the node's own
	Serial  string // hex; a renewed one has another
	Expires time.Time
}

// What says in words what it is.
func (c Certificate) What() string {
	if c.CA {
		return "the CA of this node's TLS certificate"
	}
	return "this node's TLS certificate"
}

// first is the one that expires before the others.
func (m *material) first() Certificate {
	return slices.MinFunc(m.chain, func(a, b Certificate) int { return a.Expires.Compare(b.Expires) })
}

// stamp is what tells a file that was replaced or written to from what it was.
type stamp struct {
	info fs.FileInfo // nil: not there
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == t.info
	}
	return os.SameFile(s.info, t.info) && s.info.Size() == t.info.Size() && s.info.ModTime().Equal(t.info.ModTime())
}

// LoadTLS reads PEM files: the CA that signed every node's certificate, the
// certificate of the node self and its key; and, if it is there beside the CA's,
// whose certificates are revoked. It returns an error when a file
// can't be read, when key and certificate don't belong together, and when the
// other nodes would refuse the certificate: not signed by the CA, expired, not
// yet valid, or without self as a DNS name.
func LoadTLS(ca, cert, key, self string) (*TLSFiles, error) {
	f := &TLSFiles{
		ca: ca, cert: cert, key: key, revoked: filepath.Join(filepath.Dir(ca), pki.RevokedFile), self: self,
		changed: make(chan struct{}, 1),
	}
	f.looked = f.stamps()
	m, err := f.read(time.Now())
	if err != nil {
		return nil, err
	}
	f.inUse.Store(m)
	return f, nil
}

// Freeze makes f stay what it is whatever becomes of the files, for a process
// that must not wait for a disk. It returns f.
func (f *TLSFiles) Freeze() *TLSFiles {
	f.frozen = true
	return f
}

func (f *TLSFiles) stamps() [4]stamp {
	return [4]stamp{stampOf(f.ca), stampOf(f.cert), stampOf(f.key), stampOf(f.revoked)}
}

// current returns what to use for a handshake now. Files that can't be used
// leave the former ones in use. Only one goroutine looks at a time, so that a
// disk that hangs takes no more than that one.
func (f *TLSFiles) current() *material {
	if f.frozen || !f.looking.TryLock() {
		return f.inUse.Load()
	}
	defer f.looking.Unlock()
	now := f.stamps()
	if slices.EqualFunc(now[:], f.looked[:], stamp.same) {
		return f.inUse.Load()
	}
	m, err := f.read(time.Now())
	f.looked = now // what is read half-written is written to again
	if err != nil {
		why := fmt.Sprintf("the TLS files have changed and can't be used, so those from before stay in use: %v", err)
		f.problem.Store(&why)
		return f.inUse.Load()
	}
	f.problem.Store(nil)
	f.inUse.Store(m)
	select {
	case f.changed <- struct{}{}:
	default:
	}
	return m
}

// Changed delivers after files have been put to use that are others than before.
func (f *TLSFiles) Changed() <-chan struct{} { return f.changed }

// InUse returns what is in use, and when it expires.
func (f *TLSFiles) InUse() (PEM, time.Time) {
	m := f.inUse.Load()
	return m.pem, m.first().Expires
}

// Revoked is how many names have certificates that don't count any more.
func (f *TLSFiles) Revoked() int { return f.inUse.Load().revoked.Count() }

// RevokedDigest is the same on nodes that refuse the same certificates.
func (f *TLSFiles) RevokedDigest() string { return f.inUse.Load().revoked.Digest() }

// Certificates are those in use: the node's, then those that vouch for it.
func (f *TLSFiles) Certificates() []Certificate { return f.inUse.Load().chain }

// Replace puts to use what another process has read from the files. It fails,
// and changes nothing, when LoadTLS would.
func (f *TLSFiles) Replace(p PEM) error {
	m, err := f.parse(p, time.Now())
	if err != nil {
		return err
	}
	f.inUse.Store(m)
	return nil
}

// expiryNotice is how long before its end a certificate is warned of.
const expiryNotice = 30 * 24 * time.Hour

// Problems returns what a person should know of the files, whole sentences.
func (f *TLSFiles) Problems(now time.Time) (out []string) {
	m := f.current()
	if why := f.problem.Load(); why != nil {
		out = append(out, *why)
	}
	if _, revoked := m.revoked.Covers(m.cert.Leaf); revoked {
		out = append(out, fmt.Sprintf("this node's TLS certificate is revoked, so no node that knows of that talks to this one: hactl tls issue %s --renew where the CA is, and copy the files here (docs/security.md)", f.self))
	}
	const remedy = "hactl tls issue %s --renew where the CA is, and copy the files here (docs/security.md)"
	next := m.first()
	day := next.Expires.UTC().Format(time.DateOnly)
	switch left := next.Expires.Sub(now); {
	case left <= 0:
		out = append(out, fmt.Sprintf("%s expired on %s, so no other node talks to this one any more: "+remedy, next.What(), day, f.self))
	case left < expiryNotice:
		out = append(out, fmt.Sprintf("%s expires on %s, in %d days: "+remedy, next.What(), day, left/(24*time.Hour), f.self))
	}
	return out
}

// read reads the files and checks them as the other nodes will.
func (f *TLSFiles) read(now time.Time) (*material, error) {
	var p PEM
	for _, part := range []struct {
		into       *[]byte
		path, what string
	}{{&p.CA, f.ca, "the CA's certificate"}, {&p.Cert, f.cert, "this node's certificate"}, {&p.Key, f.key, "this node's key"}} {
		data, err := os.ReadFile(part.path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", part.what, err)
		}
		*part.into = data
	}
	var err error
	if _, p.Revoked, err = pki.ReadRevoked(filepath.Dir(f.revoked)); err != nil {
		return nil, err
	}
	return f.parse(p, now)
}

func (f *TLSFiles) parse(p PEM, now time.Time) (_ *material, err error) {
	m := &material{pem: p, ca: x509.NewCertPool()}
	if !m.ca.AppendCertsFromPEM(p.CA) {
		return nil, fmt.Errorf("read the CA's certificate: %s holds no PEM certificate", f.ca)
	}
	if m.cert, err = tls.X509KeyPair(p.Cert, p.Key); err != nil {
		return nil, fmt.Errorf("use the certificate %s with the key %s: %w", f.cert, f.key, err)
	}
	if m.revoked, err = pki.ParseRevoked(p.Revoked); err != nil {
		return nil, fmt.Errorf("read whose certificates are revoked: %w", err)
	}
	chain, err := checkCertificate(m.cert, m.ca, f.self, now)
	if err != nil {
		return nil, fmt.Errorf("use the certificate %s: %w", f.cert, err)
	}
	for i, c := range chain {
		m.chain = append(m.chain, Certificate{CA: i > 0, Serial: c.SerialNumber.Text(16), Expires: c.NotAfter})
	}
	return m, nil
}

// checkCertificate applies what a peer will apply, on both roles, and returns
// the chain to the CA.
func checkCertificate(pair tls.Certificate, pool *x509.CertPool, self string, now time.Time) (chain []*x509.Certificate, err error) {
	leaf := pair.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("it expired at %s: issue a new one", leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("it isn't valid before %s: check this host's clock", leaf.NotBefore.Format(time.RFC3339))
	}
	if err := leaf.VerifyHostname(self); err != nil {
		return nil, fmt.Errorf("it is made out to %q, not to this node, %q: issue one that carries the node's name as a DNS name", strings.Join(leaf.DNSNames, ", "), self)
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read its chain: %w", err)
		}
		between.AddCert(c)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		chains, err := leaf.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use},
		})
		if err != nil {
			return nil, fmt.Errorf("other nodes would refuse it: %w (it needs the CA's signature and the extended key usages serverAuth and clientAuth)", err)
		}
		chain = chains[0]
	}
	return chain, nil
}

// server accepts any certificate of the CA; whose it is, is compared with the
// preamble.
func (f *TLSFiles) server() *tls.Config {
	m := f.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    m.ca,
		// Every connection shows its certificate anew.
		SessionTicketsDisabled: true,
	}
}

// client accepts node's certificate only.
func (f *TLSFiles) client(node string) *tls.Config {
	m := f.current()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		RootCAs:      m.ca,
		ServerName:   node,
	}
}
