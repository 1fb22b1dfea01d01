package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/clock"
	"had/internal/logs"
	hadv1 "had/proto/had/v1"
)

// Config is what a Node needs. When Open succeeds, Storage and Transport are
// the node's to close.
type Config struct {
	Birth *hadv1.Birth // who the members were at birth; the same on every node
	// Roster is the latest list of members that KeepRoster was given; nil: none.
	// A node that isn't in Birth begins without a log and gets it from the leader.
	Roster *hadv1.Roster
	// KeepRoster makes a later list durable: it is who a restarted node asks, before
	// it has read its log. nil: nobody does.
	KeepRoster func(*hadv1.Roster) error
	Instance   *hadv1.Instance
	Timing     Timing
	Storage    *Storage
	Transport  raft.Transport // may implement Lines
	Peers      Peers          // nil: a leader is only missed by raft's own timer, and no other node's level is known
	Clock      clock.Source
	Logger     hclog.Logger
	Version    string // of this had, for people
}

// Errors of Propose and Transfer. A refusal by Apply is a
// *RefusedError, one because of a member with an older had a *LevelError.
var (
	ErrNotLeader      = errors.New("this node is not the leader")
	ErrOutcomeUnknown = errors.New("the outcome is unknown: the command may or may not have been committed")
)

// RefusedError says that a command was committed and that Apply refused it:
// nothing changed.
type RefusedError struct {
	Reason string
	Index  uint64
}

func (e *RefusedError) Error() string { return e.Reason }

// Leadership is what this node knows of who leads. Compare terms; never count
// changes.
type Leadership struct {
	Leading  bool
	Ready    bool   // leading, and every entry of earlier terms has been applied here
	Standing bool   // a candidate in an election under way, won or lost in a moment
	Term     uint64 // this node's current term
	Leader   string // node name; empty when none is known
}

// Node is one member of the raft group.
type Node struct {
	cfg     Config
	raft    *raft.Raft
	fsm     *fsm
	logs    *checkedLog
	detect  *detector
	witness bool
	started time.Time

	transport  *carefulTransport
	replicated *replicated
	contact    atomic.Pointer[raft.Raft] // raft, for what runs before Open returns
	entrance   entrance                  // of commands into raft
	rising     sync.Mutex                // held while the members are asked for their levels
	needs      func(*hadv1.Command) (level uint32, what string)
	lastLease  atomic.Int64 // clock.Instant: `s`, see LastLease
	fatal      chan error   // capacity 1
	stopped    chan struct{}
	atStart    uint64 // the last log index then
	commits    latency

	mu        sync.Mutex
	readyTerm uint64           // the barrier of this term has passed
	changed   chan struct{}    // closed and replaced when leadership changes
	waits     map[string]Waits // what changes of members wait for, by node ID
	failing   time.Time        // when this leader's commits began to fail; zero: they don't
	confirmed clock.Instant    // when the latest command that a quorum accepted was proposed
}

// stuckAfter is how long a leader whose commands don't commit stays alive
// (raft#503): then it is better restarted.
const stuckAfter = 10 * time.Second

