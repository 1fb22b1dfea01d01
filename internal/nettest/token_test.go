package nettest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

var tokenMoves = flag.Int("token.n", 10, "failovers of TestTLSSessionsResume")

// Ports of nginx: one with the token's keys, and one with keys that each start of
// nginx draws for itself.
const (
	tokenPort, drawnPort = "8443", "8444"
)

// tlsSite is a cluster that serves a website over TLS with Debian's nginx, whose
// session ticket keys are a replicated reconnect token.
type tlsSite struct {
	*site
	dir   string // the same path on each host, and a file system of its own
	port  string // whose keys are the token's
	roots *x509.CertPool
}

func newTLSSite(t *testing.T) *tlsSite {
	t.Helper()
	s := &tlsSite{site: newIdleSite(t, lab.Config{Detect: steady}), port: tokenPort, roots: x509.NewCertPool()}
	root := t.TempDir()
	s.dir = filepath.Join(root, "nginx")
	must(t, os.Mkdir(s.dir, 0o755))
	cert, key := s.certificate(t)
	for _, h := range s.Servers() {
		_, err := h.Exec(t.Context(), "mount", "-t", "tmpfs", "-o", "mode=755", "none", s.dir)
		must(t, err)
	}
	certFile, keyFile := filepath.Join(root, "cert.pem"), filepath.Join(root, "key.pem")
	must(t, os.WriteFile(certFile, cert, 0o600))
	must(t, os.WriteFile(keyFile, key, 0o600))
	must(t, os.WriteFile(s.template(), []byte(strings.NewReplacer(
		"DIR", s.dir, "CERT", certFile, "KEY", keyFile, "TOKENPORT", tokenPort, "DRAWNPORT", drawnPort).Replace(`
user root;
worker_processes 1;
pid DIR/pid;
error_log DIR/error.log;
events {}
http {
  access_log off;
  ssl_certificate CERT;
  ssl_certificate_key KEY;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {
    listen TOKENPORT ssl;
    ssl_session_ticket_key @HAD_TOKEN_TICKETS@;
    ssl_session_ticket_key @HAD_TOKEN_TICKETS@.1;
    location / { return 200 "@HAD_NODE@"; }
  }
  server {
    listen DRAWNPORT ssl;
    location / { return 200 "@HAD_NODE@"; }
  }
}
`)), 0o600))
	s.hooks.add(t, s.vips[0], "PreAcq50nginx", s.nginx("")+" || exit 1")
	s.hooks.add(t, s.vips[0], "PreRel50nginx", s.nginx("-s stop")+`
while [ -s `+s.dir+`/pid ]; do sleep 0.01; done`)
	return s
}

func (s *tlsSite) template() string { return filepath.Join(filepath.Dir(s.dir), "nginx.conf.in") }
func (s *tlsSite) config() string   { return filepath.Join(s.dir, "nginx.conf") }
func (s *tlsSite) location() string { return filepath.Join(s.dir, "ticket.key") }

func (s *tlsSite) nginx(flags string) string {
	return fmt.Sprintf("/usr/sbin/nginx -c %s %s </dev/null >/dev/null 2>&1", s.config(), flags)
}

// certificate makes one for the name that clients ask for.
func (s *tlsSite) certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "www.example.org"}, DNSNames: []string{"www.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(t, err)
	parsed, err := x509.ParseCertificate(der)
	must(t, err)
	s.roots.AddCert(parsed)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

func (s *tlsSite) tokenPolicy() string {
	return s.policy(s.vips...) + fmt.Sprintf(`
reconnect_token "tickets" {
  location  = %q
  replicate = true
  bytes     = 80
  keep      = 1
  reload    = ["/usr/sbin/nginx", "-c", %q, "-s", "reload"]
  template  = %q
  render_to = %q
}
`, s.location(), s.config(), s.template(), s.config())
}

// browser is a client that keeps sessions of one version of TLS.
type browser struct {
	s    *tlsSite
	name string
	cfg  *tls.Config
}

func (s *tlsSite) browser(version uint16) *browser {
	return &browser{s, tls.VersionName(version), &tls.Config{
		ServerName: "www.example.org", RootCAs: s.roots, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		MinVersion: version, MaxVersion: version,
	}}
}

// keyName is how many bytes of a ticket, and of a key of nginx, name the key (RFC
// 5077, section 4).
const keyName = 16

// keyName names the key of the ticket that the browser would come back with.
func (b *browser) keyName() string {
	session, ok := b.cfg.ClientSessionCache.Get(b.cfg.ServerName)
	if !ok {
		return ""
	}
	ticket, _, err := session.ResumptionState()
	if err != nil || len(ticket) < keyName {
		return ""
	}
	return string(ticket[:keyName])
}

// visit asks for a page over one new connection, and says who answered and
// whether the session was resumed.
func (b *browser) visit(t *testing.T, port string) (host string, resumed bool, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			raw, err := b.s.Client.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(raw, b.cfg)
			if err := conn.HandshakeContext(ctx); err != nil {
				return nil, errors.Join(err, raw.Close())
			}
			resumed = conn.ConnectionState().DidResume
			return conn, nil
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(b.s.vips[0].String(), port)+"/", nil)
	must(t, err)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(resp.Body)
	return body.String(), resumed, err
}

