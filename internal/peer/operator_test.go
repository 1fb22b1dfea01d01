package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	"had/internal/pki"
)

// alice issues an operator's certificate and returns her way to a node.
func (a *authority) alice(address string) *OperatorDialer {
	a.t.Helper()
	a.issue("alice", func(c *x509.Certificate) {
		named("had://office/role/operator/alice")(c)
		c.DNSNames, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	d, err := NewOperatorDialer(OperatorConfig{Address: address, CA: a.path("ca.pem"), Cert: a.path("alice.pem"), Key: a.path("alice-key.pem"), Version: "test"})
	if err != nil {
		a.t.Fatal(err)
	}
	return d
}

func TestOperatorsAreLetInByTheirCertificates(t *testing.T) {
	ca := newAuthority(t)
	o := newOffice(t, "alpha", "beta")
	o.tls = map[string]*TLSFiles{"alpha": ca.files("alpha"), "beta": ca.files("beta")}
	alpha := o.start("alpha", with{})
	d := ca.alice(o.members[0].Address)

	var no *NotAdmittedError
	if _, err := d.Dial(t.Context()); !errors.As(err, &no) || !strings.Contains(err.Error(), "alpha isn't born yet") {
		t.Errorf("before the birth: %v", err)
	}
	beta := o.start("beta", with{})
	o.agreed(map[string]*meeting{"alpha": alpha.meet(), "beta": beta.meet()})

	let := make(chan net.Conn, maxOperators+1)
	go func() {
		for {
			c, err := alpha.OperatorListener().Accept()
			if err != nil {
				close(let)
				return
			}
			let <- c
		}
	}()
	var ours []net.Conn
	for range maxOperators {
		c, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ours = append(ours, c)
	}
	first := <-let
	who, ok := first.RemoteAddr().(Operator)
	if !ok || who.Name != "alice" || who.Role != pki.Operator || who.Until.IsZero() || who.String() != "alice (operator)" {
		t.Errorf("she is taken for %+v", first.RemoteAddr())
	}
	if _, isPeer := PeerName(first); isPeer {
		t.Error("she is taken for a node")
	}
	// Operators are bounded; nodes get in all the same, and a slot comes back once.
	if _, err := d.Dial(t.Context()); !errors.As(err, &no) || !strings.Contains(err.Error(), "64 connections of operators already") {
		t.Errorf("one too many: %v", err)
	}
	c, err := beta.DialRaft(t.Context(), "alpha")
	if err != nil {
		t.Errorf("a node beside them: %v", err)
	} else {
		c.Close()
	}
	first.Close()
	first.Close()
	again, err := d.Dial(t.Context())
	if err != nil {
		t.Fatalf("after one has left: %v", err)
	}
	if _, err := d.Dial(t.Context()); err == nil {
		t.Error("a slot came back twice")
	}
	if left := alpha.Refusals(); len(left) > 0 {
		t.Errorf("an operator's trouble is the cluster's: %q", left)
	}
	eventually(t, alpha.log.get, "an operator was not let in", "isn't born yet")
	for _, c := range append(ours, again) {
		c.Close()
	}
	alpha.stop()
	for c := range let {
		c.Close()
	}
}

// Nothing but a certificate counts: an operator's can't open what nodes have.
func TestAnOperatorIsNoNode(t *testing.T) {
	ca := newAuthority(t)
	o := newOffice(t, "alpha", "beta")
	o.tls = map[string]*TLSFiles{"alpha": ca.files("alpha"), "beta": ca.files("beta")}
	hosts := o.bornTogether()
	d := ca.alice(o.members[0].Address)
	for _, k := range []kind{kindMeet, kindRaft, kindRPC} {
		raw, err := net.Dial("tcp", o.members[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c, err := shake(t.Context(), raw, tls.Client, d.cfg)
		if err != nil {
			t.Fatal(err)
		}
		// She knows all that beta says of itself.
		if err := writeFrame(c, hosts["beta"].id.hello(k, "alpha", "test")); err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := readFrame(c, &a); err != nil {
			t.Fatal(err)
		}
		if a.Refused == nil || a.Refused.Code != codeCertificate {
			t.Errorf("%s as beta: %+v", k, a.Refused)
		}
	}
}
