package simtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// network carries messages between hosts, or loses them. Each message has its
// own delay, so they overtake each other, and one that arrives after its
// sender has given up is delivered all the same.
type network struct {
	w *world

	mu        sync.Mutex
	random    *rand.Rand
	cut       map[link]bool
	loss      float64       // of each message
	delay     time.Duration // up to this, on top of minDelay
	stray     float64       // how many of them are late by up to strayDelay
	snapshots int           // InstallSnapshot requests that arrived
}

// link is one direction between two hosts.
type link struct{ from, to string }

const (
	minDelay   = 100 * time.Microsecond
	strayDelay = 2 * time.Second
	// connectionLimit is when the kernel gives up a connection whose peer is
	// silent (TCP_USER_TIMEOUT).
	connectionLimit = 4 * time.Second
)

var (
	errLost    = errors.New("simulation: no answer came in time")
	errRefused = fmt.Errorf("simulation: no daemon here: %w", syscall.ECONNREFUSED)
)

func newNetwork(w *world, random *rand.Rand) *network {
	n := &network{w: w, random: random}
	n.heal()
	return n
}

// heal removes every cut and makes the network fast and sure.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut, n.loss, n.delay, n.stray = map[link]bool{}, 0, time.Millisecond, 0
}

// degrade makes the network lossy and slow.
func (n *network) degrade(loss float64, delay time.Duration, stray float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss, n.delay, n.stray = loss, delay, stray
}

// sever cuts one direction, or joins it again.
func (n *network) sever(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[link{from, to}] = cut
}

// split leaves only the links within each side.
func (n *network) split(inA func(name string) bool) {
	for _, a := range n.w.hosts {
		for _, b := range n.w.hosts {
			n.sever(a.name, b.name, inA(a.name) != inA(b.name))
		}
	}
}

// isolate cuts a host off from all others.
func (n *network) isolate(name string) { n.split(func(s string) bool { return s == name }) }

// carry decides on a message: how long it takes, and whether it arrives.
func (n *network) carry(from, to string) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := minDelay
	if n.delay > 0 {
		d += time.Duration(n.random.Int64N(int64(n.delay)))
	}
	if n.stray > 0 && n.random.Float64() < n.stray {
		d += time.Duration(n.random.Int64N(int64(strayDelay)))
	}
	lost := n.cut[link{from, to}] || n.loss > 0 && n.random.Float64() < n.loss
	n.w.diary.traced("message from %s to %s takes %v, lost %t", from, to, d, lost)
	return d, !lost
}

// call asks a host and waits for the answer until ctx ends. serve runs on the
// process found there when the request arrives.
func call[T any](ctx context.Context, p *life, to string, serve func(q *process) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if err := p.pass(); err != nil {
		return none, err
	}
	n := p.h.w.network
	answered := make(chan answer, 1)
	p.h.w.tasks.Go(func() {
		d, arrives := n.carry(p.h.name, to)
		if !arrives || wait(context.Background(), d, n.w.ended) != nil {
			return
		}
		var a answer
		q := n.w.host(to).process()
		if q == nil {
			a.err = errRefused
		} else {
			if q.pass() != nil { // bytes wait for a stopped process, and die with it
				return
			}
			a.value, a.err = serve(q)
			if q.pass() != nil {
				return
			}
		}
		d, arrives = n.carry(to, p.h.name)
		if !arrives || wait(context.Background(), d, n.w.ended) != nil {
			return
		}
		answered <- a
	})
	select {
	case a := <-answered:
		if err := p.pass(); err != nil {
			return none, err
		}
		return a.value, a.err
	case <-ctx.Done():
		_ = p.pass() // a stopped process doesn't notice its timeouts either
		return none, fmt.Errorf("%w: %w", errLost, context.Cause(ctx))
	case <-p.dead:
		return none, errDead
	}
}

func (w *world) host(name string) *host {
	for _, h := range w.hosts {
		if h.name == name {
			return h
		}
	}
	panic("simulation: no host " + name)
}

// transport is raft's, over the network.
type transport struct {
	p        *process
	consumer chan raft.RPC
	ended    chan string
	closed   chan struct{}
	once     sync.Once
}

func newTransport(p *process) *transport {
	return &transport{p: p, consumer: make(chan raft.RPC), ended: make(chan string, 16), closed: make(chan struct{})}
}

// Ended implements cluster.Lines.
func (t *transport) Ended() <-chan string { return t.ended }

// Probe implements cluster.Lines.
func (t *transport) Probe(ctx context.Context, node string) error {
	_, err := call(ctx, t.p.life, node, func(*process) (struct{}, error) { return struct{}{}, nil })
	return err
}

// hangUp tells every other daemon that the connections from a host's daemon
// have ended, as its kernel does for a dead one.
func (n *network) hangUp(from string) {
	for _, h := range n.w.hosts {
		q := h.process()
		if q == nil || h.name == from {
			continue
		}
		if d, arrives := n.carry(from, h.name); arrives {
			n.w.after(d, func() {
				select {
				case q.transport.ended <- from:
				default:
				}
			})
		}
	}
}

