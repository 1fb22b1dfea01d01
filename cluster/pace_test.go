package cluster

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// tally is a transport whose peers answer everything.
type tally struct {
	raft.Transport
	mu         sync.Mutex
	heartbeats map[raft.ServerID]int
	down       bool
}

func (c *tally) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return errDiskStuck
	}
	if isHeartbeat(args) {
		c.heartbeats[id]++
	}
	resp.Term, resp.Success = args.Term, true
	return nil
}

// take returns how many heartbeats went to beta since the last take.
func (c *tally) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.heartbeats["beta"]
	clear(c.heartbeats)
	return n
}

// TestHeartbeatsLeaveWhenNothingElseDid lets raft's heartbeats to one follower
// meet renewals of different pace.
func TestHeartbeatsLeaveWhenNothingElseDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const detect, term = 500 * time.Millisecond, 7
		net := &tally{heartbeats: map[raft.ServerID]int{}}
		closed := make(chan struct{})
		p := newPace(detect)
		c := &carefulTransport{
			Transport: net, pace: p, stuck: func() bool { return false }, closed: closed,
			inOffice: func(of uint64) bool { return of == term }, replicated: newReplicated(),
		}
		send := func(args raft.AppendEntriesRequest) {
			args.Term = term
			_ = c.AppendEntries("beta", "beta", &args, new(raft.AppendEntriesResponse)) // net says what fails
		}
		var beating sync.WaitGroup
		beating.Go(func() {
			for tick := time.NewTicker(detect / 5); ; { // raft's pace
				select {
				case <-closed:
					return
				case <-tick.C:
					send(raft.AppendEntriesRequest{})
				}
			}
		})
		defer beating.Wait()
		defer close(closed)
		renewals := func(n int, every time.Duration) {
			for range n {
				send(raft.AppendEntriesRequest{LeaderCommitIndex: 3, PrevLogEntry: 3})
				time.Sleep(every)
			}
		}

		renewals(8, detect/2)
		if n := net.take(); n < 15 {
			t.Errorf("a follower whose detect isn't known got %d heartbeats in %v, want all that raft sends", n, 4*detect)
		}
		select {
		case <-p.met:
		default:
			t.Error("nobody asks the follower for its detect")
		}
		p.learn("beta", detect)
		renewals(8, detect/2)
		if n := net.take(); n > 1 { // one may have been on its way
			t.Errorf("%d heartbeats left between renewals that are a sign of life themselves", n)
		}
		renewals(4, 2*detect)
		if n := net.take(); n < 8 || n > 16 {
			t.Errorf("%d heartbeats left in %v with hardly a renewal, want one every %v or somewhat more", n, 8*detect, quietFor(detect))
		}
		net.mu.Lock()
		net.down = true
		net.mu.Unlock()
		send(raft.AppendEntriesRequest{})
		net.mu.Lock()
		net.down = false
		net.mu.Unlock()
		if p.stranger("beta") {
			t.Error("a follower that doesn't answer is asked for its detect")
		}
		renewals(8, detect/2)
		if n := net.take(); n < 15 || !p.stranger("beta") {
			t.Errorf("a follower that came back got %d heartbeats in %v: it may have another detect now", n, 4*detect)
		}
	})
}

func TestADeposedLeadersHeartbeatIsNotSentLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(500 * time.Millisecond)
		p.learn("beta", 500*time.Millisecond)
		p.answered("beta", 7, time.Now())
		begun := time.Now()
		if p.hold("beta", 7, func(uint64) bool { return false }, nil) {
			t.Error("a node that doesn't lead any more may send its heartbeat")
		}
		if held := time.Since(begun); held != quietFor(500*time.Millisecond) {
			t.Errorf("it was held for %v", held)
		}
		begun = time.Now()
		if !p.hold("beta", 8, nil, nil) || time.Since(begun) != 0 {
			t.Error("the first heartbeat of a new term has to wait")
		}
		closed := make(chan struct{})
		close(closed)
		p.answered("beta", 8, time.Now())
		if p.hold("beta", 8, nil, closed) {
			t.Error("a node that stops may send heartbeats")
		}
	})
}

// TestQuietLeavesTimeForAStall: whatever a follower's detect, nothing is held
// back so long that a stall of the leader is taken for its death.
func TestQuietLeavesTimeForAStall(t *testing.T) {
	for _, ms := range []int{100, 150, 200, 300, 500, 1000, 10000} {
		detect := time.Duration(ms) * time.Millisecond
		quiet := quietFor(detect)
		if quiet < 0 || quiet > 0 && quiet+longestStall > detect {
			t.Errorf("detect %v: a heartbeat is held back for %v", detect, quiet)
		}
		if renew := TimingFor(detect).Renew; detect >= 500*time.Millisecond && quiet <= renew {
			t.Errorf("detect %v: heartbeats are held back for %v and so leave between renewals, one every %v", detect, quiet, renew)
		}
	}
}

// TestNodesOfDifferentDetectKeepTheirLeader is a cluster in which an operator
// changes detect on one node after the other, from 1 s to 200 ms: the followers
// that are done miss nobody.
func TestNodesOfDifferentDetectKeepTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const old, changed = time.Second, 200 * time.Millisecond
		c := startNodes(t, dataNodes(), old)
		leader := c.leader()
		time.Sleep(10 * time.Second)
		term := c.hosts[leader].Leadership().Term
		c.detect = changed
		for _, follower := range c.others(leader) {
			if err := c.kill(follower); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			c.start(follower)
			time.Sleep(5 * time.Second)
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(7 * time.Millisecond) {
			for _, follower := range c.others(leader) {
				if silent := time.Since(c.hosts[follower].detect.hearing.heard().at); silent >= changed {
					t.Fatalf("%s has heard nothing for %v; its detect is %v", follower, silent, changed)
				}
			}
		}
		if l := c.hosts[leader].Leadership(); !l.Leading || l.Term != term {
			t.Errorf("the leader lost its office: %+v", l)
		}
	})
}

// TestAQuietLeaderSendsLittle counts what a leader with a lease to renew sends
// to its followers.
func TestAQuietLeaderSendsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), 500*time.Millisecond)
		leader := c.leader()
		claim := instance(leader, 1)
		index := c.propose(leader, policyCmd(0, "# a policy"))
		c.settled(index)
		epoch := c.propose(leader, acquireCmd(claim, c.hosts[leader].Leadership().Term))
		renew := func() {
			c.propose(leader, renewCmd(claim, c.hosts[leader].Leadership().Term, epoch))
			time.Sleep(TimingFor(c.detect).Renew)
		}
		for range 20 { // until all have told their detect
			renew()
		}
		was := map[string]int{}
		for _, f := range c.others(leader) {
			was[f] = c.received(f)
		}
		const n = 40
		for range n {
			renew()
		}
		for _, f := range slices.Sorted(maps.Keys(was)) {
			// Barriers are far between, and now and then raft's random pause
			// after a commit ends just before the next renewal.
			if got := c.received(f) - was[f]; got < n || got > n+n/4 {
				t.Errorf("%s got %d messages for %d renewals", f, got, n)
			}
		}
	})
}
