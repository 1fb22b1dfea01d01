package peer

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"had/internal/pki"
)

// revoke takes back what a name was given, as the folder's file says it.
func (a *authority) revoke(line string) {
	a.t.Helper()
	if err := os.WriteFile(a.path(pki.RevokedFile), []byte(line+" "+time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// both returns both ends of a connection.
func both(t *testing.T, dial func() (net.Conn, error), ln net.Listener) (ends [2]net.Conn) {
	t.Helper()
	var err error
	if ends[0], err = dial(); err != nil {
		t.Fatal(err)
	}
	if ends[1], err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends
}

// over waits until a connection has ended; a byte still goes through one that lives.
func over(t *testing.T, what string, ends [2]net.Conn) {
	t.Helper()
	for i, c := range ends {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: end %d is still open: %v", what, i, err)
		}
	}
}

func alive(t *testing.T, what string, ends [2]net.Conn) {
	t.Helper()
	if _, err := ends[0].Write([]byte("x")); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if err := ends[1].SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(ends[1], make([]byte, 1)); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// Who is revoked is let in no more, and what is open ends, whoever opened it. All
// others are left alone.
func TestRevokedCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	o := newOffice(t, "alpha", "beta", "gamma")
	o.tls = map[string]*TLSFiles{}
	for _, m := range o.members {
		o.tls[m.Name] = ca.files(m.Name)
	}
	h := o.bornTogether()
	alpha, beta, gamma := h["alpha"], h["beta"], h["gamma"]
	alice := ca.alice(o.members[0].Address)
	raft := func(from, to *host) func() (net.Conn, error) {
		return func() (net.Conn, error) { return from.DialRaft(t.Context(), to.self) }
	}
	hers := both(t, func() (net.Conn, error) { return alice.Dial(t.Context()) }, alpha.OperatorListener())
	in, out := both(t, raft(beta, alpha), alpha.RaftListener()), both(t, raft(alpha, beta), beta.RaftListener())
	others := both(t, raft(gamma, alpha), alpha.RaftListener())

	ca.revoke("client alice")
	over(t, "alice's", hers)
	var no *NotAdmittedError
	if _, err := alice.Dial(t.Context()); !errors.As(err, &no) || !strings.Contains(err.Error(), "the certificate of alice is revoked") {
		t.Errorf("alice dials again: %v", err)
	}
	alive(t, "beta's while alice is revoked", in)

	ca.revoke("node beta")
	over(t, "beta's to alpha", in)
	over(t, "alpha's to beta", out)
	alive(t, "gamma's", others)
	for _, way := range []func() (net.Conn, error){raft(beta, alpha), raft(alpha, beta)} {
		if _, err := way(); err == nil || !strings.Contains(err.Error(), "the certificate of beta is revoked") {
			t.Errorf("between alpha and beta: %v", err)
		}
	}
	if got := strings.Join(beta.TLSProblems(), "\n"); !strings.Contains(got, "this node's TLS certificate is revoked") {
		t.Errorf("beta says %q", got)
	}
	eventually(t, alpha.log.get, "ended a connection that was open", "beta", "is revoked")

	// With a later one it is a node again; alice's line is gone from the file.
	ca.issue("beta", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Second) })
	eventually(t, func() []string {
		if _, err := raft(beta, alpha)(); err != nil {
			return nil
		}
		return []string{"in again"}
	}, "in again")
	if c, err := alice.Dial(t.Context()); err != nil {
		t.Errorf("alice, who isn't revoked any more: %v", err)
	} else {
		c.Close()
	}

	// What can't be read leaves in force what was.
	ca.revoke("nobody")
	if got := strings.Join(alpha.TLSProblems(), "\n"); !strings.Contains(got, "read whose certificates are revoked") || !strings.Contains(got, "those from before stay in use") {
		t.Errorf("alpha says %q", got)
	}
	if alpha.TLS().Revoked() != 1 {
		t.Error("a file that can't be read has revoked other than before")
	}
}

// An operator's connection ends with her certificate, whether she asks or not.
func TestAnOperatorsConnectionEndsWithHerCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	o := newOffice(t, "alpha", "beta")
	o.tls = map[string]*TLSFiles{"alpha": ca.files("alpha"), "beta": ca.files("beta")}
	alpha := o.bornTogether()["alpha"]
	ca.alice(o.members[0].Address)
	ca.issue("alice", func(c *x509.Certificate) {
		named("had://office/role/operator/alice")(c)
		c.NotAfter = time.Now().Add(2 * time.Second)
	})
	d, err := NewOperatorDialer(OperatorConfig{Address: o.members[0].Address, CA: ca.path("ca.pem"), Cert: ca.path("alice.pem"), Key: ca.path("alice-key.pem")})
	if err != nil {
		t.Fatal(err)
	}
	over(t, "alice's", both(t, func() (net.Conn, error) { return d.Dial(t.Context()) }, alpha.OperatorListener()))
}

// A node that was removed or replaced loses what it has open, and what others have
// open to it. One that a node hasn't read of yet keeps it.
func TestRemovedNodesLoseTheirConnections(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	alpha, beta, gamma := h["alpha"], h["beta"], h["gamma"]
	b, _ := alpha.id.Birth()
	dial := func(from, to *host) func() (net.Conn, error) {
		return func() (net.Conn, error) { return from.DialRPC(t.Context(), to.self) }
	}
	in, out := both(t, dial(beta, alpha), alpha.RPCListener()), both(t, dial(alpha, beta), beta.RPCListener())
	others := both(t, dial(gamma, alpha), alpha.RPCListener())
	list := after(b, BornMember{Member: Member{Name: "beta", Address: o.members[1].Address}, NodeID: newNodeID()})
	if err := gamma.id.Follow(40, list[:2]); err != nil {
		t.Fatal(err)
	}
	early := both(t, dial(gamma, alpha), alpha.RPCListener()) // by a list that alpha hasn't read of
	if err := alpha.id.Follow(30, list); err != nil {
		t.Fatal(err)
	}
	over(t, "of beta, which was replaced", in)
	over(t, "to beta, which was replaced", out)
	alive(t, "gamma's", others)
	alive(t, "gamma's, by a later list", early)

	only := []BornMember{}
	for _, m := range list {
		if m.Name == "alpha" {
			only = append(only, m)
		}
	}
	if err := alpha.id.Follow(50, only); err != nil {
		t.Fatal(err)
	}
	over(t, "of gamma, which was removed", others)
	eventually(t, alpha.log.get, "ended a connection that was open", "gamma", "it is no member any more")
}

// A second cluster on a host that was given the first one's files is told so.
func TestFilesOfAnotherCluster(t *testing.T) {
	ca := newAuthority(t)
	if err := ca.files("alpha").CheckCluster("office"); err != nil {
		t.Errorf("a certificate that names no cluster: %v", err)
	}
	ca.issue("alpha", named("had://office/node/alpha"))
	f, err := ca.load("alpha", "alpha")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.CheckCluster("Office"); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := f.CheckCluster("shop"); err == nil || !strings.Contains(err.Error(), `made out to a node of the cluster "office", and had.hcl describes "shop"`) {
		t.Errorf("another's: %v", err)
	}
}
