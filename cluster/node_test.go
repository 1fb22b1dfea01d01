package cluster

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

const detect = 500 * time.Millisecond

func TestNodesAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		follower := c.others(lead)[0]
		c.eventually("record the birth", time.Second, func() bool {
			v, _ := c.hosts[lead].View()
			return v.Birth != nil
		})

		before := c.hosts[lead].cfg.Clock()
		index := c.propose(lead, policyCmd(0, "one"))
		if at := c.hosts[lead].Confirmed(); at < before {
			t.Errorf("confirmed as of %v, after a commit proposed at %v", at, before)
		}
		if _, err := c.hosts[lead].Propose(t.Context(), policyCmd(0, "two")); !strings.Contains(refusedBy(err), "at version 1, not 0") {
			t.Errorf("an illegal command: %v", err)
		}
		if _, err := c.hosts[follower].Propose(t.Context(), policyCmd(1, "two")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower's proposal: %v", err)
		}
		if err := c.hosts[follower].Confirm(t.Context()); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower's confirmation: %v", err)
		}

		c.settled(index + 1)
		want := encode(t, c.hosts[lead].fsm.state)
		for name, h := range c.hosts {
			if string(encode(t, h.fsm.state)) != string(want) {
				t.Errorf("%s has another state than %s", name, lead)
			}
			if l := h.Leadership(); l.Leader != lead || l.Leading != (name == lead) || l.Ready != (name == lead) {
				t.Errorf("%s thinks %+v, the leader is %s", name, l, lead)
			}
			if events, _ := h.History(0); len(events) != 2 || events[0].GetBirth() == nil || events[1].GetNode() != lead {
				t.Errorf("%s tells the history as %v", name, events)
			}
		}
	})
}

func TestLastLeaseMovesWithLeaseEntriesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		term := c.hosts[lead].Leadership().Term
		quiet := map[string]clock.Instant{}
		for name, h := range c.hosts {
			quiet[name] = h.LastLease()
		}
		time.Sleep(10 * time.Second)
		c.settled(c.propose(lead, policyCmd(0, "one")))
		for name, h := range c.hosts {
			if h.LastLease() != quiet[name] {
				t.Errorf("%s starts its wait again for a policy", name)
			}
		}

		in := c.hosts[lead].cfg.Instance
		epoch := c.propose(lead, acquireCmd(in, term))
		for _, cmd := range []*hadv1.Command{renewCmd(in, term, epoch), renewCmd(in, term, epoch)} {
			time.Sleep(3 * time.Second)
			t0 := c.hosts[lead].cfg.Clock()
			c.settled(c.propose(lead, cmd))
			for name, h := range c.hosts {
				if h.LastLease() < t0 {
					t.Errorf("%s: s is %v, before the renewal's t0 %v", name, h.LastLease(), t0)
				}
			}
		}
	})
}

// Schedule 5 of docs/protocol.md: a node that was cut off gets the lease by
// snapshot, so that it never appends the entry.
func TestSchedule5SnapshotRestartsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		late := c.others(lead)[0]
		term := c.hosts[lead].Leadership().Term
		c.settled(c.propose(lead, policyCmd(0, "one")))
		c.isolate(late)

		in := c.hosts[lead].cfg.Instance
		epoch := c.propose(lead, acquireCmd(in, term))
		time.Sleep(10 * time.Minute)
		for _, name := range c.others(late) {
			rc := c.hosts[name].raft.ReloadableConfig()
			rc.TrailingLogs = 0
			if err := c.hosts[name].raft.ReloadConfig(rc); err != nil {
				t.Fatal(err)
			}
		}
		t0 := c.hosts[lead].cfg.Clock()
		index := c.propose(lead, renewCmd(in, term, epoch))
		for _, name := range c.others(late) {
			if err := c.hosts[name].raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
		if s := c.hosts[late].LastLease(); s >= t0 {
			t.Fatalf("s of the node that was cut off is %v already", s)
		}
		c.heal(late)
		c.settled(index)
		if s := c.hosts[late].LastLease(); s < t0 {
			t.Errorf("caught up by snapshot with an s of %v; the lease in it was proposed at %v", s, t0)
		}
		if c.hosts[late].raft.Stats()["last_snapshot_index"] == "0" {
			t.Error("it caught up without a snapshot: this test proves nothing")
		}
	})
}

func TestACutOffLeaderDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		old := c.leader()
		c.isolate(old)
		start := time.Now()
		_, err := c.hosts[old].Propose(t.Context(), policyCmd(0, "lost"))
		if !errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrNotLeader) {
			t.Errorf("a proposal without a quorum: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %v to say so", took)
		}
		next := c.leader(c.others(old)...)
		if _, err := c.hosts[old].Propose(t.Context(), policyCmd(0, "lost")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("after it stepped down: %v", err)
		}
		index := c.propose(next, policyCmd(0, "kept"))
		c.heal(old)
		c.settled(index)
		if v, _ := c.hosts[old].View(); v.Policy.GetText() != "kept" {
			t.Errorf("the healed node has policy %q", v.Policy.GetText())
		}
	})
}

func TestProposeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		c.isolate(lead)
		cause := errors.New("the caller left")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, cause)
		defer cancel()
		if _, err := c.hosts[lead].Propose(ctx, policyCmd(0, "x")); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, cause) {
			t.Errorf("a proposal whose caller left: %v", err)
		}
	})
}

// stuckLog is a disk that stops answering.
type stuckLog struct {
	raft.LogStore
	stuck atomic.Bool
	free  chan struct{} // closed when it answers again
}