// Open joins the raft group with the state on disk. Run must be called.
func Open(cfg Config) (n *Node, err error) {
	n = &Node{
		cfg: cfg, needs: needs(), started: time.Now(), fatal: make(chan error, 1), stopped: make(chan struct{}), changed: make(chan struct{}),
	}
	n.cfg.Roster = laterRoster(cfg.Roster, bornRoster(cfg.Birth))
	n.touchLease()
	n.fsm = newFSM(n.touchLease, n.fail)

	n.witness = memberWith(n.cfg.Roster, cfg.Instance.GetNodeId()).GetWitness()

	h := halt{armed: new(atomic.Bool), report: n.fail, closed: n.stopped}
	n.logs = &checkedLog{LogStore: cfg.Storage.Log, leaseAppended: n.touchLease, halt: h}
	stable := &haltingStable{StableStore: cfg.Storage.Stable, halt: h}
	cached, err := raft.NewLogCache(256, n.logs)
	if err != nil {
		return nil, fmt.Errorf("make the log cache: %w", err)
	}
	heard, pace := newHearing(cfg.Transport), newPace(cfg.Timing.Detect)
	lines, _ := cfg.Transport.(Lines)
	n.detect = &detector{
		self: cfg.Instance.GetNode(), members: func() []*hadv1.Member { return n.Roster().GetMembers() }, voters: n.voters, detect: cfg.Timing.Detect, peers: cfg.Peers, lines: lines,
		hearing: heard, logger: cfg.Logger.Named("detect"), farewells: make(chan obituary, 4), pace: pace,
		greet: func(m *hadv1.Member) {
			_ = cfg.Transport.AppendEntries(raft.ServerID(m.GetNodeId()), raft.ServerAddress(m.GetName()), greeting(), &raft.AppendEntriesResponse{})
		},
	}
	n.replicated = newReplicated()
	transport := &carefulTransport{
		Transport: cfg.Transport, hearing: heard, mayStand: n.mayStand, inOffice: n.inOffice, pace: pace, replicated: n.replicated,
		stuck:    func() bool { return n.logs.stuck(cfg.Timing.Detect / 2) },
		starting: func() { h.armed.Store(true) }, again: cfg.Timing.Heartbeat / 4, closed: n.stopped,
	}

	n.transport = transport

	defer func() { // raft panics over a log it can't read at start
		if p := recover(); p != nil {
			n, err = nil, fmt.Errorf("open the raft log: %v", p)
		}
	}()
	rc := raftConfig(cfg)
	known, err := raft.HasExistingState(cached, stable, cfg.Storage.Snapshots)
	if err != nil {
		return nil, fmt.Errorf("look for raft's state: %w", err)
	}
	if born := memberWith(bornRoster(cfg.Birth), cfg.Instance.GetNodeId()); !known && born != nil {
		var servers []raft.Server
		for _, m := range cfg.Birth.GetMembers() {
			servers = append(servers, raft.Server{ID: raft.ServerID(m.GetNodeId()), Address: raft.ServerAddress(m.GetName())})
		}
		if err := raft.BootstrapCluster(rc, cached, stable, cfg.Storage.Snapshots, transport, raft.Configuration{Servers: servers}); err != nil {
			return nil, fmt.Errorf("write raft's first state: %w", err)
		}
	}
	n.raft, err = raft.NewRaft(rc, n.fsm, cached, stable, cfg.Storage.Snapshots, transport)
	if err != nil {
		select {
		case why := <-n.fatal: // raft itself only says that it has no usable snapshot
			err = why
		default:
		}
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.atStart = n.raft.LastIndex()
	n.contact.Store(n.raft)
	n.detect.raft = n.raft
	return n, nil
}

func raftConfig(cfg Config) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(cfg.Instance.GetNodeId())
	rc.HeartbeatTimeout = cfg.Timing.Heartbeat
	rc.ElectionTimeout = cfg.Timing.Election
	rc.LeaderLeaseTimeout = cfg.Timing.LeaderLease
	rc.CommitTimeout = cfg.Timing.Commit
	rc.SnapshotThreshold = 4096
	rc.TrailingLogs = 4096
	rc.Logger = logs.Quiet(cfg.Logger.Named("raft"), unreachable()...)
	rc.LogOutput = io.Discard
	rc.NoLegacyTelemetry = true
	return rc
}

