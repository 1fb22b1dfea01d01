package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T, cluster string) (*Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tls")
	a, err := CreateAuthority(dir, cluster, AuthorityLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

func issued(t *testing.T, a *Authority, n Name) *x509.Certificate {
	t.Helper()
	made, err := a.Issue(n, NodeLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(made.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func verify(c *x509.Certificate, a *Authority, use x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

func TestNamesGoThroughCertificates(t *testing.T) {
	a, _ := newCA(t, "office.example")
	for _, n := range []Name{
		{Cluster: "office.example", Node: "alpha"},
		{Cluster: "office.example", Role: Viewer, Client: "monitor"},
		{Cluster: "office.example", Role: Operator, Client: "alice@example.org"},
		{Cluster: "office.example", Role: Admin, Client: "b"},
	} {
		c := issued(t, a, n)
		if got, err := NameIn(c); err != nil || got != n {
			t.Errorf("%v comes back as %v, %v", n, got, err)
		}
		if err := verify(c, a, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%v as a client: %v", n, err)
		}
		server := verify(c, a, x509.ExtKeyUsageServerAuth) == nil && c.VerifyHostname("alpha") == nil
		if server != (n.Node != "") {
			t.Errorf("%v may be a server: %v", n, server)
		}
	}
}

// A CA's constraints hold whatever it is made to sign.
func TestTheCAIsHeldToItsCluster(t *testing.T) {
	a, _ := newCA(t, "office")
	if err := verify(issued(t, a, Name{Cluster: "other", Node: "alpha"}), a, x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("the CA of office vouches for a node of other")
	}
	b, _ := newCA(t, "office")
	if err := verify(issued(t, b, Name{Cluster: "office", Node: "alpha"}), a, x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("another CA's certificate is taken")
	}
	if c, err := a.Cluster(); err != nil || c != "office" {
		t.Errorf("the CA is for %q, %v", c, err)
	}
	long, err := a.Issue(Name{Cluster: "office", Node: "alpha"}, 2*AuthorityLife, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := x509.ParseCertificate(long.Cert); c.NotAfter.After(a.cert.NotAfter) {
		t.Error("a certificate outlives its CA")
	}
	if _, err := a.Issue(Name{Cluster: "office", Node: "alpha"}, NodeLife, time.Now().Add(2*AuthorityLife)); err == nil {
		t.Error("an expired CA signs")
	}
}

func TestBadNames(t *testing.T) {
	a, _ := newCA(t, "office")
	for _, n := range []Name{
		{Cluster: "office"}, {Cluster: "office", Node: "a b"}, {Cluster: "office", Node: "a/b"}, {Cluster: "office", Node: "é"},
		{Cluster: "office", Role: Admin}, {Cluster: "office", Role: NoRole, Client: "alice"}, {Cluster: "office", Role: Admin, Client: "al\nice"},
		{Node: "alpha"}, {Cluster: "off ice", Node: "alpha"},
	} {
		if _, err := a.Issue(n, NodeLife, time.Now()); err == nil {
			t.Errorf("a certificate was made out to %q", n)
		}
	}
	for _, text := range []string{
		"had://office/node/", "had://office/role/root/alice", "had://office/role/admin/", "had://office/role/admin/al%0aice", "had://u@office/node/alpha",
		"had://office/node/alpha?x=1", "had://office/node/alpha#x", "had:///node/alpha", "had:office", "had://office/ca", "had://office:1/node/alpha",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := NameIn(&x509.Certificate{URIs: []*url.URL{u}}); err == nil {
			t.Errorf("%s is taken as %v", text, n)
		}
	}
	other, _ := url.Parse("spiffe://office/alpha")
	if _, err := NameIn(&x509.Certificate{URIs: []*url.URL{other}}); !errors.Is(err, ErrNoName) {
		t.Errorf("a name of others: %v", err)
	}
	one, _ := url.Parse("had://office/role/viewer/alice")
	two, _ := url.Parse("had://office/role/admin/alice")
	if n, err := NameIn(&x509.Certificate{URIs: []*url.URL{one, two}}); err == nil {
		t.Errorf("two names are taken as %v", n)
	}
}

func TestFiles(t *testing.T) {
	_, dir := newCA(t, "office")
	if _, err := CreateAuthority(dir, "office", AuthorityLife, time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second CA in the folder: %v", err)
	}
	a, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := Name{Cluster: "office", Node: "alpha"}
	out := filepath.Join(dir, "nodes", "alpha")
	place := func(renew bool) ([]string, error) {
		made, err := a.Issue(n, NodeLife, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return Write(out, dir, n, made, renew)
	}
	paths, err := place(false)
	if err != nil {
		t.Fatal(err)
	}
	for i, mode := range []fs.FileMode{0o644, 0o644, 0o600} {
		if info, err := os.Stat(paths[i]); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v; want %v", paths[i], info.Mode(), err, mode)
		}
	}
	before, err := tls.LoadX509KeyPair(paths[1], paths[2])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := place(false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second certificate in the folder: %v", err)
	}
	if _, err := place(true); err != nil {
		t.Fatal(err)
	}
	after, err := tls.LoadX509KeyPair(paths[1], paths[2])
	if err != nil {
		t.Fatal(err)
	}
	if before.Leaf.Equal(after.Leaf) || before.PrivateKey == after.PrivateKey {
		t.Error("a renewed certificate is the old one")
	}
	if got, err := NameAt(out, true); err != nil || got != n {
		t.Errorf("the folder holds %v, %v", got, err)
	}
	left, _ := filepath.Glob(filepath.Join(out, ".new-*"))
	if len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
	if err := os.Chmod(filepath.Join(dir, CAKeyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that others can read: %v", err)
	}
}

// During a rotation the file of CAs holds the old one, too, in any order.
func TestTheKeyFindsItsCertificate(t *testing.T) {
	a, dir := newCA(t, "office")
	_, old := newCA(t, "office")
	first, err := os.ReadFile(filepath.Join(old, CAFile))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAFile), append(first, second...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenAuthority(dir); err != nil || !got.cert.Equal(a.cert) {
		t.Errorf("the CA was not found beside the old one: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, CAFile), first, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir); err == nil {
		t.Error("a key without its certificate is taken")
	}
}

func FuzzNameIn(f *testing.F) {
	f.Add("had://office/node/alpha")
	f.Add("had://office/role/admin/alice")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		n, err := NameIn(&x509.Certificate{URIs: []*url.URL{u}})
		if err != nil {
			return
		}
		if again, err := url.Parse(n.String()); err != nil || again.String() != n.String() {
			t.Errorf("%q was read as %v, which is written as %q", text, n, n.String())
		}
	})
}
