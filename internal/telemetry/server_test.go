package telemetry

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	hadv1 "had/proto/had/v1"
)

// serving returns a server that runs on a free port until the test ends.
func serving(t *testing.T, change func(*Server)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	s := New(Config{
		Listen: addr, Cluster: "office", Node: "alpha", Version: &hadv1.VersionResponse{}, Logger: hclog.NewNullLogger(),
		NotYet: func() string { return "beta doesn't answer" },
	})
	if change != nil {
		change(s)
	}
	run(t, s)
	return s
}

func run(t *testing.T, s *Server) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// ask asks once the server listens.
func ask(t *testing.T, s *Server, method, path string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for deadline := time.Now().Add(5 * time.Second); ; {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.cfg.Listen+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(body)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

func TestServer(t *testing.T) {
	s := serving(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/healthz", 200, "had runs"},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/readyz", 503, "alpha takes no part: beta doesn't answer"},
		{"GET", "/metrics", 200, "had_ready{cluster=\"office\",node=\"alpha\"} 0\n"},
		{"GET", "/", 200, "/metrics"},
		{"POST", "/metrics", 405, ""},
		{"GET", "/etc/passwd", 404, ""},
	} {
		if status, body := ask(t, s, c.method, c.path); status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %.40s: %d %s", c.method, c.path, status, body)
		}
	}
	s.Attach(Source{
		Facts: func() Facts { return everything(true) }, Ready: func() Facts { return everything(true) }, AtStart: 12,
		History: func(after uint64) (out []*hadv1.Event, _ uint64) {
			for _, e := range events() {
				if e.GetIndex() > after {
					out = append(out, e)
				}
			}
			return out, 0
		},
	})
	if status, body := ask(t, s, "GET", "/readyz"); status != 200 || !strings.Contains(body, "alpha takes part in office: it leads") {
		t.Error(status, body)
	}
	// What was in the log when the node started isn't counted.
	_, body := ask(t, s, "GET", "/metrics")
	if strings.Contains(body, `reason="first"`) || !strings.Contains(body, `member="beta",transition="acquired",reason="check"} 1`) {
		t.Error(body)
	}
}

// Who connects and says nothing is cut off, and those who ask are served.
func TestSlowAskers(t *testing.T) {
	s := serving(t, func(s *Server) { s.patience = 200 * time.Millisecond })
	ask(t, s, "GET", "/healthz")
	var idle []net.Conn
	for range 3 * maxAskers {
		c, err := net.Dial("tcp", s.cfg.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	if status, _ := ask(t, s, "GET", "/healthz"); status != 200 {
		t.Error(status)
	}
	if err := idle[0].SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(idle[0]); err != nil {
		t.Errorf("a connection that says nothing stays open: %v", err)
	}
}

// A reader of the state that hangs holds up neither health nor readiness.
func TestStuckFacts(t *testing.T) {
	let := make(chan struct{})
	s := serving(t, nil)
	defer close(let)
	s.Attach(Source{
		Facts: func() Facts { <-let; return Facts{} }, Ready: func() Facts { return everything(true) },
		History: func(uint64) ([]*hadv1.Event, uint64) { return nil, 0 },
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.cfg.Listen+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, s, "GET", "/healthz")
	go func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, body := ask(t, s, "GET", path); status != 200 {
			t.Error(status, body)
		}
	}
}

// A taken port is a problem to show; once it is free it is served.
func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := New(Config{Listen: l.Addr().String(), Logger: hclog.NewNullLogger()})
	run(t, s)
	for deadline := time.Now().Add(5 * time.Second); s.Problem() == ""; {
		if time.Now().After(deadline) {
			t.Fatal("a taken port is no problem")
		}
	}
	if !strings.Contains(s.Problem(), "another program listens on "+s.cfg.Listen) {
		t.Error(s.Problem())
	}
}
