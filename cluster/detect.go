package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// Peers are the other nodes, asked over the cluster port. api.Peers is one.
type Peers interface {
	// Contact asks a node as the Peer service's call of that name.
	Contact(ctx context.Context, node string, req *hadv1.ContactRequest) (*hadv1.ContactResponse, error)
	// Health likewise; of the answer only who gives it and its level count here.
	Health(ctx context.Context, node string) (*hadv1.HealthResponse, error)
}

// Lines is what a transport may know of its connections. NewTransport's does;
// with another transport a dead process is noticed by its silence alone.
type Lines interface {
	// Ended delivers the name of a node when a connection from it has ended.
	// It may leave some out.
	Ended() <-chan string
	// Probe connects to a node as raft does and hangs up. Its error matches
	// syscall.ECONNREFUSED when the node's host says that nobody listens.
	Probe(ctx context.Context, node string) error
}

// detector notices that the leader is gone, and has this node stand for
// election when it is its turn. raft's own timer runs freely and takes one to
// three times its length; it stays as the fallback.
//
// It decides when raft holds an election and nothing else. Whatever it gets
// wrong costs at most one election for a leader's turn: nothing it learns is
// evidence that a lease is over.
type detector struct {
	self    string
	members func() []*hadv1.Member
	voters  func() []*hadv1.Member // in the same order on every node, but while they change
	detect  time.Duration
	peers   Peers // nil: nobody can be asked
	lines   Lines // nil: connections tell nothing
	hearing *hearing
	greet   func(*hadv1.Member) // opens a raft connection to a node, if there is none
	raft    *raft.Raft
	pace    *pace // of this node's own messages, should it lead
	logger  hclog.Logger

	farewells chan obituary
	word      interruption

	support support

	// Of run alone.
	gone    contact   // whose process is gone, as seen from here
	goneAt  time.Time // since when that is known
	certain bool      // of gone: its own guard has said so, and nobody else need be asked
	stoodIn contact   // in whose turn this node has stood; it does so once
}

// stagger is the head start each node has before the next in rank: enough for
// an election on good disks, so that two don't split the votes.
const stagger = 30 * time.Millisecond

// patience bounds a question to other nodes.
func (d *detector) patience() time.Duration { return d.detect / 4 }

// run works until ctx ends.
func (d *detector) run(ctx context.Context) {
	var ended <-chan string
	if d.lines != nil {
		ended = d.lines.Ended()
	}
	due := time.Now().Add(d.detect)
	timer := time.NewTimer(d.detect)
	defer timer.Stop()
	for {
		var suspect obituary
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.hearing.asked:
		case <-d.hearing.spoke:
		case suspect.node = <-ended:
		case suspect = <-d.farewells:
		}
		if suspect.node != "" {
			d.lookFor(ctx, suspect)
		}
		due = d.look(ctx, due)
		timer.Reset(time.Until(due))
	}
}

const (
	// acquaintEvery is how often connections to the other nodes are made sure
	// of.
	acquaintEvery = 30 * time.Second
	// introduceEvery is how often a node that has come back is asked for its
	// detect until it tells.
	introduceEvery = 2 * time.Second
)

// acquaint keeps connections to all other nodes open until ctx ends, so that
// asking them, and asking for their votes, needs no handshakes when it counts.
// Each answer tells a node's detect.
func (d *detector) acquaint(ctx context.Context) {
	if d.peers == nil {
		return
	}
	all := time.NewTicker(acquaintEvery)
	defer all.Stop()
	again := time.NewTimer(introduceEvery)
	defer again.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		patience, everybody := introduceEvery, false
		select {
		case <-ctx.Done():
			return
		case <-all.C:
			patience, everybody = acquaintEvery/2, true
		case <-d.pace.met:
		case <-again.C:
		}
		strangers := false
		for _, m := range d.members() {
			stranger := d.pace.stranger(raft.ServerID(m.GetNodeId()))
			strangers = strangers || stranger
			if m.GetName() != d.self && (everybody || stranger) {
				asking.Go(func() { d.meet(ctx, m, patience) })
			}
		}
		if strangers {
			again.Reset(introduceEvery)
		}
	}
}

// meet makes sure of the connections to a node and notes its detect. One that
// doesn't answer is none to keep.
func (d *detector) meet(ctx context.Context, m *hadv1.Member, patience time.Duration) {
	d.greet(m)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r, err := d.peers.Contact(ctx, m.GetName(), &hadv1.ContactRequest{}); err == nil {
		d.pace.learn(raft.ServerID(m.GetNodeId()), time.Duration(r.GetDetectNs()))
	}
}

