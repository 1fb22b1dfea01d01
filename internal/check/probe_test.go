package check

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/policy"
)

// saw looks once, and returns the line for people, with a ! before a failure.
func saw(t *testing.T, c policy.Check, timeout time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	detail, err := Host(func(iface string) (bool, error) {
		if iface == "gone" {
			return false, errors.New("there is no interface gone")
		}
		return iface == "up", nil
	}, func(_ context.Context, v policy.Volume) error {
		if v.Name == "broken" {
			return errors.New("volume broken: input/output error")
		}
		return nil
	})(ctx, c)
	if err != nil {
		return "! " + err.Error()
	}
	return detail
}

func TestVolume(t *testing.T) {
	for name, want := range map[string]string{"fine": "takes writes", "broken": "! volume broken: input/output error"} {
		if got := saw(t, policy.Check{Kind: policy.CheckVolume, Volume: &policy.Volume{Name: name}}, time.Second); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		w.Header().Set("Location", "/slow")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	for code, want := range map[int]string{200: "HTTP 200", 302: "HTTP 302", 404: "! HTTP 404", 503: "! HTTP 503"} {
		status = code
		if got := saw(t, policy.Check{Kind: policy.CheckHTTP, URL: srv.URL}, time.Minute); got != want {
			t.Errorf("answered with %d: %q", code, got)
		}
	}
	if got := saw(t, policy.Check{Kind: policy.CheckHTTP, URL: srv.URL + "/slow"}, 50*time.Millisecond); !strings.HasPrefix(got, "! ") {
		t.Errorf("not answered: %q", got)
	}
	srv.Close()
	if got := saw(t, policy.Check{Kind: policy.CheckHTTP, URL: srv.URL}, time.Minute); !strings.Contains(got, "connection refused") || strings.Contains(got, "Get ") {
		t.Errorf("nobody listens: %q", got)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := policy.Check{Kind: policy.CheckTCP, Address: l.Addr().String()}
	if got := saw(t, c, time.Minute); got != "accepted" {
		t.Errorf("somebody listens: %q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := saw(t, c, time.Minute); !strings.Contains(got, "connection refused") {
		t.Errorf("nobody listens: %q", got)
	}
}

func TestLink(t *testing.T) {
	for iface, want := range map[string]string{"up": "link up", "down": "! interface down has no link", "gone": "! there is no interface gone"} {
		if got := saw(t, policy.Check{Kind: policy.CheckLink, Interface: iface}, time.Minute); got != want {
			t.Errorf("%s: %q", iface, got)
		}
	}
}

func TestExec(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this needs root: had runs only what root alone can change")
	}
	dir := t.TempDir()
	script := func(name, text string, mode os.FileMode) []string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return []string{path}
	}
	for _, c := range []struct{ name, text, want string }{
		{"good", "echo all is well; echo more", "exit status 0: all is well"},
		{"bad", "echo the replica is 40 s behind >&2; exit 3", "! exit code 3: the replica is 40 s behind"},
		{"killed", "kill -9 $$", "! signal: killed"},
		{"loud", "yes | head -c 10000000; exit 1", "! exit code 1: y"},
		{"binary", `printf 'a\001\377b\n'; exit 1`, "! exit code 1: a ?b"},
	} {
		if got := saw(t, policy.Check{Kind: policy.CheckExec, Command: script(c.name, c.text, 0o755)}, time.Minute); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := saw(t, policy.Check{Kind: policy.CheckExec, Command: script("open", "true", 0o777)}, time.Minute); !strings.HasPrefix(got, "! ") {
		t.Errorf("a script that everybody can change ran: %q", got)
	}
	if got := saw(t, policy.Check{Kind: policy.CheckExec, Command: []string{filepath.Join(dir, "missing")}}, time.Minute); !strings.HasPrefix(got, "! ") {
		t.Errorf("a script that isn't there: %q", got)
	}
}

// A command that hangs is ended with all that it started.
func TestExecIsKilledWithItsChildren(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this needs root: had runs only what root alone can change")
	}
	dir := t.TempDir()
	path, mark := filepath.Join(dir, "hang"), filepath.Join(dir, "mark")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntrap '' TERM\n(sleep 1; echo late >"+mark+") &\nwait\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if got := saw(t, policy.Check{Kind: policy.CheckExec, Command: []string{path}}, 100*time.Millisecond); !strings.HasPrefix(got, "! ") {
		t.Errorf("it hung: %q", got)
	}
	if took := time.Since(begun); took > 900*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	time.Sleep(max(0, 1300*time.Millisecond-time.Since(begun)))
	if _, err := os.Stat(mark); err == nil {
		t.Error("what it started ran on")
	}
}
