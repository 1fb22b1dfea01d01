package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/clock"
	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// nodes is a raft group in memory, for a synctest bubble: time is virtual, so
// a sleep costs nothing and waits for nobody's processor.
type nodes struct {
	t      *testing.T
	birth  *hadv1.Birth
	detect time.Duration
	hosts  map[string]*host

	mu  sync.Mutex
	up  map[string]*Node   // those whose process runs
	cut map[[2]string]bool // ordered pairs that can't reach each other
	got map[string]int     // messages of leaders that reached a node

	levels map[string]uint32 // that nodes say they know; not in it: level.Known
}

// host is what a node has and keeps over a restart.
type host struct {
	storage   *Storage
	transport *wire
	runs      int
	id        string                       // of its data folder, if it isn't the usual one
	roster    atomic.Pointer[hadv1.Roster] // as it was kept last

	*Node // nil while it is down
	stop  context.CancelFunc
	done  chan error
}

// startNodes starts every member of birth; they are stopped at the test's end.
func startNodes(t *testing.T, birth *hadv1.Birth, detect time.Duration) *nodes {
	t.Helper()
	c := &nodes{t: t, birth: birth, detect: detect, hosts: map[string]*host{}, up: map[string]*Node{}, cut: map[[2]string]bool{}, got: map[string]int{}, levels: map[string]uint32{}}
	for _, m := range birth.GetMembers() {
		c.make(m.GetName())
	}
	for name := range c.hosts {
		c.start(name)
	}
	t.Cleanup(func() {
		for name, h := range c.hosts {
			if h.Node != nil {
				if err := c.crash(name); err != nil {
					t.Errorf("stop %s: %v", name, err)
				}
			}
		}
	})
	return c
}

// make gives a node an empty disk.
func (c *nodes) make(name string) {
	mem := raft.NewInmemStore()
	c.hosts[name] = &host{storage: &Storage{Log: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore()}}
}

// idle waits for a moment at which no barrier of the idle leader is on its way.
// One that has reached a single follower lets nobody else be elected, be it the
// last in rank or a witness.
func (c *nodes) idle(leader string) {
	c.t.Helper()
	before := c.hosts[leader].Confirmed()
	c.eventually("commit a barrier", 2*stuckAfter, func() bool { return c.hosts[leader].Confirmed() != before })
	time.Sleep(c.detect)
}

// bubbleClock is the clock of every host of a bubble.
func bubbleClock() clock.Source {
	start := time.Now()
	return func() clock.Instant { return clock.Instant(time.Hour + time.Since(start)) }
}