// returns visits once, and wants the session resumed by that host.
func (b *browser) returns(t *testing.T, host string) {
	t.Helper()
	answered, resumed, err := b.visit(t, b.s.port)
	if err != nil || answered != host || !resumed {
		t.Errorf("%s, first try at %s: answered by %q, resumed %t, %v", b.name, host, answered, resumed, err)
	}
}

// rotate has a random version made through a node.
func (s *tlsSite) rotate(t *testing.T, node string) uint64 {
	t.Helper()
	var version uint64
	must(t, s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.TokenSet(ctx, &hadv1.TokenSetRequest{Name: "tickets", By: "the test", Reason: "rotated"})
		version = resp.GetVersion()
		return err
	}))
	return version
}

// content is what is in the token's place on a host.
func (s *tlsSite) content(t *testing.T, host, suffix string) string {
	t.Helper()
	text, _ := s.Host(host).Exec(t.Context(), "cat", s.location()+suffix)
	return text
}

// logged is the content of the log.
func (s *tlsSite) logged(t *testing.T, node string) string {
	t.Helper()
	var content []byte
	must(t, s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.TokenShow(ctx, &hadv1.TokenShowRequest{Name: "tickets", Content: true})
		content = resp.GetContent()
		return err
	}))
	return string(content)
}

// setAgain sets what is the content already: that is no new version.
func (s *tlsSite) setAgain(t *testing.T, node string) {
	t.Helper()
	must(t, s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.TokenSet(ctx, &hadv1.TokenSetRequest{Name: "tickets", By: "the test", Content: []byte(s.logged(t, node))})
		if err == nil && !resp.GetUnchanged() {
			err = fmt.Errorf("it became version %d", resp.GetVersion())
		}
		return err
	}))
}

// everywhere waits until all hosts that run have the newest content in place.
func (s *tlsSite) everywhere(t *testing.T, node string) {
	t.Helper()
	for _, h := range s.Servers() {
		if h.Running() {
			eventually(t, h.Name+" has the newest token in place", func() error {
				if s.content(t, h.Name, "") != s.logged(t, node) {
					return errors.New("it has another")
				}
				return nil
			})
		}
	}
}

// distributeKey makes a key on the first server, and copies it to the others, who
// must not own before.
func (s *tlsSite) distributeKey(t *testing.T) {
	t.Helper()
	first := s.Servers()[0]
	eventually(t, "a node without a key says what to do", func() error {
		n, err := s.nodeStatus(t, first.Name, first.Name)
		if err == nil && !strings.Contains(strings.Join(n.GetReasons(), " "), "hactl token key") {
			err = fmt.Errorf("%v", n.GetReasons())
		}
		return err
	})
	must(t, s.ask(t, first.Name, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.TokenKey(ctx, &hadv1.TokenKeyRequest{})
		if err == nil && (!resp.GetMade() || resp.GetPath() != first.TokenKey()) {
			err = fmt.Errorf("made %v", resp)
		}
		return err
	}))
	s.holds(t, first.Name, s.vips...)
	key, err := os.ReadFile(first.TokenKey())
	must(t, err)
	for _, h := range s.Servers()[1:] {
		must(t, os.WriteFile(h.TokenKey(), key, 0o600))
	}
}

