package guard

import (
	"bytes"
	"testing"

	"had/internal/peer"
)

// A guard shows what had has read anew, and keeps what it had when that can't be
// used.
func TestAGuardTakesNewCertificates(t *testing.T) {
	ca := newAuthority(t)
	g := &process{files: ca.files("alpha").Freeze()}
	first, _ := g.files.InUse()
	next, _ := ca.files("alpha").InUse()
	if bytes.Equal(first.Cert, next.Cert) {
		t.Fatal("there is only one certificate")
	}
	other, _ := ca.files("beta").InUse()
	for name, p := range map[string]peer.PEM{
		"half a pair": {CA: next.CA, Cert: next.Cert, Key: first.Key}, "another node's": other, "nothing": {},
	} {
		if err := g.certify(&p); err == nil {
			t.Errorf("%s is taken", name)
		}
		if now, _ := g.files.InUse(); !bytes.Equal(now.Cert, first.Cert) {
			t.Errorf("%s is in use", name)
		}
	}
	if err := g.certify(&next); err != nil {
		t.Fatal(err)
	}
	if now, _ := g.files.InUse(); !bytes.Equal(now.Cert, next.Cert) {
		t.Error("the new certificate isn't in use")
	}
	if err := (&process{}).certify(&next); err == nil {
		t.Error("a guard without TLS takes certificates")
	}
}

func TestCertifyIsCheckedAsARequest(t *testing.T) {
	if err := (Request{Op: OpCertify}).check(); err == nil {
		t.Error("one without certificates is a request")
	}
	if err := (Request{Op: OpCertify, TLS: &peer.PEM{}}).check(); err != nil {
		t.Error(err)
	}
	if err := (Request{Op: OpDrop, Epoch: 7, TLS: &peer.PEM{}}).check(); err == nil {
		t.Error("another request carries certificates")
	}
}
