package notify

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"had/internal/mailtest"
	"had/internal/policy"
)

// file writes a secret that only root can read.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// mailServer runs one, and returns a channel that reaches it.
func mailServer(t *testing.T, mode policy.TLSMode) (*mailtest.Server, email) {
	t.Helper()
	s, err := mailtest.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	server := l.Addr().String()
	if mode == policy.Implicit {
		l = tls.NewListener(l, s.TLS())
	}
	s.Start(l)
	t.Cleanup(s.Stop)
	return s, email{policy.Channel{
		Kind: policy.Email, Name: "ops", To: "ops@example.org, night@example.org", From: "had@example.org", Server: server, TLS: mode,
		Username: mailtest.User, PasswordFile: file(t, mailtest.Password+"\n"), CAFile: file(t, string(s.CA)),
	}}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestMailArrives(t *testing.T) {
	for _, mode := range []policy.TLSMode{policy.StartTLS, policy.Implicit} {
		s, e := mailServer(t, mode)
		if err := errors.Join(e.check(), e.send(soon(t), sample(2))); err != nil {
			t.Fatal(err)
		}
		all := s.Mails()
		if len(all) != 1 || all[0].ID != "<had-c1-email-ops-17@example.org>" || len(all[0].To) != 2 || all[0].Subject != "[had office] beta owns größer 1 (+1)" ||
			!strings.Contains(all[0].Body, "beta owns 192.0.2.0: alpha fell silent.\n") {
			t.Errorf("%s: %+v", mode, all)
		}
	}
}

// What goes wrong is told in words that help, and without the password, though
// the server repeats it.
func TestMailThatFails(t *testing.T) {
	cases := map[string]struct {
		breakIt func(s *mailtest.Server, e *email)
		want    string
		kind    any // of the error; nil: nothing has arrived
	}{
		"down":             {func(s *mailtest.Server, _ *email) { s.Stop() }, "connection refused", nil},
		"password":         {func(_ *mailtest.Server, e *email) { e.cfg.PasswordFile = file(t, "hunter2") }, "log in as had: SMTP error 535: bad credentials had (secret)", nil},
		"no password file": {func(_ *mailtest.Server, e *email) { e.cfg.PasswordFile = "/nowhere" }, "read the password: lstat /nowhere", nil},
		"certificate":      {func(_ *mailtest.Server, e *email) { e.cfg.CAFile = "" }, "certificate signed by unknown authority", nil},
		"unencrypted": {func(_ *mailtest.Server, e *email) {
			e.cfg.TLS, e.cfg.Username, e.cfg.PasswordFile = policy.NoTLS, "", ""
		}, "encrypt and log in first", nil},
		"recipient":         {func(s *mailtest.Server, _ *email) { s.Refuse("night@example.org") }, "sent, but send to night@example.org: SMTP error 550: no such mailbox", new(partlyError)},
		"all recipients":    {func(s *mailtest.Server, _ *email) { s.Refuse("night@example.org"); s.Refuse("ops@example.org") }, "send to ops@example.org: SMTP error 550", nil},
		"no answer at last": {func(s *mailtest.Server, _ *email) { s.Mute(true) }, "no answer", new(maybeSentError)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, e := mailServer(t, policy.StartTLS)
			c.breakIt(s, &e)
			err := e.send(soon(t), sample(1))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error is %v, want %q in it", err, c.want)
			}
			var partly *partlyError
			var maybe *maybeSentError
			switch c.kind.(type) {
			case *partlyError:
				if !errors.As(err, &partly) {
					t.Errorf("a message that was taken by some counts as failed: %v", err)
				}
			case *maybeSentError:
				if !errors.As(err, &maybe) {
					t.Errorf("it counts as certain that it has not arrived: %v", err)
				}
			default:
				if errors.As(err, &partly) || errors.As(err, &maybe) {
					t.Errorf("it may have arrived: %v", err)
				}
			}
		})
	}
}