func (t *transport) Consumer() <-chan raft.RPC          { return t.consumer }
func (t *transport) LocalAddr() raft.ServerAddress      { return raft.ServerAddress(t.p.h.name) }
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline does what NewNetworkTransport does with
// MaxRPCsInFlight 1.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (t *transport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (t *transport) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (t *transport) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

func (t *transport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	request := *args
	return roundTrip(t, to, t.p.h.timing.Heartbeat, &request, resp, nil)
}

func (t *transport) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	request := *args
	return roundTrip(t, to, t.p.h.timing.Heartbeat, &request, resp, nil)
}

func (t *transport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	request := *args
	return roundTrip(t, to, t.p.h.timing.Heartbeat, &request, resp, nil)
}

func (t *transport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	request := *args
	return roundTrip(t, to, t.p.h.timing.Heartbeat, &request, resp, nil)
}

func (t *transport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	request := *args
	n := t.p.h.w.network
	err := roundTrip(t, to, 10*t.p.h.timing.Heartbeat, &request, resp, data)
	if err == nil && resp.Success {
		n.mu.Lock()
		n.snapshots++
		n.mu.Unlock()
	}
	return err
}

func roundTrip[A, R any](t *transport, to raft.ServerAddress, limit time.Duration, args *A, resp *R, data io.Reader) error {
	ctx, cancel := context.WithTimeout(t.p.hard, limit)
	defer cancel()
	r, err := call(ctx, t.p.life, string(to), func(q *process) (*R, error) { return deliver[R](q, args, data) })
	if err != nil {
		return err
	}
	*resp = *r
	return nil
}

// deliver hands a request to the raft of a process and waits for the answer.
func deliver[R any](q *process, args any, data io.Reader) (*R, error) {
	answered := make(chan raft.RPCResponse, 1)
	select {
	case q.transport.consumer <- raft.RPC{Command: args, Reader: data, RespChan: answered}:
	case <-q.transport.closed:
		return nil, errRefused
	case <-q.dead:
		return nil, errDead
	}
	select {
	case r := <-answered:
		if r.Error != nil {
			return nil, r.Error
		}
		resp, ok := r.Response.(*R)
		if !ok {
			return nil, fmt.Errorf("simulation: raft answered with %T", r.Response)
		}
		return resp, nil
	case <-q.transport.closed:
		return nil, errRefused
	case <-q.dead:
		return nil, errDead
	}
}

// peers are the other daemons, asked over the network as package api does.
type peers struct{ p *process }

func ask[T any](ctx context.Context, s *peers, to string, serve func(ctx context.Context, q *process) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, connectionLimit)
	defer cancel()
	return call(ctx, s.p.life, to, func(q *process) (T, error) {
		if controller, _ := q.ready(); controller == nil {
			var none T
			return none, errRefused
		}
		handling, cancel := context.WithTimeout(q.hard, connectionLimit)
		defer cancel()
		return serve(handling, q)
	})
}

func (s *peers) Health(ctx context.Context, to string) (*hadv1.HealthResponse, error) {
	return ask(ctx, s, to, func(_ context.Context, q *process) (*hadv1.HealthResponse, error) {
		return q.controller.Health(), nil
	})
}

func (s *peers) Contact(ctx context.Context, to string, req *hadv1.ContactRequest) (*hadv1.ContactResponse, error) {
	req = proto.CloneOf(req)
	return ask(ctx, s, to, func(ctx context.Context, q *process) (*hadv1.ContactResponse, error) {
		return q.node.Contact(ctx, req), nil
	})
}

func (s *peers) Prepare(ctx context.Context, to string, req *hadv1.PrepareRequest) (*hadv1.PrepareResponse, error) {
	return ask(ctx, s, to, func(ctx context.Context, q *process) (*hadv1.PrepareResponse, error) {
		return q.controller.Prepare(ctx, proto.CloneOf(req)), nil
	})
}

func (s *peers) HandOver(ctx context.Context, to string, req *hadv1.HandOverRequest) (*hadv1.HandOverResponse, error) {
	return ask(ctx, s, to, func(ctx context.Context, q *process) (*hadv1.HandOverResponse, error) {
		return q.controller.HandOver(ctx, proto.CloneOf(req)), nil
	})
}

func (s *peers) Propose(ctx context.Context, to string, cmd *hadv1.Command) (*hadv1.ProposeResponse, error) {
	cmd = proto.CloneOf(cmd)
	return ask(ctx, s, to, func(ctx context.Context, q *process) (*hadv1.ProposeResponse, error) {
		v, err := q.node.Propose(ctx, cmd)
		q.h.w.checker.proposed(q, cmd, v, err)
		if refused, ok := errors.AsType[*cluster.RefusedError](err); ok {
			return &hadv1.ProposeResponse{Index: refused.Index, Refused: refused.Reason}, nil
		}
		if err != nil {
			return nil, err
		}
		return &hadv1.ProposeResponse{Index: v.Index}, nil
	})
}
