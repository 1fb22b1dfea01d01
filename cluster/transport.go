package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/logs"
)

// Streams are authenticated connections between nodes. raft addresses are
// node names.
type Streams interface {
	RaftListener() net.Listener
	DialRaft(ctx context.Context, node string) (net.Conn, error)
}

// Transport is raft's transport over Streams. It implements Lines.
type Transport struct {
	*raft.NetworkTransport
	streams *streamLayer
}

// NewTransport returns raft's transport over streams for the node self. The
// remote address of an accepted connection must be the peer's name.
func NewTransport(self string, streams Streams, t Timing, logger hclog.Logger) *Transport {
	s := &streamLayer{Listener: streams.RaftListener(), self: self, dial: streams.DialRaft, ended: make(chan string, 16)}
	return &Transport{streams: s, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:          s,
		MaxPool:         maxPool,
		MaxRPCsInFlight: 1, // no pipelining: raft#612
		Timeout:         t.Heartbeat,
		Logger:          logs.Quiet(logger.Named("transport"), unreachable()...),
	})}
}

// maxPool is how many idle connections to a node are kept.
const maxPool = 3

// Ended implements Lines.
func (t *Transport) Ended() <-chan string { return t.streams.ended }

// Probe implements Lines.
func (t *Transport) Probe(ctx context.Context, node string) error {
	c, err := t.streams.dial(ctx, node)
	if err != nil {
		return err
	}
	return c.Close()
}

// streamLayer adapts Streams to raft.StreamLayer.
type streamLayer struct {
	net.Listener
	self  string
	dial  func(ctx context.Context, node string) (net.Conn, error)
	ended chan string
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &inbound{Conn: c, ended: s.ended}, nil
}

// inbound is an accepted connection that tells when the other side ends it.
// raft waits for a request on it nearly all the time, so that is at once.
type inbound struct {
	net.Conn
	ended chan<- string
}

// Read implements io.Reader.
func (c *inbound) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		select {
		case c.ended <- c.RemoteAddr().String():
		default: // Lines may leave some out
		}
	}
	return n, err
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(node raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.dial(ctx, string(node))
}

// Addr implements net.Listener: raft takes its text as this node's address.
func (s *streamLayer) Addr() net.Addr { return nodeAddr(s.self) }

type nodeAddr string

func (nodeAddr) Network() string  { return "had" }
func (a nodeAddr) String() string { return string(a) }

// carefulTransport changes six things of raft's transport. The fast path for
// heartbeats can set the term back (raft#695), so raft never gets to register
// it. A witness doesn't stand for election while a data node might: its
// pre-votes fail until it has been without a leader for a while. A node
// that comes back is brought up to date at once (see AppendEntries). Heartbeats
// that would tell nothing are held back (see pace). A node that was restarted is
// dialled anew at once. And what arrives is noted on its way to raft.
type carefulTransport struct {
	raft.Transport
	hearing  *hearing
	mayStand func() bool
	inOffice func(term uint64) bool // this node leads
	stuck    func() bool            // this node's disk doesn't answer
	pace     *pace
	starting func()          // raft is about to start its goroutines
	again    time.Duration   // pause between tries
	closed   <-chan struct{} // the node is stopping

	replicated *replicated
}

// Consumer implements raft.Transport.
func (t *carefulTransport) Consumer() <-chan raft.RPC { return t.hearing.toRaft }

// AppendEntries implements raft.Transport. raft doubles the pause after each
// failure, up to 10 s, and doesn't cut it short when the node is back: until
// then its acknowledgements are missing from the quorum, and an operator who
// restarts the next node costs the owner its lease. So entries for a node that
// can't be reached are tried again here, as if the network were slow, for as
// long as this node leads in the term they are of. Heartbeats have a short
// pause of their own.
//
// While this node's disk is stuck nothing is sent: a leader that can't write
// can't renew a lease either, but its messages would keep the followers
// content (raft#503).
func (t *carefulTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) && !t.pace.hold(id, args.Term, t.inOffice, t.closed) {
		return nil // raft is about to end these heartbeats
	}
	for {
		err := errDiskStuck
		if !t.stuck() {
			err = t.send(id, to, args, resp)
		}
		if err == nil || isHeartbeat(args) || !t.inOffice(args.Term) {
			return err
		}
		pause := time.NewTimer(t.again)
		select {
		case <-pause.C:
		case <-t.closed:
			pause.Stop()
			return err
		}
	}
}

// send sends a message and notes what became of it.
func (t *carefulTransport) send(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := time.Now()
	err := redialled(func() error { return t.Transport.AppendEntries(id, to, args, resp) })
	switch {
	case err != nil:
		t.pace.failed(id)
	case resp.Term == args.Term:
		t.pace.answered(id, args.Term, sent)
		if resp.Success && !isHeartbeat(args) {
			t.replicated.acknowledged(id, args)
		}
	}
	return err
}

// TimeoutNow implements raft.Transport.
func (t *carefulTransport) TimeoutNow(id raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return redialled(func() error { return t.Transport.TimeoutNow(id, to, args, resp) })
}

// AppendEntriesPipeline implements raft.Transport: all goes by AppendEntries
// (see also raft#612).
func (t *carefulTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// isHeartbeat tells raft's heartbeats from empty messages that carry the
// commit index.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
}

// RequestVote implements raft.Transport.
func (t *carefulTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return redialled(func() error { return t.Transport.RequestVote(id, to, args, resp) })
}

// redialled calls a node that may have been restarted since it was last called:
// the connections that were kept then end at a process that is gone. raft asks
// for a vote once, and without it the next election is a timeout away. Each
// failure takes one such connection out of the pool, and after the last of them
// a new one is dialled. What has reached a process after all is no harm: raft
// takes the same message twice.
func redialled(call func() error) error {
	err := call()
	for tries := 0; tries < maxPool && ended(err); tries++ {
		err = call()
	}
	return err
}

// ended reports whether an error says that the other side has ended a
// connection.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

var errDiskStuck = errors.New("this node's disk takes too long to write the log: the others shall find another leader")

var errWitnessWaits = errors.New("a witness lets the data nodes stand for election first")

// SetHeartbeatHandler implements raft.Transport and registers nothing. It is
// NewRaft's last call before it starts goroutines.
func (t *carefulTransport) SetHeartbeatHandler(func(raft.RPC)) { t.starting() }

// RequestPreVote implements raft.WithPreVote.
func (t *carefulTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !t.mayStand() {
		return errWitnessWaits
	}
	pre, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return errors.New("the transport knows no pre-vote")
	}
	return redialled(func() error { return pre.RequestPreVote(id, to, args, resp) })
}

// Close implements raft.WithClose.
func (t *carefulTransport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

// unreachable are the beginnings of what raft calls an error whenever a node is
// down, many times a second.
func unreachable() []string {
	return []string{
		"failed to heartbeat", "failed to appendEntries", "failed to make requestVote", "failed to start pipeline",
		"failed to pipeline", "failed to decode incoming command", "failed to flush response",
	}
}