// A server that accepts and says nothing holds nobody up.
func TestAServerThatHangsIsLeft(t *testing.T) {
	l := listen(t)
	t.Cleanup(func() { _ = l.Close() })
	for name, tr := range map[string]transport{
		"starttls": email{policy.Channel{To: "ops@example.org", From: "had@example.org", Server: l.Addr().String(), TLS: policy.StartTLS}},
		"tls":      email{policy.Channel{To: "ops@example.org", From: "had@example.org", Server: l.Addr().String(), TLS: policy.Implicit}},
		"none":     email{policy.Channel{To: "ops@example.org", From: "had@example.org", Server: l.Addr().String(), TLS: policy.NoTLS}},
		"webhook":  webhook{policy.Channel{URL: "http://" + l.Addr().String()}},
		"exec":     command{policy.Channel{Command: []string{"sleep", "60"}, Timeout: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("no success within 200ms"))
			defer cancel()
			began := time.Now()
			err := tr.send(ctx, sample(1))
			if err == nil || !strings.Contains(err.Error(), "no success within 200ms") || time.Since(began) > 5*time.Second {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	}
}

// receiver is a webhook's other end.
type receiver struct {
	mu     sync.Mutex
	status int
	header http.Header
	body   string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.header, r.body = req.Header, string(body)
	w.Header().Set("Location", "http://127.0.0.1/secret-path")
	w.Header().Set("Retry-After", "120")
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, "you posted to /secret-path")
}

func TestWebhooks(t *testing.T) {
	r := &receiver{status: http.StatusNoContent}
	server := httptest.NewServer(r)
	defer server.Close()
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of some bytes"))
	w := webhook{policy.Channel{URLFile: file(t, server.URL+"/secret-path\n"), SecretFile: file(t, key)}}
	if err := errors.Join(w.check(), w.send(soon(t), sample(1))); err != nil {
		t.Fatal(err)
	}
	signed := sign(key, "had-c1-email-ops-17", r.header.Get("Webhook-Timestamp"), []byte(r.body))
	if r.header.Get("Webhook-Id") != "had-c1-email-ops-17" || r.header.Get("Webhook-Signature") != signed || r.header.Get("Content-Type") != "application/json" ||
		!strings.Contains(r.body, `"schema_version":1`) {
		t.Errorf("%v\n%s", r.header, r.body)
	}
	for status, want := range map[int]string{
		http.StatusFound: "name the place it redirects to", http.StatusGone: "it answers 410 Gone", http.StatusServiceUnavailable: "it answers 503",
	} {
		r.status = status
		err := w.send(soon(t), sample(1))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-path") {
			t.Errorf("%d: %v", status, err)
		}
		var later *laterError
		if status >= 400 && (!errors.As(err, &later) || later.after != 2*time.Minute) {
			t.Errorf("%d: it asked for two minutes: %v", status, err)
		}
	}
	server.Close()
	err := w.send(soon(t), sample(1))
	var maybe *maybeSentError
	if err == nil || strings.Contains(err.Error(), "secret-path") || errors.As(err, &maybe) {
		t.Errorf("a receiver that is down: %v", err)
	}
	w.cfg.URLFile = file(t, "hunter2 is no URL")
	if err := w.send(soon(t), sample(1)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a URL that is none: %v", err)
	}
	if got := (webhook{policy.Channel{URL: "https://example.org/hook?key=hunter2"}}).target(); got != "https://example.org/hook" {
		t.Errorf("a URL is shown as %s", got)
	}
}

// The example of the specification: github.com/standard-webhooks/standard-webhooks.
func TestSignature(t *testing.T) {
	got := sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "tell")
	text := "#!/bin/sh\ncat >" + dir + "/input\nenv | grep ^HAD_ | sort >" + dir + "/env\necho not today >&2\nexit $(cat " + dir + "/code)\n"
	for name, content := range map[string]string{script: text, dir + "/code": "0"} {
		if err := os.WriteFile(name, []byte(content), 0o700); err != nil { //nolint:gosec // a script
			t.Fatal(err)
		}
	}
	c := command{policy.Channel{Command: []string{script, "x"}, Timeout: 10 * time.Second}}
	if err := errors.Join(c.check(), c.send(soon(t), sample(1))); err != nil {
		t.Fatal(err)
	}
	input, err := os.ReadFile(dir + "/input")
	env, err2 := os.ReadFile(dir + "/env")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(env)), "\n")
	want := []string{
		"HAD_CLUSTER=office", "HAD_EVENTS=1", "HAD_NODE=beta", "HAD_NOTIFY=email.ops", "HAD_NOTIFY_ID=had-c1-email-ops-17", "HAD_REPEAT=false",
		"HAD_SEVERITY=info", "HAD_SUBJECT=[had office] beta owns größer 0", "HAD_TEST=false", "HAD_TOPIC=owner",
	}
	if !slices.Equal(lines, want) || strings.Count(string(input), "\n") != 1 || !strings.HasPrefix(string(input), `{"schema_version":1,`) {
		t.Errorf("%q\n%s", lines, input)
	}
	if err := os.WriteFile(dir+"/code", []byte("75"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.send(soon(t), sample(1)); err == nil || !strings.Contains(err.Error(), "exit code 75: it says: not today") {
		t.Errorf("a program that fails: %v", err)
	}
	missing := command{policy.Channel{Command: []string{"no-such-program"}}}
	var maybe *maybeSentError
	if err := missing.send(soon(t), sample(1)); err == nil || errors.As(err, &maybe) || missing.check() == nil {
		t.Errorf("a program that isn't there: %v", err)
	}
}
