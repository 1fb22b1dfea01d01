package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something that must happen.
const patience = 10 * time.Second

// office is a cluster of real ports on loopback addresses of its own.
type office struct {
	t       *testing.T
	members []Member
	dirs    map[string]string
	tls     map[string]*TLSFiles // by node; nil: plain
}

// newOffice draws addresses in 127.0.0.0/8, so that no two tests, and nothing
// else on this machine, meet on a port.
func newOffice(t *testing.T, names ...string) *office {
	t.Helper()
	o := &office{t: t, dirs: make(map[string]string)}
	a, b := 16+rand.IntN(200), 1+rand.IntN(250)
	for i, n := range names {
		o.members = append(o.members, Member{Name: n, Address: fmt.Sprintf("127.%d.%d.%d:7400", a, b, i+1), Witness: i > 1})
		o.dirs[n] = filepath.Join(t.TempDir(), "data")
	}
	return o
}

// host is one running node.
type host struct {
	*Port
	t    *testing.T
	id   *Identity
	log  *lines
	stop func()
}

// with are a host's deviations from its office.
type with struct {
	cluster string
	members []Member
	write   func(path string, data []byte) error
	timeout time.Duration
}

func (o *office) start(name string, w with) *host {
	o.t.Helper()
	if w.cluster == "" {
		w.cluster = "office"
	}
	if w.members == nil {
		w.members = o.members
	}
	id, err := OpenIdentity(o.dirs[name], w.cluster, name, w.members)
	if err != nil {
		o.t.Fatal(err)
	}
	if w.write != nil {
		id.write = w.write
	}
	m, _ := id.member(name)
	log := &lines{}
	p, err := Listen(PortConfig{Identity: id, Listen: m.Address, TLS: o.tls[name], Logger: log, Version: "test"})
	if err != nil {
		o.t.Fatal(err)
	}
	if w.timeout > 0 {
		p.timeout = w.timeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	h := &host{Port: p, t: o.t, id: id, log: log}
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			o.t.Errorf("%s: Run: %v", name, err)
		}
	})
	o.t.Cleanup(h.stop)
	return h
}

// meeting is a call of Meet under way.
type meeting struct {
	birth Birth
	err   error
	done  chan struct{}
}

func (h *host) meet() *meeting {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m := &meeting{done: make(chan struct{})}
	go func() {
		defer close(m.done)
		defer cancel()
		m.birth, m.err = h.Meet(ctx)
	}()
	h.t.Cleanup(func() {
		cancel()
		<-m.done
	})
	return m
}

func (m *meeting) wait() (Birth, error) {
	<-m.done
	return m.birth, m.err
}

// bornTogether starts the whole office and waits for its birth.
func (o *office) bornTogether() map[string]*host {
	o.t.Helper()
	hosts := make(map[string]*host)
	meetings := make(map[string]*meeting)
	for _, m := range o.members {
		hosts[m.Name] = o.start(m.Name, with{})
		meetings[m.Name] = hosts[m.Name].meet()
	}
	o.agreed(meetings)
	return hosts
}

// agreed waits for all meetings and returns the birth they share.
func (o *office) agreed(meetings map[string]*meeting) Birth {
	o.t.Helper()
	var first Birth
	for name, m := range meetings {
		b, err := m.wait()
		if err != nil {
			o.t.Fatalf("%s: Meet: %v", name, err)
		}
		if first.ID == "" {
			first = b
		}
		if b.ID != first.ID || len(b.Members) != len(o.members) {
			o.t.Fatalf("%s was born as %+v, another node as %+v", name, b, first)
		}
	}
	return first
}

func (o *office) empty(name string) {
	o.t.Helper()
	if err := os.RemoveAll(o.dirs[name]); err != nil {
		o.t.Fatal(err)
	}
}

// eventually waits until one of the sentences contains all of want.
func eventually(t *testing.T, sentences func() []string, want ...string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		now := sentences()
		for _, s := range now {
			if containsAll(s, want) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("nothing says %q; there is:\n%s", want, strings.Join(now, "\n"))
		}
	}
}

func containsAll(s string, want []string) bool {
	for _, w := range want {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// lines is a Logger that keeps what it was told.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) add(level, msg string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, level+" "+msg+" "+fmt.Sprint(args...))
}

func (l *lines) Info(msg string, args ...any) { l.add("info", msg, args) }
func (l *lines) Warn(msg string, args ...any) { l.add("warn", msg, args) }

func (l *lines) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

// talk sends a line over c and checks that it arrives at what ln accepts.
func talk(t *testing.T, c net.Conn, ln net.Listener, from, to string) {
	t.Helper()
	defer c.Close()
	there, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if n, ok := PeerName(there); n != from || !ok {
		t.Errorf("%s sees a connection from %q", to, n)
	}
	if n, ok := PeerName(c); n != to || !ok || c.RemoteAddr().String() != to {
		t.Errorf("%s sees a connection to %q, %s", from, n, c.RemoteAddr())
	}
	for _, end := range []net.Conn{c, there} {
		diesSoon(t, end)
	}
	for _, way := range [][2]net.Conn{{c, there}, {there, c}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(way[1], got); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
	}
}

// diesSoon checks that the kernel gives the connection up within seconds when
// the other host vanishes, idle or not.
func diesSoon(t *testing.T, c net.Conn) {
	t.Helper()
	if p, ok := c.(peerConn); ok {
		c = p.Conn
	}
	if s, ok := c.(*tls.Conn); ok {
		c = s.NetConn()
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	err = raw.Control(func(fd uintptr) {
		for name, opt := range map[string]int{"user timeout": unix.TCP_USER_TIMEOUT, "idle": unix.TCP_KEEPIDLE, "interval": unix.TCP_KEEPINTVL} {
			if got[name], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, opt); err != nil {
				t.Errorf("read %s: %v", name, err)
			}
		}
	})
	if err != nil || got["user timeout"] != 4000 || got["idle"] != 1 || got["interval"] != 1 {
		t.Errorf("a vanished peer is noticed by %v, %v; want 4000 ms, 1 s, 1 s", got, err)
	}
}
