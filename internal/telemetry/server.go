package telemetry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/net/netutil"

	hadv1 "had/proto/had/v1"
)

// Config is what a Server needs.
type Config struct {
	Listen        string      // IP:port
	TLS           *tls.Config // nil: plain HTTP
	Cluster, Node string
	Version       *hadv1.VersionResponse
	NotYet        func() string // why the node takes no part, until there is a Source
	Logger        hclog.Logger
}

// Source is a node that takes part.
type Source struct {
	Facts func() Facts // as they are; it may take as long as a disk does
	// Ready is Facts for /readyz: without what takes a disk or the kernel.
	Ready   func() Facts
	AtStart uint64 // log index: what came before is not counted
	History func(after uint64) ([]*hadv1.Event, uint64)
}

// Bounds of what askers can take from had: they are to be refused, or to wait,
// rather than to cost it anything.
const (
	maxAskers  = 16
	maxHeader  = 8 << 10
	askWithin  = 5 * time.Second // for a request, and until the next one
	sendWithin = 10 * time.Second
	// countEvery is well before the history forgets an event.
	countEvery  = 10 * time.Second
	listenAgain = 5 * time.Second
)

// Server answers. A port that is taken is a problem to show and never a reason for
// had not to run.
type Server struct {
	cfg      Config
	started  time.Time
	patience time.Duration // askWithin
	problem  atomic.Pointer[string]
	source   atomic.Pointer[Source]
	counting chan *counts // capacity 1: whoever took them reads or shows them
}

// New returns a server; nothing happens before Run.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, started: time.Now(), patience: askWithin, counting: make(chan *counts, 1)}
	s.counting <- newCounts()
	return s
}

// Attach gives the server what it tells from now on.
func (s *Server) Attach(src Source) { s.source.Store(&src) }

// Problem says why nobody can ask at present, a sentence; empty: one can.
func (s *Server) Problem() string {
	if why := s.problem.Load(); why != nil {
		return *why
	}
	return ""
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		s.count(ctx)
	}()
	defer func() { <-counted }()
	for ctx.Err() == nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
		if err == nil {
			if s.problem.Swap(nil) != nil {
				s.cfg.Logger.Info("telemetry can be asked for now", "address", s.cfg.Listen)
			}
			err = s.serve(ctx, l)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
	return nil
}

func (s *Server) failed(err error) {
	why := fmt.Sprintf("nobody can ask for its telemetry on %s: %v", s.cfg.Listen, err)
	if errors.Is(err, syscall.EADDRINUSE) {
		why = fmt.Sprintf("nobody can ask for its telemetry: another program listens on %s; clusters of one host need a port each in telemetry { listen = … }", s.cfg.Listen)
	}
	if s.Problem() != why {
		s.cfg.Logger.Warn("telemetry is not served; trying again", "error", err)
	}
	s.problem.Store(&why)
}

// serve answers on a listener until ctx ends or it breaks, and closes it.
func (s *Server) serve(ctx context.Context, l net.Listener) error {
	l = netutil.LimitListener(l, maxAskers)
	if s.cfg.TLS != nil {
		l = tls.NewListener(l, s.cfg.TLS)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	h := &http.Server{
		Handler: s.handler(), Protocols: &protocols, MaxHeaderBytes: maxHeader,
		ReadTimeout: s.patience, ReadHeaderTimeout: s.patience, IdleTimeout: s.patience, WriteTimeout: sendWithin,
		ErrorLog: s.cfg.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	return h.Serve(l)
}

// count keeps up with the history while nobody asks.
func (s *Server) count(ctx context.Context) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case <-ctx.Done():
			return
		case c := <-s.counting:
			if src := s.source.Load(); src != nil {
				c.read(*src)
			}
			s.counting <- c
		}
	}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "had runs") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		say(w, http.StatusOK, "/metrics, /healthz, /readyz")
	})
	return mux
}

// say answers with a line. That the asker has gone is nobody's business.
func say(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n")
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	f := s.notYet()
	if src := s.source.Load(); src != nil {
		f = src.Ready()
	}
	if why := f.unready(); why != "" {
		say(w, http.StatusServiceUnavailable, s.cfg.Node+" takes no part: "+why)
		return
	}
	leads := f.Leadership.Leader + " leads"
	if f.Leadership.Leading {
		leads = "it leads"
	}
	say(w, http.StatusOK, fmt.Sprintf("%s takes part in %s: %s", s.cfg.Node, s.cfg.Cluster, leads))
}

// metrics has one asker at a time read the state. The others wait, for as long as
// the answer may take.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	var c *counts
	select {
	case c = <-s.counting:
	case <-r.Context().Done():
		return
	case <-time.After(sendWithin / 2):
		say(w, http.StatusServiceUnavailable, "another request for metrics has not been answered yet: is the disk of this node stuck?")
		return
	}
	defer func() { s.counting <- c }()
	text, err := s.page(c)
	if err != nil {
		say(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text)
}

func (s *Server) page(c *counts) ([]byte, error) {
	p := newPage(s.cfg.Cluster, s.cfg.Node)
	v := s.cfg.Version
	p.set("had_build_info", 1, v.GetVersion(), v.GetCommit(), v.GetGo())
	p.unix("had_start_time_seconds", s.started)
	src := s.source.Load()
	if src == nil {
		s.notYet().fill(p, time.Now())
		return p.text()
	}
	src.Facts().fill(p, time.Now())
	c.read(*src)
	c.into(p)
	return p.text()
}

func (s *Server) notYet() Facts { return Facts{NotYet: s.cfg.NotYet()} }
