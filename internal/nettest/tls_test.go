package nettest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
)

// keyring makes certificates with hactl, on a machine that is no node.
type keyring struct {
	t   *testing.T
	dir string
}

func (k keyring) tls(args ...string) {
	k.t.Helper()
	out, err := exec.CommandContext(k.t.Context(), hactlBinary, append([]string{"tls"}, append(args, "--dir", k.dir)...)...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("hactl tls %v: %v\n%s", args, err, out)
	}
}

func (k keyring) client(name, role string) string {
	k.t.Helper()
	k.tls("issue", "--client", name, "--role", role)
	return filepath.Join(k.dir, "clients", name)
}

// remote runs hactl on the client's host against a node's cluster port.
func (s *site) remote(t *testing.T, node, files string, args ...string) (out string, code int) {
	t.Helper()
	out, err := s.Client.Exec(within(t), append([]string{
		hactlBinary, "--address", s.Host(node).ClusterPort(), "--tls-ca", filepath.Join(files, "ca.pem"),
		"--tls-cert", filepath.Join(files, "client.pem"), "--tls-key", filepath.Join(files, "client-key.pem"),
	}, args...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out + err.Error(), exit.ExitCode()
	}
	must(t, err)
	return out, 0
}

// asked expects an exit code and words of a remote hactl.
func (s *site) asked(t *testing.T, node, files string, args []string, code int, words ...string) {
	t.Helper()
	out, got := s.remote(t, node, files, args...)
	if got != code {
		t.Errorf("hactl %v at %s ended with %d, want %d:\n%s", args, node, got, code, out)
	}
	for _, w := range words {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), w) {
			t.Errorf("hactl %v at %s doesn't say %q:\n%s", args, node, w, out)
		}
	}
}

// shown is the certificate that a node's port shows, as DER.
func (s *site) shown(t *testing.T, node string) []byte {
	t.Helper()
	raw, err := s.Client.DialContext(within(t), "tcp", s.Host(node).ClusterPort())
	must(t, err)
	defer raw.Close()
	must(t, raw.SetDeadline(time.Now().Add(patience)))
	c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // a look from outside
	must(t, c.HandshakeContext(within(t)))
	return c.ConnectionState().PeerCertificates[0].Raw
}