// lookFor finds out whether the process of a node is gone, if it is the one
// that leads.
func (d *detector) lookFor(ctx context.Context, o obituary) {
	c := d.hearing.heard()
	known := d.gone.sameTurn(c)
	if c.leader != o.node || known && (d.certain || !o.certain) || d.raft.State() != raft.Follower {
		return
	}
	if !o.certain {
		ctx, cancel := d.word.interrupts(ctx, c.leader, d.patience())
		defer cancel()
		if !d.absent(ctx, c.leader, c.term) {
			return
		}
	}
	d.gone, d.goneAt, d.certain = c, time.Now(), o.certain
}

// absent reports whether the process that led in a term is certainly gone: its
// host's kernel refuses connections, or whoever listens there now says that it
// doesn't lead.
func (d *detector) absent(ctx context.Context, leader string, term uint64) bool {
	if d.lines == nil || d.peers == nil {
		return false
	}
	for {
		err := d.lines.Probe(ctx, leader)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		case err == nil:
			r, err := d.peers.Contact(ctx, leader, &hadv1.ContactRequest{Leader: leader, Term: term})
			return err == nil && !r.GetLeading()
		}
		// A dying process's sockets close one after the other.
		pause := time.NewTimer(2 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return false
		}
	}
}

// look does what is due, and returns when to look again at the latest. It was
// to be called at the time due.
func (d *detector) look(ctx context.Context, due time.Time) time.Time {
	c, now := d.hearing.heard(), time.Now()
	later := now.Add(d.detect) // no later than detect after any contact to come
	if d.raft.State() == raft.Leader {
		return now.Add(clock.UntilBeat(lookEvery)) // whoever is heard after it begins a turn
	}
	if c.leader == "" || c.sameTurn(d.stoodIn) || d.raft.State() != raft.Follower {
		return later
	}
	gone := d.gone.sameTurn(c)
	if gone && c.at.After(d.goneAt.Add(stagger)) { // it isn't
		d.gone, d.certain, gone = contact{}, false, false
	}
	turn := c.at.Add(d.detect)
	if gone && d.goneAt.Before(turn) {
		turn = d.goneAt
	}
	if !d.votes() {
		return later
	}
	rank, witness := d.rank(d.self, c.leader)
	turn = turn.Add(time.Duration(rank) * stagger)
	if now.Before(turn) {
		return turn
	}
	if late := now.Sub(due); !gone && late > d.detect/4 {
		// This process itself was held up, and perhaps the whole machine. What
		// the leader has sent meanwhile comes now.
		return now.Add(d.detect / 8)
	}
	if until := d.othersTurn(c); now.Before(until) {
		return until
	}
	// One that stands and can't win was agreed to by a majority before.
	if !d.refused(c) {
		if witness {
			return later // it leads only if no data node can
		}
		if !gone || !d.certain {
			if len(d.farewells) > 0 {
				return now // one may be certain
			}
			if agreed, wait := d.ask(ctx, c, gone); !agreed {
				return time.Now().Add(wait)
			}
		}
	}
	if again := d.hearing.heard(); again != c && !gone || !again.sameTurn(c) {
		return later // it has spoken, or another has
	}
	if d.raft.State() != raft.Follower {
		return later
	}
	if !d.support.take(c, rank, now) {
		return time.Now().Add(time.Millisecond) // two have asked each other, and the other is better
	}
	if !d.hearing.timeoutNow(ctx, stagger) {
		d.support.leave()
		return time.Now().Add(time.Millisecond)
	}
	d.stoodIn = c
	d.logger.Info("the leader is gone; this node stands for election",
		"leader", c.leader, "term", c.term, "its process has ended", gone, "silent for", time.Since(c.at).Round(time.Millisecond))
	return later
}

// votes reports whether this node has a vote: only then may it stand.
func (d *detector) votes() bool {
	return slices.ContainsFunc(d.voters(), func(m *hadv1.Member) bool { return m.GetName() == d.self })
}

// refused reports whether this node refuses its vote to whoever stands against
// a leader.
func (d *detector) refused(c contact) bool {
	rival, ok := d.hearing.rivalAfter(c)
	return ok && rival.behind
}