func TestTLSSessionsResume(t *testing.T) {
	t.Parallel()
	s := newTLSSite(t)
	s.apply(t, s.Servers()[0].Name, s.tokenPolicy())
	s.distributeKey(t)
	owner := s.settled(t)
	browsers := []*browser{s.browser(tls.VersionTLS13), s.browser(tls.VersionTLS12)}
	control := []*browser{s.browser(tls.VersionTLS13), s.browser(tls.VersionTLS12)}
	for _, b := range browsers {
		if _, resumed, err := b.visit(t, tokenPort); err != nil || resumed {
			t.Fatalf("%s: first visit resumed %t, %v", b.name, resumed, err)
		}
		b.returns(t, owner)
	}
	for _, b := range control {
		_, first, err := b.visit(t, drawnPort)
		_, second, err2 := b.visit(t, drawnPort)
		if err := errors.Join(err, err2); err != nil || first || !second {
			t.Fatalf("%s without the token: resumed %t, then %t, %v", b.name, first, second, err)
		}
	}

	// Without the token, no session is resumed after a failover; with it, every
	// one is, at the first try, although the token is another one each time.
	for i := range *tokenMoves {
		if v := s.rotate(t, s.Servers()[i%3].Name); v != uint64(i)+2 { // the first was drawn
			t.Errorf("the version after %d is %d", i+1, v)
		}
		if i%3 == 0 {
			s.everywhere(t, owner)
			for _, b := range browsers {
				b.returns(t, owner) // its nginx knows both, whether it has read the new one or not
			}
		}
		next := s.others(owner)[i%2]
		s.moveTo(t, owner, next)
		if now := s.holder(t, owner); now != next {
			t.Fatalf("moved to %s, and %s owns", next, now)
		}
		for _, b := range browsers {
			b.returns(t, next)
		}
		if i == 0 {
			for _, b := range control {
				if host, resumed, err := b.visit(t, drawnPort); err != nil || resumed || host != next {
					t.Errorf("%s without the token: resumed %t by %q, %v", b.name, resumed, host, err)
				}
			}
		}
		owner = next
	}
	owner = s.settled(t)

	// A node that was away gets what it missed before it may own.
	away := s.others(owner)[0]
	s.kill(t, away)
	for range 2 {
		s.rotate(t, owner)
		for _, b := range browsers {
			eventually(t, b.name+" has a ticket of the new key", func() error {
				b.returns(t, owner) // by whichever worker of its nginx
				if want := s.logged(t, owner); b.keyName() != want[:keyName] {
					return errors.New("nginx has not read it yet")
				}
				return nil
			})
		}
	}
	must(t, s.Host(away).StartDaemon())
	s.moveTo(t, owner, away)
	s.holder(t, owner)
	for _, b := range browsers {
		b.returns(t, away)
	}
	owner = s.settled(t)

	// What the owner's service changes by itself reaches the others.
	_, err := s.Host(owner).Exec(t.Context(), "sh", "-c", "head -c 80 /dev/urandom >"+s.dir+"/new && mv "+s.dir+"/new "+s.location())
	must(t, err)
	changed := s.content(t, owner, "")
	eventually(t, "the log has what the service wrote", func() error {
		if s.logged(t, owner) != changed {
			return errors.New("not yet")
		}
		return nil
	})
	s.everywhere(t, owner)
	s.setAgain(t, s.others(owner)[0])
	s.checkSecrecy(t, owner)
	if *tokenMoves <= 20 { // of more, the history keeps only the end
		s.checkTokenHistory(t, owner)
		s.judge(t, time.Time{})
	}
}

// checkTokenHistory finds every version in the history once and in order, on
// every node.
func (s *tlsSite) checkTokenHistory(t *testing.T, owner string) {
	t.Helper()
	var want []string
	for _, h := range s.Servers() {
		events, err := s.history(t, h.Name)
		must(t, err)
		var lines []string
		for _, e := range events {
			if c := e.GetTokenChanged(); c != nil {
				if lines = append(lines, c.String()); c.GetVersion() != uint64(len(lines)) {
					t.Errorf("%s: version %d comes as number %d", h.Name, c.GetVersion(), len(lines))
				}
			}
		}
		if want == nil {
			want = lines
		}
		if !slices.Equal(lines, want) {
			t.Errorf("%s has another history of tokens than %s", h.Name, s.Servers()[0].Name)
		}
	}
	if n := *tokenMoves + 4; len(want) != n { // drawn, rotated before each move, twice while one was away, by the service
		t.Errorf("%d versions are in the history, want %d", len(want), n)
	}
	eventually(t, "status says that all have the newest version in place", func() error {
		st, err := s.status(t, owner)
		for _, n := range st.GetNodes() {
			for _, p := range n.GetTokens().GetPlaces() {
				if p.GetVersion() != uint64(len(want)) {
					err = errors.Join(err, fmt.Errorf("%s has version %d", n.GetName(), p.GetVersion()))
				}
			}
		}
		return err
	})
}

// checkSecrecy looks for contents where none may be: in the logs of the daemons
// and in everything that they keep.
func (s *tlsSite) checkSecrecy(t *testing.T, owner string) {
	t.Helper()
	secrets := []string{s.content(t, owner, ""), s.content(t, owner, ".1")}
	for _, h := range s.Servers() {
		must(t, filepath.WalkDir(h.Dir(), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the log moves on
			}
			for _, secret := range secrets {
				if len(secret) != 80 || bytes.Contains(text, []byte(secret[16:32])) {
					t.Errorf("%s holds bytes of a token (of %d)", path, len(secret))
				}
			}
			return err
		}))
	}
	err := s.ask(t, owner, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.TokenShow(ctx, &hadv1.TokenShowRequest{})
		if len(resp.GetContent()) > 0 {
			err = errors.New("it shows a content that nobody asked for")
		}
		return err
	})
	must(t, err)
}