func (s *stuckLog) StoreLogs(logs []*raft.Log) error {
	if s.stuck.Load() {
		<-s.free
	}
	return s.LogStore.StoreLogs(logs)
}

func (s *stuckLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// A leader with a stuck disk goes on sending heartbeats, and its followers
// stay content (raft#503). It ends by itself, even if nobody wants anything
// of it.
func TestALeaderThatCannotCommitEnds(t *testing.T) {
	for _, busy := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			disk := &stuckLog{LogStore: raft.NewInmemStore(), free: make(chan struct{})}
			n, done, stop := startAlone(t, disk)
			defer stop()
			waitFor(t, func() bool { return n.Leadership().Ready })
			disk.stuck.Store(true)
			stuckAt := time.Now()
			if busy {
				go func() {
					for time.Since(stuckAt) < 20*time.Second {
						_, _ = n.Propose(t.Context(), policyCmd(0, "x"))
						time.Sleep(n.cfg.Timing.Renew)
					}
				}()
			}
			err := <-done
			if err == nil || !strings.Contains(err.Error(), "is its disk stuck?") {
				t.Errorf("busy %v: the node ended with %v", busy, err)
			}
			// Up to 5 s until something is proposed, 5 s until it fails, 10 s of
			// failures, 5 s until the next, 5 s for raft to stop.
			if took := time.Since(stuckAt); took < stuckAfter || took > 35*time.Second {
				t.Errorf("busy %v: it took %v", busy, took)
			}
			close(disk.free)
			time.Sleep(time.Minute) // what waited for the disk ends
		})
	}
}

func TestAnIdleLeaderStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, done, stop := startAlone(t, raft.NewInmemStore())
		waitFor(t, func() bool { return n.Leadership().Ready })
		term := n.Leadership().Term
		time.Sleep(10 * time.Minute)
		if l := n.Leadership(); !l.Ready || l.Term != term {
			t.Errorf("after ten quiet minutes: %+v, it was term %d", l, term)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestADamagedEntryEndsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		h := c.hosts[lead]
		if err := h.raft.Apply([]byte("not a command"), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
		if err := <-h.done; !errors.Is(err, ErrDamagedCommand) {
			t.Errorf("the leader ended with %v", err)
		}
		if v := h.fsm.Apply(&raft.Log{Index: 99}).(Verdict); v.Refused == "" {
			t.Error("it still applies")
		}
		if _, err := h.fsm.Snapshot(); err == nil {
			t.Error("it makes a snapshot of a state that isn't the log's")
		}
		h.Node = nil
		// The others end when they learn that the entry is committed, which
		// the last of them, alone, never does.
		for _, name := range c.others(lead) {
			if err := c.crash(name); err != nil && !errors.Is(err, ErrDamagedCommand) {
				t.Errorf("%s ended with %v", name, err)
			}
		}
	})
}

func TestARestartedNodeComesBackWithItsConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alone := dataNodes()
		alone.Members = alone.Members[:1]
		c := startNodes(t, alone, detect)
		c.leader()
		c.eventually("record the birth", time.Second, func() bool { v, _ := c.hosts["alpha"].View(); return v.Birth != nil })
		c.propose("alpha", policyCmd(0, "kept"))
		for range 2 {
			if err := c.crash("alpha"); err != nil {
				t.Fatal(err)
			}
			c.start("alpha")
			c.leader()
			if v, _ := c.hosts["alpha"].View(); v.Policy.GetText() != "kept" || v.Birth == nil {
				t.Fatalf("after the restart: %+v", v)
			}
			if n := len(c.hosts["alpha"].raft.GetConfiguration().Configuration().Servers); n != 1 {
				t.Fatalf("after the restart the configuration has %d servers", n)
			}
			if err := c.hosts["alpha"].raft.Snapshot().Error(); err != nil { // the second time from a snapshot
				t.Fatal(err)
			}
		}
	})
}

func TestOpenRefusesADamagedLog(t *testing.T) {
	mem := raft.NewInmemStore()
	if err := errors.Join(mem.SetUint64([]byte("CurrentTerm"), 1), mem.StoreLogs([]*raft.Log{testEntry(1), testEntry(2)})); err != nil {
		t.Fatal(err)
	}
	_, transport := raft.NewInmemTransport("alpha")
	n, err := Open(Config{
		Birth: testBirth(), Instance: instance("alpha", 1), Timing: TimingFor(detect), Transport: transport,
		Storage: &Storage{Log: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore()},
		Clock:   clock.Now, Logger: hclog.NewNullLogger(),
	})
	if err == nil || !strings.Contains(err.Error(), "read log entry") || n != nil {
		t.Errorf("a log without checksums was opened: %v, %v", n, err)
	}
}

// startAlone starts a cluster of one node with a log store of its own.
func startAlone(t *testing.T, logs raft.LogStore) (n *Node, done chan error, stop context.CancelFunc) {
	t.Helper()
	birth := dataNodes()
	birth.Members = birth.Members[:1]
	_, mem := raft.NewInmemTransport("alpha")
	rec := &recorder{Transport: mem}
	n, err := Open(Config{
		Birth: birth, Instance: instance("alpha", 1), Timing: TimingFor(detect), Transport: rec,
		Storage: &Storage{Log: logs, Stable: raft.NewInmemStore(), Snapshots: raft.NewInmemSnapshotStore()},
		Clock:   bubbleClock(), Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	// A raft that has shut down and still answers confuses its peers.
	var first sync.Once // raft closes it again
	rec.closed = func() {
		first.Do(func() {
			if n.raft.State() == raft.Shutdown {
				t.Error("raft was shut down before its transport")
			}
		})
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done = make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return n, done, stop
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it didn't happen within a minute")
		}
	}
}
