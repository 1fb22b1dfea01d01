package nettest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"had/internal/lab"
)

const telemetryPort = "7480"

// watcher asks a host for its telemetry from the client's, as Prometheus would.
type watcher struct {
	s     *site
	files string // folder of ca.pem, client.pem, client-key.pem
}

func (w watcher) get(t *testing.T, node, path string) (status int, body string, err error) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(w.files, "ca.pem"))
	must(t, err)
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool(), ServerName: node}
	cfg.RootCAs.AppendCertsFromPEM(ca)
	if pair, err := tls.LoadX509KeyPair(filepath.Join(w.files, "client.pem"), filepath.Join(w.files, "client-key.pem")); err == nil {
		cfg.Certificates = []tls.Certificate{pair}
	}
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig: cfg, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.s.Client.DialContext(ctx, network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "https://"+net.JoinHostPort(w.s.Host(node).V4.String(), telemetryPort)+path, nil)
	must(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(text), nil
}

// says waits until an answer has a status and words.
func (w watcher) says(t *testing.T, node, path string, status int, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s of %s says %q", path, node, words), func() error {
		got, body, err := w.get(t, node, path)
		if err != nil {
			return err
		}
		for _, word := range words {
			if got != status || !strings.Contains(body, word) {
				return fmt.Errorf("%d %s", got, body)
			}
		}
		return nil
	})
}

// TestTelemetry asks the nodes of a cluster how they are, from before its birth
// until it has lost its quorum.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	k := keyring{t, filepath.Join(t.TempDir(), "ca")}
	k.tls("init", "--cluster", "lab")
	s := newSilentSite(t, lab.Config{Detect: steady, TLS: true})
	for _, h := range s.Servers() {
		k.tls("issue", h.Name, "--out", h.TLSDir())
		f, err := os.OpenFile(h.Config(), os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("telemetry {\n  listen = \"0.0.0.0:" + telemetryPort + "\"\n  tls = true\n}\n")
		must(t, err)
		must(t, f.Close())
	}
	w := watcher{s, k.client("prometheus", "viewer")}
	first, second := s.Servers()[0], s.Servers()[1]
	must(t, first.StartDaemon())
	w.says(t, first.Name, "/readyz", 503, first.Name+" takes no part: ", second.Name)
	w.says(t, first.Name, "/healthz", 200, "had runs")
	w.says(t, first.Name, "/metrics", 200, "had_ready{cluster=\"lab\",node=\""+first.Name+"\"} 0\n")
	for _, h := range s.Servers()[1:] {
		must(t, h.StartDaemon())
	}
	s.apply(t, second.Name, s.policy(s.vips...))
	owner := s.settled(t)
	for _, h := range s.Servers() {
		serving := 0
		if h.Name == owner {
			serving = 1
		}
		who := fmt.Sprintf("{cluster=\"lab\",node=%q", h.Name)
		w.says(t, h.Name, "/readyz", 200, h.Name+" takes part in lab: ")
		w.says(t, h.Name, "/metrics", 200,
			fmt.Sprintf("had_serving%s} %d\n", who, serving), fmt.Sprintf("had_owner%s,member=%q} 1\n", who, owner),
			"had_ready"+who+"} 1\n", "had_guard_up"+who+"} 1\n", "had_policy_in_force_version"+who+"} 1\n",
			fmt.Sprintf("had_hook_runs_total%s,member=%q,stage=\"PostAcq\",outcome=\"ok\"}", who, owner),
			fmt.Sprintf("had_takeover_seconds_count%s,member=%q} 1\n", who, owner),
			"had_certificate_expiry_timestamp_seconds"+who+",certificate=\"ca\"}")
	}

	// Without a certificate of an operator nobody is told.
	for name, files := range map[string]string{"none": k.dir, "a node's": second.TLSDir()} {
		asker := watcher{s, files}
		if name != "none" {
			asker.files = t.TempDir()
			for from, to := range map[string]string{"ca.pem": "ca.pem", "node.pem": "client.pem", "node-key.pem": "client-key.pem"} {
				data, err := os.ReadFile(filepath.Join(files, from))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(asker.files, to), data, 0o600))
			}
		}
		if status, body, err := asker.get(t, owner, "/metrics"); err == nil {
			t.Errorf("with the certificate %q: %d %.80s", name, status, body)
		}
	}

	target := s.others(owner)[0]
	s.says(t, owner, []string{"move", "--to", target}, 0, "moved")
	for _, h := range s.Servers() {
		w.says(t, h.Name, "/metrics", 200, fmt.Sprintf("member=%q,transition=\"acquired\",reason=\"move\"} 1\n", target))
	}

	for _, node := range s.others(target) {
		s.kill(t, node)
	}
	w.says(t, target, "/readyz", 503, "no leader is known")
	w.says(t, target, "/metrics", 200, "had_serving{cluster=\"lab\",node=\""+target+"\"} 0\n")
	w.says(t, target, "/healthz", 200, "had runs")
}
