package peer

import (
	"crypto/x509"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// put replaces a file as a copy onto a node does.
func (a *authority) put(from, to string) {
	a.t.Helper()
	data, err := os.ReadFile(a.path(from))
	if err == nil {
		err = os.WriteFile(a.path(to), data, 0o600)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	ca := newAuthority(t)
	day := 24 * time.Hour
	ca.cert.NotAfter = time.Now().Add(300 * day) // of the issuer only the name is looked at
	a := ca.files("alpha")
	first := a.current()
	if a.current() != first {
		t.Fatal("unchanged files were read again")
	}
	problems := func(want ...string) {
		t.Helper()
		got := a.Problems(time.Now())
		if len(got) != len(want) {
			t.Fatalf("problems %q, want %q", got, want)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("problem %q, want %q", got[i], want[i])
			}
		}
	}
	problems("expires on") // the CA of these tests lives for an hour

	// The certificate arrives before its key.
	ca.issue("next", func(c *x509.Certificate) { c.DNSNames = []string{"alpha"} })
	ca.put("next.pem", "alpha.pem")
	problems("those from before stay in use: use the certificate", "expires on")
	if a.current() != first || a.server().Certificates[0].Leaf.SerialNumber.Cmp(first.cert.Leaf.SerialNumber) != 0 {
		t.Fatal("half a pair is in use")
	}
	ca.put("next-key.pem", "alpha-key.pem")
	problems("expires on")
	second := a.current()
	if second == first || second.cert.Leaf.Equal(first.cert.Leaf) {
		t.Fatal("the new certificate isn't in use")
	}
	if !a.client("beta").Certificates[0].Leaf.Equal(second.cert.Leaf) {
		t.Error("a dialer shows the old one")
	}

	// What nobody would accept is not put to use.
	ca.issue("alpha", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	problems("it expired at", "expires on")
	ca.issue("alpha", func(c *x509.Certificate) { c.DNSNames = []string{"beta"} })
	problems("made out to", "expires on")
	if err := os.Remove(ca.path("alpha.pem")); err != nil {
		t.Fatal(err)
	}
	problems("no such file", "expires on")
	if a.current() != second {
		t.Error("a certificate that can't be used is in use")
	}
	ca.issue("alpha", nil)
	problems("expires on")

	frozen := ca.files("alpha").Freeze()
	was := frozen.current()
	ca.issue("alpha", nil)
	if frozen.current() != was {
		t.Error("frozen files were read again")
	}
}

func TestExpiryIsToldInTime(t *testing.T) {
	ca := newAuthority(t)
	a := ca.files("alpha")
	m := a.current()
	for _, c := range []struct {
		left time.Duration
		want string
	}{
		{31 * 24 * time.Hour, ""},
		{29 * 24 * time.Hour, "in 29 days: hactl tls issue alpha --renew"},
		{time.Hour, "in 0 days"},
		{-time.Second, "so no other node talks to this one any more"},
	} {
		got := strings.Join(a.Problems(m.first().Expires.Add(-c.left)), "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s before the end: %q, want %q", c.left, got, c.want)
		}
	}
}

// named makes the certificate carry a name of ours.
func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(name)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

// Whoever is let in as a node of another kind than it is could vote.
func TestWhoMayBeANode(t *testing.T) {
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		want   string // in what alpha says of beta; empty: they meet
	}{
		"without a name of ours": {nil, ""},
		"with its own":           {named("had://office/node/beta"), ""},
		"of another cluster":     {named("had://other/node/beta"), "made out to had://other/node/beta"},
		"of another node":        {named("had://office/node/gamma"), "made out to had://office/node/gamma"},
		"of an admin":            {named("had://office/role/admin/beta"), "made out to had://office/role/admin/beta"},
	} {
		t.Run(name, func(t *testing.T) {
			ca.issue("beta", c.change)
			files, err := ca.load("beta", "beta")
			if err != nil {
				t.Fatal(err)
			}
			o := newOffice(t, "alpha", "beta")
			o.tls = map[string]*TLSFiles{"alpha": ca.files("alpha"), "beta": files.Freeze()}
			alpha, beta := o.start("alpha", with{}), o.start("beta", with{})
			alpha.meet()
			beta.meet()
			if c.want == "" {
				eventually(t, func() []string {
					if alpha.id.phase() == born {
						return []string{"born"}
					}
					return nil
				}, "born")
				return
			}
			eventually(t, func() []string { return append(alpha.Waiting(), alpha.Refusals()...) }, c.want)
			if alpha.id.confirmed("beta") {
				t.Error("its word was taken")
			}
		})
	}
}