func (c *nodes) start(name string) *host {
	c.t.Helper()
	h := c.hosts[name]
	h.runs++
	_, mem := raft.NewInmemTransportWithTimeout(raft.ServerAddress(name), c.detect)
	h.transport = &wire{InmemTransport: mem, nodes: c, self: name, ended: make(chan string, 16)}
	in := instance(name, h.runs)
	if h.id != "" {
		in.NodeId = h.id
	}
	n, err := Open(Config{
		Birth: c.birth, Roster: h.roster.Load(), KeepRoster: func(r *hadv1.Roster) error { h.roster.Store(r); return nil }, Instance: in, Timing: TimingFor(c.detect),
		Storage: h.storage, Transport: h.transport, Peers: h.transport, Clock: bubbleClock(), Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	h.Node, h.stop, h.done = n, stop, make(chan error, 1)
	go func() { h.done <- n.Run(ctx) }()
	c.mu.Lock()
	c.up[name] = n
	c.mu.Unlock()
	c.heal(name)
	return h
}

// kill ends a node's process. Its host answers for it: connections end, new
// ones are refused.
func (c *nodes) kill(name string) error {
	h := c.hosts[name]
	h.stop()
	err := <-h.done
	h.Node = nil
	c.mu.Lock()
	delete(c.up, name)
	c.mu.Unlock()
	h.transport.DisconnectAll()
	for other, o := range c.hosts {
		if o.transport == nil || other == name {
			continue
		}
		o.transport.Disconnect(raft.ServerAddress(name))
		if c.linked(name, other) {
			o.transport.lose(name)
		}
	}
	return err
}

// crash ends a node as a power failure does: nobody is told.
func (c *nodes) crash(name string) error {
	c.isolate(name)
	return c.kill(name)
}

// isolate cuts a node off from all others, both ways.
func (c *nodes) isolate(name string) {
	for other := range c.hosts {
		if other != name {
			c.sever(name, other)
		}
	}
}

// sever cuts the link between two nodes.
func (c *nodes) sever(a, b string) {
	c.mu.Lock()
	c.cut[pair(a, b)] = true
	c.mu.Unlock()
	for _, link := range [][2]string{{a, b}, {b, a}} {
		if h := c.hosts[link[0]]; h.transport != nil {
			h.transport.Disconnect(raft.ServerAddress(link[1]))
		}
	}
}

// heal connects a node with all others.
func (c *nodes) heal(name string) {
	h := c.hosts[name]
	for other, o := range c.hosts {
		if other == name {
			continue
		}
		c.mu.Lock()
		delete(c.cut, pair(name, other))
		c.mu.Unlock()
		if o.Node != nil && h.Node != nil {
			h.transport.Connect(raft.ServerAddress(other), o.transport.InmemTransport)
			o.transport.Connect(raft.ServerAddress(name), h.transport.InmemTransport)
		}
	}
}

// healOneWay connects a severed node with another, which can't send it anything yet.
func (c *nodes) healOneWay(from, to string) {
	c.mu.Lock()
	delete(c.cut, pair(from, to))
	c.mu.Unlock()
	c.hosts[from].transport.Connect(raft.ServerAddress(to), c.hosts[to].transport.InmemTransport)
}

// received returns how many messages of leaders have reached a node.
func (c *nodes) received(node string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[node]
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

func (c *nodes) linked(a, b string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cut[pair(a, b)]
}

// wire is what a node has of the network: a transport, what its connections
// tell, and calls to its peers.
type wire struct {
	*raft.InmemTransport
	nodes   *nodes
	self    string
	ended   chan string
	refused atomic.Pointer[string] // a node whose host is taken for one that refuses
}

// AppendEntries counts the messages that arrive.
func (w *wire) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := w.InmemTransport.AppendEntries(id, to, args, resp)
	if err == nil && args.Term != 0 {
		w.nodes.mu.Lock()
		defer w.nodes.mu.Unlock()
		w.nodes.got[string(to)]++
	}
	return err
}

func (w *wire) Ended() <-chan string { return w.ended }

// lose ends the connection from a node.
func (w *wire) lose(node string) {
	select {
	case w.ended <- node:
	default:
	}
}

func (w *wire) Probe(ctx context.Context, node string) error {
	if r := w.refused.Load(); r != nil && *r == node {
		return fmt.Errorf("connect to %s: %w", node, syscall.ECONNREFUSED)
	}
	_, err := w.reach(ctx, node)
	return err
}

func (w *wire) Contact(ctx context.Context, node string, req *hadv1.ContactRequest) (*hadv1.ContactResponse, error) {
	n, err := w.reach(ctx, node)
	if err != nil {
		return nil, err
	}
	return n.Contact(ctx, req), nil
}

func (w *wire) Health(ctx context.Context, node string) (*hadv1.HealthResponse, error) {
	n, err := w.reach(ctx, node)
	if err != nil {
		return nil, err
	}
	h := &hadv1.HealthResponse{Instance: n.cfg.Instance, Version: n.cfg.Version, RecordLevel: level.Known}
	w.nodes.mu.Lock()
	defer w.nodes.mu.Unlock()
	if says, ok := w.nodes.levels[node]; ok {
		h.RecordLevel = says
	}
	return h, nil
}

// reach returns a running node.
func (w *wire) reach(ctx context.Context, node string) (*Node, error) {
	const oneWay = 200 * time.Microsecond
	time.Sleep(oneWay)
	if !w.nodes.linked(w.self, node) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.nodes.mu.Lock()
	defer w.nodes.mu.Unlock()
	if n := w.nodes.up[node]; n != nil {
		return n, nil
	}
	return nil, syscall.ECONNREFUSED
}

// eventually waits in virtual time.
func (c *nodes) eventually(what string, limit time.Duration, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// leader waits for a ready leader among the given nodes (all: none given).
func (c *nodes) leader(among ...string) string {
	c.t.Helper()
	if len(among) == 0 {
		for name := range c.hosts {
			among = append(among, name)
		}
	}
	found := ""
	c.eventually("elect a leader", time.Minute, func() bool {
		for _, name := range among {
			if h := c.hosts[name]; h.Node != nil && h.Leadership().Ready {
				found = name
			}
		}
		return found != ""
	})
	return found
}

// settled waits until every running node has applied the entry.
func (c *nodes) settled(index uint64) {
	c.t.Helper()
	c.eventually("apply everywhere", time.Minute, func() bool {
		for _, h := range c.hosts {
			if h.Node == nil {
				continue
			}
			if v, _ := h.View(); v.Applied < index {
				return false
			}
		}
		return true
	})
}

func (c *nodes) propose(name string, cmd *hadv1.Command) uint64 {
	c.t.Helper()
	v, err := c.hosts[name].Propose(c.t.Context(), cmd)
	if err != nil {
		c.t.Fatalf("propose %v: %v", cmd, err)
	}
	return v.Index
}

// others returns the names of all other members.
func (c *nodes) others(name string) []string {
	var out []string
	for other := range c.hosts {
		if other != name {
			out = append(out, other)
		}
	}
	return out
}

// dataNodes is a birth of three data nodes, so that each may lead.
func dataNodes() *hadv1.Birth {
	b := testBirth()
	b.Members[2].Witness = false
	return b
}

func refusedBy(err error) string {
	if r, ok := errors.AsType[*RefusedError](err); ok {
		return r.Reason
	}
	return ""
}
