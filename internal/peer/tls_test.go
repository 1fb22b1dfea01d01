package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a CA in a folder of its own.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "office CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// issue writes name.pem and name-key.pem, as change leaves the certificate.
func (a *authority) issue(name string, change func(*x509.Certificate)) {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+"-key.pem", "PRIVATE KEY", keyDER)
}

func (a *authority) load(file, self string) (*TLSFiles, error) {
	return LoadTLS(a.path("ca.pem"), a.path(file+".pem"), a.path(file+"-key.pem"), self)
}

// files issues and loads a good certificate.
func (a *authority) files(name string) *TLSFiles {
	a.t.Helper()
	a.issue(name, nil)
	f, err := a.load(name, name)
	if err != nil {
		a.t.Fatal(err)
	}
	return f
}

func TestMeetingOverTLS(t *testing.T) {
	ca := newAuthority(t)
	o := newOffice(t, "alpha", "beta", "gamma")
	o.tls = make(map[string]*TLSFiles)
	for _, m := range o.members {
		o.tls[m.Name] = ca.files(m.Name)
	}
	h := o.bornTogether()
	c, err := h["alpha"].DialRaft(t.Context(), "beta")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, h["beta"].RaftListener(), "alpha", "beta")
	if got := knock(t, o.members[0].Address, frame(2, "{}")); strings.Contains(string(got), magic) {
		t.Errorf("a plain preamble is answered with %q", got)
	}
}

// Nobody meets a node that can't prove its name.
func TestTLSImpostors(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good, foreign, gammas := ca.files("alpha"), other.files("beta"), ca.files("gamma")
	for name, c := range map[string]struct {
		beta        *TLSFiles
		alpha, want string // what alpha says of beta, and beta of alpha
	}{
		"other CA":     {foreign, "unknown authority", "unknown authority"},
		"other's name": {gammas, "not beta", "isn't its own"},
		"no TLS":       {nil, "TLS", "compare the tls blocks"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "alpha", "beta")
			o.tls = map[string]*TLSFiles{"alpha": good, "beta": c.beta}
			alpha, beta := o.start("alpha", with{}), o.start("beta", with{})
			alpha.meet()
			beta.meet()
			both := func(h *host) func() []string {
				return func() []string { return append(append(h.Waiting(), h.Refusals()...), h.log.get()...) }
			}
			eventually(t, both(alpha), c.alpha)
			eventually(t, both(beta), c.want)
			if alpha.id.confirmed("beta") || beta.id.confirmed("alpha") {
				t.Error("an impostor's word was taken")
			}
		})
	}
}

func TestLoadTLSSaysWhatIsWrong(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	ca.issue("alpha", nil)
	ca.issue("expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	ca.issue("early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	ca.issue("server", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
	other.issue("alpha", nil)
	rename := func(from, to string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename(other.path("alpha.pem"), ca.path("foreign.pem"))
	rename(other.path("alpha-key.pem"), ca.path("foreign-key.pem"))
	rename(ca.path("alpha.pem"), ca.path("mixed.pem"))
	rename(ca.path("early-key.pem"), ca.path("mixed-key.pem"))
	if err := os.WriteFile(ca.path("text.pem"), []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}

	if _, err := ca.load("alpha", "alpha"); err != nil {
		t.Errorf("a good certificate: %v", err)
	}
	for _, c := range []struct{ file, self, want string }{
		{"missing", "alpha", "missing.pem: no such file"},
		{"mixed", "alpha", "private key does not match"},
		{"alpha", "beta", `it is made out to "alpha", not to this node, "beta"`},
		{"expired", "expired", "it expired at"},
		{"early", "early", "check this host's clock"},
		{"server", "server", "clientAuth"},
		{"foreign", "alpha", "other nodes would refuse it"},
	} {
		_, err := ca.load(c.file, c.self)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v; want %s", c.file, c.self, err, c.want)
		}
	}
	_, err := LoadTLS(ca.path("text.pem"), ca.path("alpha.pem"), ca.path("alpha-key.pem"), "alpha")
	if err == nil || !strings.Contains(err.Error(), "holds no PEM certificate") {
		t.Errorf("a CA file without PEM: %v", err)
	}
}
