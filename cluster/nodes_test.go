package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// nodes is a raft group in memory, for a synctest bubble: time is virtual, so
// a sleep costs nothing and waits for nobody's processor.
type nodes struct {
	t      *testing.T
	birth  *hadv1.Birth
	detect time.Duration
	hosts  map[string]*host
}

// host is what a node has and keeps over a restart.
type host struct {
	storage   *Storage
	transport *raft.InmemTransport
	runs      int

	*Node // nil while it is down
	stop  context.CancelFunc
	done  chan error
}

// startNodes starts every member of birth; they are stopped at the test's end.
func startNodes(t *testing.T, birth *hadv1.Birth, detect time.Duration) *nodes {
	t.Helper()
	c := &nodes{t: t, birth: birth, detect: detect, hosts: map[string]*host{}}
	for _, m := range birth.GetMembers() {
		mem := raft.NewInmemStore()
		c.hosts[m.GetName()] = &host{storage: &Storage{Log: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore()}}
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

// bubbleClock is the clock of every host of a bubble.
func bubbleClock() clock.Source {
	start := time.Now()
	return func() clock.Instant { return clock.Instant(time.Hour + time.Since(start)) }
}

func (c *nodes) start(name string) *host {
	c.t.Helper()
	h := c.hosts[name]
	h.runs++
	_, h.transport = raft.NewInmemTransportWithTimeout(raft.ServerAddress(name), c.detect)
	n, err := Open(Config{
		Birth: c.birth, Instance: instance(name, h.runs), Timing: TimingFor(c.detect),
		Storage: h.storage, Transport: h.transport, Clock: bubbleClock(), Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		c.t.Fatalf("open %s: %v", name, err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(c.t.Context()))
	h.Node, h.stop, h.done = n, stop, make(chan error, 1)
	go func() { h.done <- n.Run(ctx) }()
	c.heal(name)
	return h
}

// crash ends a node; nobody is told.
func (c *nodes) crash(name string) error {
	h := c.hosts[name]
	h.stop()
	err := <-h.done
	h.Node = nil
	c.isolate(name)
	return err
}

// isolate cuts a node off from all others, both ways.
func (c *nodes) isolate(name string) {
	c.hosts[name].transport.DisconnectAll()
	for _, h := range c.hosts {
		if h.transport != nil {
			h.transport.Disconnect(raft.ServerAddress(name))
		}
	}
}

// heal connects a node with all others that are up.
func (c *nodes) heal(name string) {
	h := c.hosts[name]
	for other, o := range c.hosts {
		if o.Node != nil {
			h.transport.Connect(raft.ServerAddress(other), o.transport)
			o.transport.Connect(raft.ServerAddress(name), h.transport)
		}
	}
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
