package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"had/internal/peer"
	"had/internal/pki"
	hadv1 "had/proto/had/v1"
)

// methods are all RPCs of a service, as the proto has them.
func methods(t *testing.T, service string) (out []protoreflect.MethodDescriptor) {
	t.Helper()
	s := hadv1.File_had_v1_ha_proto.Services().ByName(protoreflect.Name(service))
	if s == nil {
		s = hadv1.File_had_v1_peer_proto.Services().ByName(protoreflect.Name(service))
	}
	for i := range s.Methods().Len() {
		out = append(out, s.Methods().Get(i))
	}
	if len(out) == 0 {
		t.Fatalf("the service %s has no methods", service)
	}
	return out
}

func full(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// A new RPC needs its role in the table, and its line in the document.
func TestEveryRPCHasItsRole(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (viewer|operator|admin) \| (.*) \|.*$`).FindAllStringSubmatch(string(text), -1) {
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[2], -1) {
			stated[m[1]] = row[1]
		}
	}
	for _, m := range methods(t, "HA") {
		name := string(m.Name())
		role, ok := roleFor(full(m))
		if !ok {
			t.Errorf("%s has no role: add it to roleFor in roles.go and to the table of docs/security.md", name)
			continue
		}
		if stated[name] != role.String() {
			t.Errorf("%s needs the role %s, and docs/security.md says %q", name, role, stated[name])
		}
		delete(stated, name)
		if m.IsStreamingClient() {
			t.Errorf("%s takes a stream: see what signs its requests", name)
		}
	}
	for name := range stated {
		t.Errorf("docs/security.md tells of %s, which no proto has", name)
	}
}

// everything is an HA whose every RPC succeeds as soon as it is reached: what
// Unimplemented answers is not PermissionDenied.
type everything struct{ hadv1.UnimplementedHAServer }

// authority is a CA that signs whatever it is asked to.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue makes a certificate for a name, good from one hour ago for as long as said.
func (a *authority) issue(file, name, dns string, life time.Duration) {
	a.t.Helper()
	u, err := url.Parse(name)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "admin"}, URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if dns != "" {
		template.DNSNames = []string{dns}
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(file+".pem", "CERTIFICATE", der)
	a.write(file+"-key.pem", "PRIVATE KEY", pkcs8)
}

// revoke takes back what a name was given until now.
func (a *authority) revoke(name string) {
	a.t.Helper()
	if err := os.WriteFile(a.path(pki.RevokedFile), []byte(name+" "+time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// startNode runs the cluster port of a cluster of one, with these RPCs for
// operators, and returns its address.
func startNode(t *testing.T, ca *authority, ha hadv1.HAServer) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	id, err := peer.OpenIdentity(filepath.Join(t.TempDir(), "data"), "office", "alpha", []peer.Member{{Name: "alpha", Address: address}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := peer.PortConfig{Identity: id, Listen: address, Logger: hclog.NewNullLogger(), Version: "test"}
	if ca != nil {
		ca.issue("node", "had://office/node/alpha", "alpha", time.Hour)
		if cfg.TLS, err = peer.LoadTLS(ca.path("ca.pem"), ca.path("node.pem"), ca.path("node-key.pem"), "alpha"); err != nil {
			t.Fatal(err)
		}
	}
	port, err := peer.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- port.Run(ctx) }()
	go func() { ended <- Serve(ctx, operators(ha), port.OperatorListener()) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := port.Meet(ctx); err != nil {
		t.Fatal(err)
	}
	return address
}

// dial returns a connection that opens by the files of ca, with the certificate
// of a file.
func dial(t *testing.T, address, caFile string, ca *authority, file string) *grpc.ClientConn {
	t.Helper()
	d, err := peer.NewOperatorDialer(peer.OperatorConfig{
		Address: address, CA: caFile, Cert: ca.path(file + ".pem"), Key: ca.path(file + "-key.pem"), Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return connTo(t, func(ctx context.Context, _ string) (net.Conn, error) { return d.Dial(ctx) })
}

func connTo(t *testing.T, open func(context.Context, string) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///had", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(open))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// try calls an RPC with an empty request.
func try(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	t.Helper()
	message := func(d protoreflect.MessageDescriptor) proto.Message {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			t.Fatal(err)
		}
		return mt.New().Interface()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if !m.IsStreamingServer() {
		return conn.Invoke(ctx, full(m), message(m.Input()), message(m.Output()))
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full(m))
	if err != nil {
		return err
	}
	if err := s.SendMsg(message(m.Input())); err != nil {
		return err
	}
	return s.RecvMsg(message(m.Output()))
}

// TestWhoMayCallWhat is the table: every RPC of the proto × everybody who might
// call it from elsewhere, over a real port.
func TestWhoMayCallWhat(t *testing.T) {
	ca, wrong := newAuthority(t), newAuthority(t)
	address := startNode(t, ca, everything{})
	ca.revoke("client mallory")
	ca.issue("a node", "had://office/node/beta", "beta", time.Hour)
	ca.issue("no name", "https://office/role/admin/alice", "", time.Hour)

	type caller struct {
		conn *grpc.ClientConn
		role pki.Role // NoRole: refused whatever it asks
	}
	callers := map[string]caller{
		"no certificate": {connTo(t, func(ctx context.Context, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address) //nolint:gosec // who asks isn't what is tested
		}), pki.NoRole},
		"no TLS": {connTo(t, func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}), pki.NoRole},
		"a node":  {dial(t, address, ca.path("ca.pem"), ca, "a node"), pki.NoRole},
		"no name": {dial(t, address, ca.path("ca.pem"), ca, "no name"), pki.NoRole},
	}
	for _, r := range pki.Roles() {
		for kind, c := range map[string]struct {
			by            *authority
			cluster, name string
			life          time.Duration
		}{
			"":                {ca, "office", "alice", time.Hour},
			", expired":       {ca, "office", "alice", -time.Minute},
			", revoked name":  {ca, "office", "mallory", time.Hour},
			", other cluster": {ca, "other", "alice", time.Hour},
			", wrong CA":      {wrong, "office", "alice", time.Hour},
		} {
			who, may := r.String()+kind, pki.NoRole
			if kind == "" {
				may = r
			}
			c.by.issue(who, "had://"+c.cluster+"/role/"+r.String()+"/"+c.name, "", c.life)
			callers[who] = caller{dial(t, address, ca.path("ca.pem"), c.by, who), may}
		}
	}
	allowed, refused := 0, 0
	for _, service := range []string{"HA", "Peer"} {
		for _, m := range methods(t, service) {
			needs, ok := roleFor(full(m))
			for name, c := range callers {
				err := try(t, c.conn, m)
				want, code := codes.PermissionDenied, status.Code(err)
				switch {
				case c.role == pki.NoRole:
					want = codes.Unavailable // it has no connection
				case service == "Peer":
					want = codes.Unimplemented // there is no such service here
				case ok && c.role >= needs:
					want = codes.Unimplemented // as everything answers
					allowed++
				default:
					refused++
					if text := status.Convert(err).Message(); !strings.Contains(text, "needs the role "+needs.String()) {
						t.Errorf("%s by %s is refused with %q, which doesn't say what it takes", m.Name(), name, text)
					}
				}
				if code != want {
					t.Errorf("%s by %s: %v, want %s", m.Name(), name, err, want)
				}
			}
		}
	}
	if allowed == 0 || refused == 0 {
		t.Errorf("%d calls were allowed and %d refused: the table shows nothing", allowed, refused)
	}
	t.Logf("%d callers; %d calls were allowed, %d refused by the role", len(callers), allowed, refused)
}

// What keeps somebody out is said to them.
func TestRefusalsSaySo(t *testing.T) {
	ca, wrong := newAuthority(t), newAuthority(t)
	ca.issue("expired", "had://office/role/admin/alice", "", -time.Minute)
	ca.issue("other", "had://other/role/admin/alice", "", time.Hour)
	ca.issue("beta", "had://office/node/beta", "beta", time.Hour)
	ca.issue("good", "had://office/role/admin/alice", "", time.Hour)
	ca.issue("revoked", "had://office/role/admin/mallory", "", time.Hour)
	ca.revoke("client mallory")
	wrong.issue("good", "had://office/role/admin/alice", "", time.Hour)
	address, plain := startNode(t, ca, everything{}), startNode(t, nil, everything{})
	for _, c := range []struct {
		name, address string
		trust, ca     *authority
		file, want    string
	}{
		{"expired", address, ca, ca, "expired", "it expired on"},
		{"revoked name", address, ca, ca, "revoked", "the certificate of mallory is revoked"},
		{"other cluster", address, ca, ca, "other", `is for the cluster "other", and alpha is a node of "office"`},
		{"a node", address, ca, ca, "beta", "is a node's"},
		{"wrong CA", address, ca, wrong, "good", "refuses our certificate"},
		{"a node of a wrong CA", address, wrong, wrong, "good", "certificate signed by unknown authority"},
		{"no TLS", plain, ca, ca, "good", "TLS"},
	} {
		d, err := peer.NewOperatorDialer(peer.OperatorConfig{
			Address: c.address, CA: c.trust.path("ca.pem"), Cert: c.ca.path(c.file + ".pem"), Key: c.ca.path(c.file + "-key.pem"),
		})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := d.Dial(t.Context())
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// teller keeps who asked.
type teller struct {
	hadv1.UnimplementedHAServer
	s    *Server
	seen chan string
}

func (c *teller) Move(ctx context.Context, r *hadv1.MoveRequest) (*hadv1.MoveResponse, error) {
	c.seen <- r.GetBy()
	c.seen <- c.s.askedBy(ctx, r.GetBy())
	return &hadv1.MoveResponse{}, nil
}

// Nobody from elsewhere can act in another's name, nor pass for a node that
// passes something on.
func TestWhoDidItIsInTheCertificate(t *testing.T) {
	ca := newAuthority(t)
	ca.issue("alice", "had://office/role/operator/alice", "", time.Hour)
	seen := &teller{s: New(Config{Self: "alpha"}), seen: make(chan string, 2)}
	conn := dial(t, startNode(t, ca, seen), ca.path("ca.pem"), ca, "alice")
	ctx := metadata.AppendToOutgoingContext(t.Context(), forwardedKey, "beta")
	if _, err := hadv1.NewHAClient(conn).Move(ctx, &hadv1.MoveRequest{By: "bob on beta"}); err != nil {
		t.Fatal(err)
	}
	if by, full := <-seen.seen, <-seen.seen; by != "alice (operator)" || full != "alice (operator) by way of alpha" {
		t.Errorf("it was done by %q, %q", by, full)
	}
}

// A connection outlives no certificate.
func TestExpiryEndsWhatIsOpen(t *testing.T) {
	at := func(until time.Time) context.Context {
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: peer.Operator{Name: "alice", Role: pki.Admin, Until: until}})
	}
	if err := byOperator(at(time.Now().Add(time.Minute)), hadv1.HA_Status_FullMethodName); err != nil {
		t.Error(err)
	}
	if err := byOperator(at(time.Now().Add(-time.Second)), hadv1.HA_Status_FullMethodName); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after its certificate's end: %v", err)
	}
}

// Each way in is for those it is made for.
func TestEachWayInHasItsOwn(t *testing.T) {
	from := func(a net.Addr) context.Context { return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: a}) }
	root, node := &net.UnixAddr{Net: "unix"}, peer.Addr{Node: "beta"}
	alice, anybody := peer.Operator{Name: "alice", Role: pki.Admin, Until: time.Now().Add(time.Hour)}, &net.TCPAddr{}
	for name, c := range map[string]struct {
		admit admits
		ok    net.Addr
	}{"socket": {byRoot, root}, "nodes": {byNode, node}, "operators": {byOperator, alice}} {
		for _, a := range []net.Addr{root, node, alice, anybody} {
			if err := c.admit(from(a), hadv1.HA_Version_FullMethodName); (err == nil) != (a == c.ok) {
				t.Errorf("%s: from %v (%s): %v", name, a, a.Network(), err)
			}
		}
		if err := c.admit(from(c.ok), "/had.v1.HA/Unheard"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: an RPC that has no role: %v", name, err)
		}
	}
	for _, m := range methods(t, "Peer") {
		if err := byNode(from(node), full(m)); err != nil {
			t.Error(err)
		}
		for _, err := range []error{byRoot(from(root), full(m)), byOperator(from(alice), full(m))} {
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s, which is for nodes: %v", m.Name(), err)
			}
		}
	}
}