// Run tracks leadership until ctx ends, then leaves the group and closes the
// storage and the transport. It returns nil, or the reason why the node must
// not go on.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.track(ctx) })
	g.Go(func() error { n.detect.hearing.passOn(ctx, n.raft); return nil })
	g.Go(func() error { n.detect.run(ctx); return nil })
	g.Go(func() error { n.detect.acquaint(ctx); return nil })
	g.Go(func() error { n.followMembers(ctx); return nil })
	g.Go(func() error { n.detect.pace.run(ctx, n.beat); return nil })
	g.Go(func() error {
		select {
		case err := <-n.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	return errors.Join(err, n.close())
}

func (n *Node) close() error {
	close(n.stopped)
	var errs []error
	// The transport first: a shut-down raft that still answers confuses its
	// peers.
	if c, ok := n.cfg.Transport.(raft.WithClose); ok {
		errs = append(errs, c.Close())
	}
	n.detect.pace.wait()
	if !waitFuture(n.raft.Shutdown(), 5*time.Second) {
		return errors.Join(append(errs, errors.New("stop raft: it didn't within 5 s"))...)
	}
	return errors.Join(append(errs, n.cfg.Storage.Close())...)
}

// waitFuture waits for a future, but not for ever (raft#498).
func waitFuture(f raft.Future, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Error() // that it ended is all that counts here
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// lookEvery bounds how long a change of leadership that raft kept to itself goes
// unnoticed, and how late a leader proves that it can commit.
const lookEvery = 2 * time.Second

// track follows leadership. raft's signals are only a reason to look: terms
// are compared, and each term that this node wins gets one barrier.
func (n *Node) track(ctx context.Context) error {
	again := time.NewTimer(lookEvery)
	defer again.Stop()
	obs := make(chan raft.Observation, 1)
	o := raft.NewObserver(obs, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(o)
	defer n.raft.DeregisterObserver(o)
	var told Leadership
	for {
		l := n.Leadership()
		switch {
		case !l.Leading:
			n.watchStuck(nil)
		case !l.Ready || n.cfg.Clock().Sub(n.Confirmed()) > stuckAfter/2:
			n.prepare(ctx, l.Term)
			l = n.Leadership()
		}
		if l != told {
			told = l
			n.signal()
		}
		if l.Leading && !l.Ready {
			again.Reset(n.cfg.Timing.Detect)
		} else {
			again.Reset(clock.UntilBeat(lookEvery))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.raft.LeaderCh():
		case <-obs:
		case <-again.C:
		}
	}
}

// prepare commits a barrier in the term this node has won, so that every
// entry of earlier terms has been applied here, and the birth record if there
// is none yet. A leader that had nothing to commit for a while does it again,
// so that one that can't commit is noticed.
func (n *Node) prepare(ctx context.Context, term uint64) {
	err := n.Confirm(ctx)
	if err != nil || n.raft.State() != raft.Leader || n.raft.CurrentTerm() != term {
		return // track looks again
	}
	n.mu.Lock()
	n.readyTerm = term
	n.mu.Unlock()
	if v, _ := n.fsm.view(); v.Birth == nil {
		_, err := n.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_Birth{Birth: n.cfg.Birth}})
		if err != nil {
			n.cfg.Logger.Warn("the birth record was not committed; the next leader tries again", "error", err)
		}
	}
}

func (n *Node) signal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Leadership returns who leads, as far as this node knows.
func (n *Node) Leadership() Leadership {
	term := n.raft.CurrentTerm()
	state := n.raft.State()
	for t := n.raft.CurrentTerm(); t != term; t = n.raft.CurrentTerm() {
		// The state may belong to either term.
		term, state = t, n.raft.State()
	}
	leading := state == raft.Leader
	leader, _ := n.raft.LeaderWithID()
	n.mu.Lock()
	defer n.mu.Unlock()
	return Leadership{Leading: leading, Ready: leading && n.readyTerm == term, Standing: state == raft.Candidate, Term: term, Leader: string(leader)}
}

// LeadershipChanged returns a channel that is closed at the next change, or
// earlier: look, don't count.
func (n *Node) LeadershipChanged() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// LeaderGone tells that the process of a node is said to have died. If that
// node leads, this node stands for election when it is its turn: at once if it
// is certain that it was the run which leads, otherwise when that node's host
// and a majority confirm it.
func (n *Node) LeaderGone(node string, certain bool) { n.detect.tellGone(obituary{node, certain}) }

// Contact answers another node that misses the leader. It takes no longer than
// a quarter of detect.
func (n *Node) Contact(ctx context.Context, req *hadv1.ContactRequest) *hadv1.ContactResponse {
	return n.detect.answer(ctx, req)
}

// View returns the replicated state as applied here, and a channel that is
// closed when it changes.
func (n *Node) View() (View, <-chan struct{}) {
	v, changed := n.fsm.view()
	v.Roster = laterRoster(v.Roster, n.cfg.Roster)
	return v, changed
}

// History returns the kept events after a log index, and how many older ones
// are gone.
func (n *Node) History(after uint64) ([]*hadv1.Event, uint64) { return n.fsm.history(after) }

// LastLease returns `s`: the latest of this node's start, its last append of
// a lease entry and its last snapshot restore, by its own clock. Any lease
// that this node knows of was proposed no later than that. Read it after
// View: an entry applied in between then makes a wait longer, never shorter.
func (n *Node) LastLease() clock.Instant { return clock.Instant(n.lastLease.Load()) }

// touchLease moves LastLease to now. raft's goroutines may call it at once,
// and the later of two readings stays.
func (n *Node) touchLease() {
	now := int64(n.cfg.Clock())
	for {
		last := n.lastLease.Load()
		if last >= now || n.lastLease.CompareAndSwap(last, now) {
			return
		}
	}
}

// Problem says, in a sentence for people, what keeps this node from doing its
// part in the log; empty: nothing.
func (n *Node) Problem() string { return n.logs.problem() }

// Confirmed returns when the latest command that a quorum accepted from this
// leader was proposed; zero when there is none. What this node has applied
// was current at that instant.
func (n *Node) Confirmed() clock.Instant {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.confirmed
}

// Confirm commits a barrier: the state applied here is current as of the call.
func (n *Node) Confirm(ctx context.Context) error {
	t0 := n.cfg.Clock()
	if err := n.entrance.enter(); err != nil {
		return err
	}
	f := n.raft.Barrier(n.cfg.Timing.TTL)
	n.entrance.leave()
	err := n.await(ctx, f, 2*n.cfg.Timing.TTL)
	n.watchStuck(err)
	if err != nil {
		return err
	}
	n.confirm(t0)
	return nil
}

func (n *Node) confirm(t0 clock.Instant) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.confirmed = max(n.confirmed, t0)
	n.commits.add(n.cfg.Clock().Sub(t0))
}

// Propose commits a command through this node, which must lead. The header's
// time and proposer are filled in. Errors: ErrNotLeader, *RefusedError,
// *LevelError, ErrOutcomeUnknown.
func (n *Node) Propose(ctx context.Context, cmd *hadv1.Command) (Verdict, error) {
	if err := n.admit(ctx, cmd); err != nil {
		return Verdict{}, err
	}
	cmd.At, cmd.Proposer = timestamppb.Now(), n.cfg.Instance.GetNode()
	data, err := encodeCommand(cmd)
	if err != nil {
		return Verdict{}, err
	}
	t0 := n.cfg.Clock()
	if err := n.entrance.enter(); err != nil {
		return Verdict{}, err
	}
	f := n.raft.Apply(data, 2*n.cfg.Timing.TTL)
	n.entrance.leave()
	err = n.await(ctx, f, max(5*time.Second, 2*n.cfg.Timing.TTL))
	n.watchStuck(err)
	if err != nil {
		return Verdict{}, err
	}
	n.confirm(t0)
	v, ok := f.Response().(Verdict)
	if !ok {
		return Verdict{}, fmt.Errorf("apply a command: unexpected answer %T", f.Response())
	}
	if v.Refused != "" {
		return v, &RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

// await waits for a future until ctx ends or the limit passes.
func (n *Node) await(ctx context.Context, f raft.Future, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case errors.Is(err, raft.ErrNotLeader):
			return fmt.Errorf("%w (%w)", ErrNotLeader, err)
		}
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx))
	case <-n.stopped:
		return fmt.Errorf("%w: the node is stopping", ErrOutcomeUnknown)
	case <-timer.C:
		return fmt.Errorf("%w: no answer within %v", ErrOutcomeUnknown, limit)
	}
}

// watchStuck takes the result of each commit and ends a node that leads and
// can't commit anything: raft may keep such a leader in office for ever.
func (n *Node) watchStuck(err error) {
	leading := n.raft.State() == raft.Leader
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil || !leading:
		n.failing = time.Time{}
	case n.failing.IsZero():
		n.failing = time.Now()
	case time.Since(n.failing) > stuckAfter:
		n.fail(fmt.Errorf("commit to the log: nothing has gone through for %v although this node leads (%w); is its disk stuck?", stuckAfter, err))
	}
}

func (n *Node) fail(err error) {
	select {
	case n.fatal <- err:
	default: // the first reason is the one to tell
	}
}