// TestCertificates runs a cluster on certificates of hactl's making, asks it
// from elsewhere in every role, and renews every certificate while it runs.
func TestCertificates(t *testing.T) {
	t.Parallel()
	k := keyring{t, filepath.Join(t.TempDir(), "ca")}
	k.tls("init", "--cluster", "lab")
	s := newSilentSite(t, lab.Config{Detect: steady, TLS: true})
	for _, h := range s.Servers() {
		k.tls("issue", h.Name, "--out", h.TLSDir())
	}
	viewer, operator, admin := k.client("victor", "viewer"), k.client("olga", "operator"), k.client("ada", "admin")
	s.startAll(t)
	began := time.Now()

	// Everybody by their role, at any node; the policy comes from elsewhere, too.
	file := filepath.Join(t.TempDir(), "policy.hcl")
	must(t, os.WriteFile(file, []byte(s.policy(s.vips...)), 0o600))
	names := s.others()
	s.asked(t, names[0], viewer, []string{"status"}, 0, "lab")
	s.asked(t, names[0], operator, []string{"policy", "apply", file, "--yes"}, 6, "olga has the role operator, and PolicyApply needs the role admin")
	s.asked(t, names[1], admin, []string{"policy", "apply", file, "--yes"}, 0)
	owner := s.settled(t)
	target := s.others(owner)[0]
	s.asked(t, target, viewer, []string{"move", "--to", target}, 6, "victor has the role viewer, and Move needs the role operator")
	s.asked(t, s.others(owner, target)[0], operator, []string{"move", "--to", target}, 0, "moved")
	owner = s.settled(t)
	s.asked(t, owner, viewer, []string{"history"}, 0, "olga (operator) by way of ")
	s.asked(t, owner, viewer, []string{"log", "level"}, 0, owner+" logs at level ")
	s.asked(t, owner, operator, []string{"log", "level", "debug"}, 6, "LogLevel needs the role admin")
	s.asked(t, owner, viewer, []string{"support-bundle", "-o", filepath.Join(t.TempDir(), "b.tar.gz")}, 0, "cluster/history.jsonl",
		"victor has the role viewer, and Preflight needs the role operator", "host/ what a node's host has is gathered by hactl support-bundle there")
	s.asked(t, owner, admin, []string{"token", "key"}, 6, "on a node itself, by root")

	// Whom another CA vouches for isn't let in.
	wrong := keyring{t, filepath.Join(t.TempDir(), "wrong")}
	wrong.tls("init", "--cluster", "lab")
	stranger := wrong.client("mallory", "admin")
	s.asked(t, owner, stranger, []string{"status"}, 4, "unknown authority")
	ca, err := os.ReadFile(filepath.Join(k.dir, "ca.pem"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(stranger, "ca.pem"), ca, 0o600))
	s.asked(t, owner, stranger, []string{"status"}, 6, "refuses our certificate")

	// Rotation: a certificate comes without its key, is told of, and isn't used.
	epoch := s.epoch(t)
	cert := filepath.Join(s.Host(owner).TLSDir(), "node.pem")
	before, err := os.ReadFile(cert)
	must(t, err)
	was := s.shown(t, owner)
	must(t, os.WriteFile(cert, ca, 0o600))
	s.says(t, target, []string{"status"}, 0, "the TLS files have changed and can't be used, so those from before stay in use")
	if !bytes.Equal(was, s.shown(t, owner)) {
		t.Error("a certificate without its key is in use")
	}
	must(t, os.WriteFile(cert, before, 0o600))
	s.gap(t, "new certificates on all nodes", func() {
		for _, h := range s.Servers() {
			old := s.shown(t, h.Name)
			k.tls("issue", h.Name, "--out", h.TLSDir(), "--renew", "--days", "20")
			if bytes.Equal(old, s.shown(t, h.Name)) {
				t.Errorf("%s still shows its old certificate", h.Name)
			}
		}
	})
	s.says(t, target, []string{"status"}, 0, fmt.Sprintf("in 19 days: hactl tls issue %s --renew", owner))
	log, err := os.ReadFile(s.Host(owner).Log())
	must(t, err)
	if text := string(log); !strings.Contains(text, "the TLS files have changed and are in use") || strings.Contains(text, "the guard was not told") {
		t.Errorf("had on %s, or its guard, wasn't told of the new certificate", owner)
	}
	eventually(t, "the history tells of the certificate", func() error {
		out, _ := s.remote(t, target, viewer, "history")
		if want := fmt.Sprintf("the TLS certificate of %s expires ", owner); !strings.Contains(out, want) {
			return fmt.Errorf("it lacks %q:\n%s", want, out)
		}
		return nil
	})
	// A node that comes anew finds the others by the new ones, and they it.
	third := s.others(owner)[1]
	s.kill(t, third)
	must(t, s.Host(third).StartDaemon())
	s.agrees(t, third, owner)
	s.asked(t, third, viewer, []string{"status"}, 0, owner)
	s.gap(t, "a stolen operator's certificate is taken back", func() { s.takesBack(t, k, operator, viewer) })
	if now := s.epoch(t); now != epoch {
		t.Errorf("the rotation made epoch %d out of %d", now, epoch)
	}
	s.judge(t, began)
}

// takesBack revokes olga, who watches: what she has open ends, and she isn't let in
// again until she has another certificate. Others go on watching.
func (s *site) takesBack(t *testing.T, k keyring, hers, others string) {
	t.Helper()
	node := s.Servers()[0].Name
	watch := func(files string) *lab.Process {
		p, err := s.Client.Start(filepath.Join(t.TempDir(), "watch"), hactlBinary, "--address", s.Host(node).ClusterPort(),
			"--tls-ca", filepath.Join(files, "ca.pem"), "--tls-cert", filepath.Join(files, "client.pem"), "--tls-key", filepath.Join(files, "client-key.pem"), "watch")
		must(t, err)
		return p
	}
	hersOpen, othersOpen := watch(hers), watch(others)
	k.tls("revoke", "--client", "olga")
	text, err := os.ReadFile(filepath.Join(k.dir, "revoked"))
	must(t, err)
	warns := func() bool {
		out, _ := s.remote(t, node, others, "status")
		return strings.Contains(strings.Join(strings.Fields(out), " "), "whose certificates are revoked is not the same on ")
	}
	for i, h := range s.Servers() {
		must(t, os.WriteFile(filepath.Join(h.TLSDir(), "revoked"), text, 0o600))
		if i == 0 {
			eventually(t, "a warning of copies that differ", func() error {
				if !warns() {
					return errors.New("there is none")
				}
				return nil
			})
		}
	}
	eventually(t, "no warning of copies that are the same", func() error {
		if warns() {
			return errors.New("there is one")
		}
		return nil
	})
	if err := hersOpen.Wait(within(t)); err == nil {
		t.Error("her hactl watch ends as if it had been asked to")
	}
	for _, h := range s.Servers() {
		s.asked(t, h.Name, hers, []string{"status"}, 6, "the certificate of olga is revoked")
	}
	k.tls("issue", "--client", "olga", "--renew")
	s.asked(t, node, hers, []string{"status"}, 0, "lab")
	select {
	case <-othersOpen.Done():
		t.Error("another's hactl watch has ended, too")
	default:
		must(t, othersOpen.Signal(syscall.SIGINT))
		_ = othersOpen.Wait(within(t)) // however it ends
	}
}
