package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
)

// network is Streams for nodes of one process, over loopback.
type network struct {
	mu    sync.Mutex
	addrs map[string]string
}

func newNetwork() *network { return &network{addrs: map[string]string{}} }

// join gives a node its listener.
func (n *network) join(t *testing.T, node string) Streams {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs[node] = l.Addr().String()
	return &streams{network: n, listener: l}
}

type streams struct {
	network  *network
	listener net.Listener
}

func (s *streams) RaftListener() net.Listener { return s.listener }

func (s *streams) DialRaft(ctx context.Context, node string) (net.Conn, error) {
	s.network.mu.Lock()
	addr := s.network.addrs[node]
	s.network.mu.Unlock()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", node, err)
	}
	return conn, nil
}

func TestTransportNamesNodesAndPipelinesNothing(t *testing.T) {
	n := newNetwork()
	timing := TimingFor(time.Second)
	a := NewTransport("alpha", n.join(t, "alpha"), timing, hclog.NewNullLogger())
	defer a.Close()
	b := NewTransport("beta", n.join(t, "beta"), timing, hclog.NewNullLogger())
	defer b.Close()

	if got := a.LocalAddr(); got != "alpha" {
		t.Errorf("raft knows this node as %q, want its name", got)
	}
	// A pipeline can acknowledge what was never sent (raft#612).
	if _, err := a.AppendEntriesPipeline("id-beta", "beta"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("a pipeline was opened (%v)", err)
	}

	go func() {
		rpc := <-b.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: rpc.Command.(*raft.RequestVoteRequest).Term, Granted: true}, nil)
	}()
	var resp raft.RequestVoteResponse
	if err := a.RequestVote("id-beta", "beta", &raft.RequestVoteRequest{Term: 7}, &resp); err != nil || resp.Term != 7 || !resp.Granted {
		t.Errorf("a vote came back as %+v (%v)", resp, err)
	}
	if err := a.RequestVote("id-gamma", "gamma", &raft.RequestVoteRequest{Term: 7}, &resp); err == nil {
		t.Error("a vote came from a node that isn't there")
	}
}

func TestTransportTellsWhenAProcessIsGone(t *testing.T) {
	n := newNetwork()
	a := n.join(t, "alpha")
	b := NewTransport("beta", n.join(t, "beta"), TimingFor(time.Second), hclog.NewNullLogger())
	defer b.Close()

	conn, err := a.DialRaft(t.Context(), "beta")
	if err != nil {
		t.Fatal(err)
	}
	from := conn.LocalAddr().String() // here nobody tells names
	if err := b.Probe(t.Context(), "alpha"); err != nil {
		t.Errorf("somebody listens, and yet: %v", err)
	}
	select {
	case node := <-b.Ended():
		t.Errorf("the connection from %s has ended, and nobody closed it", node)
	default:
	}

	if err := errors.Join(conn.Close(), a.RaftListener().Close()); err != nil {
		t.Fatal(err)
	}
	if node := <-b.Ended(); node != from {
		t.Errorf("the connection from %s has ended, want %s", node, from)
	}
	if err := b.Probe(t.Context(), "alpha"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens, and yet: %v", err)
	}
}

// TestAVoteOfARestartedNodeIsNotLost asks a node for its vote over connections
// that its earlier run has left.
func TestAVoteOfARestartedNodeIsNotLost(t *testing.T) {
	n := newNetwork()
	timing := TimingFor(time.Second)
	a := NewTransport("alpha", n.join(t, "alpha"), timing, hclog.NewNullLogger())
	defer a.Close()
	careful := &carefulTransport{Transport: a, mayStand: func() bool { return true }, pace: newPace(timing.Detect), replicated: newReplicated()}
	ask := func(calls int) error {
		var asking errgroup.Group
		for range calls {
			asking.Go(func() error {
				return careful.RequestVote("id-beta", "beta", &raft.RequestVoteRequest{Term: 7}, new(raft.RequestVoteResponse))
			})
		}
		return asking.Wait()
	}
	run := func(calls int) (end func()) {
		b := NewTransport("beta", n.join(t, "beta"), timing, hclog.NewNullLogger())
		done := make(chan struct{})
		go func() {
			defer close(done)
			var waiting []raft.RPC // all at once, so that each has a connection
			for len(waiting) < calls {
				waiting = append(waiting, <-b.Consumer())
			}
			for _, rpc := range waiting {
				rpc.Respond(&raft.RequestVoteResponse{Term: 7, Granted: true}, nil)
			}
		}()
		return func() {
			<-done
			b.Close()
		}
	}
	end := run(maxPool)
	if err := ask(maxPool); err != nil {
		t.Fatal(err)
	}
	end()
	end = run(1)
	if err := ask(1); err != nil {
		t.Errorf("the vote of a node that was restarted was lost: %v", err)
	} else {
		end()
	}
}

// recorder is a transport that tells what reaches it.
type recorder struct {
	raft.Transport
	heartbeats, preVotes int
	closed               func()
}

func (r *recorder) SetHeartbeatHandler(func(raft.RPC)) { r.heartbeats++ }

func (r *recorder) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	r.preVotes++
	return nil
}

func (r *recorder) Close() error {
	if r.closed != nil {
		r.closed()
	}
	return nil
}

func TestCarefulTransport(t *testing.T) {
	_, mem := raft.NewInmemTransport("gamma")
	rec := &recorder{Transport: mem}
	may := false
	starting := 0
	c := &carefulTransport{Transport: rec, mayStand: func() bool { return may }, starting: func() { starting++ }}

	// raft's fast path can set the term back (raft#695).
	c.SetHeartbeatHandler(func(raft.RPC) {})
	if rec.heartbeats != 0 || starting != 1 {
		t.Errorf("the heartbeat handler was registered %d times, raft's start told %d times; want 0 and 1", rec.heartbeats, starting)
	}
	if err := c.RequestPreVote("", "", nil, nil); !errors.Is(err, errWitnessWaits) || rec.preVotes != 0 {
		t.Errorf("%d pre-votes of a waiting witness left (%v)", rec.preVotes, err)
	}
	may = true
	if err := c.RequestPreVote("", "", nil, nil); err != nil || rec.preVotes != 1 {
		t.Errorf("%d pre-votes left, want 1 (%v)", rec.preVotes, err)
	}

	plain := &carefulTransport{Transport: plainTransport{mem}, mayStand: func() bool { return true }}
	if err := plain.RequestPreVote("", "", nil, nil); err == nil {
		t.Error("a transport without pre-votes carried one")
	}
	if err := plain.Close(); err != nil {
		t.Error(err)
	}
}

// plainTransport has only what raft.Transport asks for.
type plainTransport struct{ raft.Transport }

func TestRaftConfigIsValidAndCareful(t *testing.T) {
	for _, detect := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second} {
		rc := raftConfig(Config{Instance: instance("alpha", 1), Timing: TimingFor(detect), Logger: hclog.NewNullLogger()})
		if err := raft.ValidateConfig(rc); err != nil {
			t.Errorf("detect %v: %v", detect, err)
		}
		if rc.RestoreCommittedLogs { // a one-node cluster came back without its configuration
			t.Error("RestoreCommittedLogs is set")
		}
		if rc.PreVoteDisabled || rc.NotifyCh != nil || rc.LocalID != "id-alpha" || rc.LogOutput != io.Discard {
			t.Errorf("detect %v: %+v", detect, rc)
		}
	}
}