// othersTurn returns until when somebody else is being elected: one that asked
// for this node's vote, or one that this node supports.
func (d *detector) othersTurn(c contact) time.Time {
	if rival, ok := d.hearing.rivalAfter(c); ok {
		if rival.behind {
			return time.Time{}
		}
		return rival.at.Add(d.detect / 2)
	}
	return d.support.given(c).Add(d.detect / 2)
}

// rank is a node's place in the order in which nodes stand for election once
// a leader is gone: that of the members, the same everywhere; the witness
// comes last.
func (d *detector) rank(node, leader string) (place int, witness bool) {
	for _, m := range d.voters() {
		switch {
		case m.GetName() == node:
			witness = m.GetWitness()
			if !witness {
				return place, false
			}
		case m.GetName() != leader && !m.GetWitness():
			place++
		}
	}
	return place, witness
}

// ask asks the other voters whether they miss the leader as well, and reports
// whether a majority does, this node included. Otherwise it says how soon
// that may have changed.
func (d *detector) ask(ctx context.Context, c contact, gone bool) (agreed bool, wait time.Duration) {
	if d.peers == nil {
		return false, d.detect
	}
	ctx, cancel := d.word.interrupts(ctx, c.leader, d.patience())
	req := &hadv1.ContactRequest{Leader: c.leader, Term: c.term, Asker: d.self, Look: gone}
	var lacking []time.Duration // of each answer: how much silence it lacks
	voters := d.voters()
	answers := make(chan time.Duration, len(voters))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asked := 0
	for _, m := range voters {
		if m.GetName() == d.self || m.GetName() == c.leader {
			continue
		}
		asked++
		asking.Go(func() { answers <- d.lacks(ctx, m.GetName(), req) })
	}
	needed := len(voters) / 2 // and this node
	if needed == 0 || needed > asked {
		return false, d.detect
	}
	for range asked {
		lacking = append(lacking, <-answers)
		slices.Sort(lacking)
		if len(lacking) >= needed && lacking[needed-1] <= 0 {
			return true, 0
		}
	}
	return false, max(lacking[needed-1], d.detect/20)
}

// lacks asks one voter and returns how much longer it has to miss the leader.
func (d *detector) lacks(ctx context.Context, node string, req *hadv1.ContactRequest) time.Duration {
	r, err := d.peers.Contact(ctx, node, req)
	silent := time.Duration(r.GetSilentNs())
	switch {
	case err != nil:
		return d.patience()
	case r.GetLeading() || silent < 0:
		return d.detect / 2
	case r.GetAbsent():
		return 0
	case req.GetLook():
		return min(d.patience(), d.detect-silent)
	}
	return enough(max(d.detect, time.Duration(r.GetDetectNs()))) - silent
}

// enough is how long a voter with this detect must have heard nothing to back
// an asker: it may have got the leader's last message somewhat later than the
// asker did. A leader sends each follower as much as its own detect calls for,
// so a voter that is more patient than the asker isn't overruled.
func enough(detect time.Duration) time.Duration { return detect - detect/10 }

// answer answers another node's question.
func (d *detector) answer(ctx context.Context, req *hadv1.ContactRequest) *hadv1.ContactResponse {
	c, now, term := d.hearing.heard(), time.Now(), d.raft.CurrentTerm()
	leads := d.raft.State() == raft.Leader
	if req.GetLeader() == "" { // the asker only keeps its connection
		return &hadv1.ContactResponse{Term: term, DetectNs: int64(d.detect)}
	}
	resp := &hadv1.ContactResponse{
		Term: term, DetectNs: int64(d.detect),
		Leading: leads && req.GetLeader() == d.self && req.GetTerm() == term,
	}
	if c.term > req.GetTerm() || leads && term > req.GetTerm() || c.term == req.GetTerm() && c.leader != req.GetLeader() && c.leader != "" {
		resp.SilentNs = -1
		return resp
	}
	resp.SilentNs = int64(now.Sub(c.at))
	if req.GetLook() && req.GetLeader() != d.self {
		looking, cancel := context.WithTimeout(ctx, d.patience())
		defer cancel()
		resp.Absent = d.absent(looking, req.GetLeader(), req.GetTerm())
	}
	if !resp.Absent && now.Sub(c.at) < enough(d.detect) {
		return resp
	}
	place, _ := d.rank(req.GetAsker(), req.GetLeader())
	if !d.support.give(contact{leader: req.GetLeader(), term: req.GetTerm()}, place, d.detect/2) {
		return &hadv1.ContactResponse{Term: term, SilentNs: -1}
	}
	return resp
}
