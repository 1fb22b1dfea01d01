package nettest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	hadv1 "had/proto/had/v1"
)

// TestTLSSessionsResumeByTheExample runs the example of a reconnect token with two
// clients, one of each version of TLS, who come back after each trouble.
func TestTLSSessionsResumeByTheExample(t *testing.T) {
	t.Parallel()
	needs(t, "nginx")
	began := time.Now()
	e := newExampleSite(t, "reconnect-token")
	s := &tlsSite{site: e.site, port: "443", roots: x509.NewCertPool()}
	cert, key := s.certificate(t)
	for _, node := range e.owners() {
		e.run(t, node, "mkdir -p /var/log/nginx /etc/nginx/tls && rm -rf /etc/nginx/conf.d/* /etc/nginx/sites-enabled/*")
		own := filepath.Join(e.Host(node).Dir(), "own")
		must(t, os.WriteFile(filepath.Join(own, "etc/nginx/tls/cert.pem"), cert, 0o644))
		must(t, os.WriteFile(filepath.Join(own, "etc/nginx/tls/key.pem"), key, 0o600))
		e.run(t, node, "mkdir -p /var/www/html && rm -f /var/www/html/* && echo -n "+node+" >/var/www/html/index.html")
		e.does(t, node, "install -m 0644 tls.conf /etc/nginx/conf.d/")
	}
	e.install(t)
	// Made on alpha, and copied.
	first := e.owners()[0]
	must(t, s.ask(t, first, func(ctx context.Context, ha hadv1.HAClient) error {
		_, err := ha.TokenKey(ctx, &hadv1.TokenKeyRequest{})
		return err
	}))
	secret, err := os.ReadFile(e.Host(first).TokenKey())
	must(t, err)
	must(t, os.WriteFile(e.Host(e.other(first)).TokenKey(), secret, 0o600))
	e.enact(t)

	stranger := s.browser(tls.VersionTLS13)
	e.served = func(t *testing.T, host string) error {
		by, _, err := stranger.visit(t, s.port)
		if err == nil && by != host {
			err = fmt.Errorf("%q answers", by)
		}
		return err
	}
	browsers := []*browser{s.browser(tls.VersionTLS13), s.browser(tls.VersionTLS12)}
	resumes := func(t *testing.T, host string) {
		t.Helper()
		for _, b := range browsers {
			b.returns(t, host)
		}
	}
	owner := e.ready(t)
	for _, b := range browsers {
		if _, resumed, err := b.visit(t, s.port); err != nil || resumed {
			t.Fatalf("%s: first visit resumed %t, %v", b.name, resumed, err)
		}
	}
	resumes(t, owner)
	for _, tr := range troubles()[:2] {
		t.Run(tr.name, func(t *testing.T) {
			e.mendAll(t)
			owner := e.ready(t)
			s.rotate(t, owner)
			resumes(t, e.suffer(t, tr, owner))
		})
	}
	if !t.Failed() {
		e.judgeExample(t, began)
	}
}
