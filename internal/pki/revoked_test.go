package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Nodes with the same digest refuse the same certificates.
func TestRevokedDigest(t *testing.T) {
	digest := func(text string) string {
		t.Helper()
		v, err := ParseRevoked([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return v.Digest()
	}
	const alice, beta = "client alice 2026-11-30T20:15:00Z\n", "node beta 2026-11-30T20:15:00Z\n"
	for _, text := range []string{beta + alice, "# left\n" + alice + "node BETA 2026-11-30T21:15:00+01:00 # the disk", alice + alice + beta} {
		if digest(text) != digest(alice+beta) {
			t.Errorf("another digest for %q", text)
		}
	}
	for _, text := range []string{"", alice, beta, alice + "client beta 2026-11-30T20:15:00Z\n", alice + "node beta 2026-11-30T20:15:01Z\n"} {
		if digest(text) == digest(alice+beta) {
			t.Errorf("the same digest for %q", text)
		}
	}
}

// Whatever was issued to a name until then is covered, renewals too, and nothing of
// anybody else; what is issued then isn't, not even in the same second.
func TestRevoke(t *testing.T) {
	_, dir := newCA(t, "office")
	alice, beta := Name{Cluster: "office", Role: Operator, Client: "alice"}, Name{Cluster: "office", Node: "beta"}
	now := time.Now()
	issue := func(n Name, at time.Time) *x509.Certificate {
		t.Helper()
		a, err := OpenAuthority(dir)
		if err != nil {
			t.Fatal(err)
		}
		made, err := a.Issue(n, NodeLife, at)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(made.Cert)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	covered := func(c *x509.Certificate) bool {
		t.Helper()
		v, _, err := ReadRevoked(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, yes := v.Covers(c)
		return yes
	}
	first, renewed := issue(alice, now.Add(-48*time.Hour)), issue(alice, now)
	admin := issue(Name{Cluster: "office", Role: Admin, Client: "alice"}, now)
	other, node, gamma := issue(Name{Cluster: "office", Role: Operator, Client: "beta"}, now), issue(beta, now), issue(Name{Cluster: "office", Node: "gamma"}, now)
	if covered(renewed) {
		t.Fatal("without a file something is revoked")
	}
	if _, err := Revoke(dir, []Name{{Client: "alice"}}, now); err != nil {
		t.Fatal(err)
	}
	if !covered(first) || !covered(renewed) || !covered(admin) {
		t.Error("a certificate of a revoked name counts")
	}
	if covered(node) || covered(other) {
		t.Error("another name's is revoked")
	}
	if c := issue(alice, now); covered(c) || c.NotBefore.After(now) {
		t.Errorf("what is issued afterwards is revoked, or begins at %v", c.NotBefore)
	}
	if _, err := Revoke(dir, []Name{beta}, now); err != nil {
		t.Fatal(err)
	}
	if !covered(node) || !covered(renewed) || covered(other) || covered(gamma) {
		t.Error("beta the node is to be revoked, alice to stay it, and nobody else")
	}
	// Another CA's tools write no had:// name.
	if plain := (&x509.Certificate{DNSNames: []string{"BETA"}, NotBefore: node.NotBefore}); !covered(plain) {
		t.Error("a node's certificate without a name of ours counts")
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".new-*"))
	if len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestParseRevoked(t *testing.T) {
	v, err := ParseRevoked([]byte("# all\n\nclient alice@example.org 2026-11-30T20:15:00+01:00 # left\nnode beta 2026-11-30T20:15:00Z\nnode BETA 2027-01-01T00:00:00Z\n"))
	if err != nil || v.Count() != 2 || !v.all[1].until.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("read %v, %v", v, err)
	}
	for _, text := range []string{"alice", "client alice", "role admin 2026-11-30T20:15:00Z", "client al/ice 2026-11-30T20:15:00Z", "node a_b 2026-11-30T20:15:00Z", "client alice yesterday", "client alice 2026-11-30T20:15:00Z x"} {
		if _, err := ParseRevoked([]byte("\n" + text)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseRevoked(make([]byte, maxRevoked+1)); err == nil {
		t.Error("a file of any length is read")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, RevokedFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadRevoked(dir); err == nil {
		t.Error("what can't be read revokes nothing")
	}
}

// What is accepted is written and read as the same.
func FuzzParseRevoked(f *testing.F) {
	f.Add("client alice 2026-11-30T20:15:00Z\nnode beta 2026-11-30T20:15:00+01:00 # gone\n")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := ParseRevoked([]byte(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, r := range v.all {
			again.WriteString(r.String() + "\n")
		}
		w, err := ParseRevoked([]byte(again.String()))
		if again.Len() <= maxRevoked && (err != nil || w.Count() != v.Count()) {
			t.Errorf("%q was read as %v, and then %v, %v", text, v, w, err)
		}
	})
}
