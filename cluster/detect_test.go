package cluster

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	hadv1 "had/proto/had/v1"
)

// succession is the takeover after a fault: who leads, after how long, and in
// which term more than before.
type succession struct {
	leader string
	took   time.Duration
	terms  uint64
}

// succeed does a fault to the leader and waits for the next one.
func (c *nodes) succeed(fault func(leader string)) succession {
	c.t.Helper()
	old := c.leader()
	c.eventually("agree on the leader", time.Second, func() bool {
		for _, h := range c.hosts {
			if h.Node != nil && h.Leadership().Leader != old {
				return false
			}
		}
		return true
	})
	time.Sleep(5 * time.Second) // so long that no patience of the start is left
	c.idle(old)
	term := c.hosts[old].Leadership().Term
	fault(old)
	from := time.Now()
	next := c.leader(c.others(old)...)
	return succession{next, time.Since(from), c.hosts[next].Leadership().Term - term}
}

// bestAfter is the node that stands first once a leader is gone.
func bestAfter(birth *hadv1.Birth, leader string) string {
	for _, m := range birth.GetMembers() {
		if m.GetName() != leader && !m.GetWitness() {
			return m.GetName()
		}
	}
	return ""
}

func TestTheNextInRankSucceeds(t *testing.T) {
	five := dataNodes()
	for _, name := range []string{"delta", "epsilon"} {
		five.Members = append(five.Members, &hadv1.Member{Name: name, NodeId: "id-" + name})
	}
	births := map[string]*hadv1.Birth{"three": dataNodes(), "five": five, "two and a witness": testBirth()}
	for _, tt := range []struct {
		fault string
		does  func(c *nodes, leader string)
		limit time.Duration
	}{
		{"process killed", func(c *nodes, leader string) { _ = c.kill(leader) }, 15 * time.Millisecond},
		{"power lost", func(c *nodes, leader string) { _ = c.crash(leader) }, detect + detect/10},
		{"cut off", func(c *nodes, leader string) { c.isolate(leader) }, detect + detect/10},
	} {
		for size, birth := range births {
			t.Run(tt.fault+"/"+size, func(t *testing.T) {
				for range 8 { // raft draws its timers anew each time
					synctest.Test(t, func(t *testing.T) {
						c := startNodes(t, birth, detect)
						var want string
						got := c.succeed(func(leader string) {
							want = bestAfter(birth, leader)
							tt.does(c, leader)
						})
						// When it is silent, the one who heard it last may be late.
						if got.leader != want && tt.limit < detect || got.leader == "gamma" && size == "two and a witness" {
							t.Errorf("%s leads, want %s", got.leader, want)
						}
						if got.took > tt.limit || got.terms != 1 {
							t.Errorf("after %v, in %d terms; want one within %v", got.took, got.terms, tt.limit)
						}
					})
				}
			})
		}
	}
}

// A guard's word about the very run that leads needs nobody's agreement: here the
// leader lives, so nobody would agree. It costs the leader its office once.
func TestACertainWordNeedsNoAsking(t *testing.T) {
	for size, birth := range map[string]*hadv1.Birth{"three": dataNodes(), "two and a witness": testBirth()} {
		synctest.Test(t, func(t *testing.T) {
			c := startNodes(t, birth, detect)
			lead := c.leader()
			term := c.hosts[lead].Leadership().Term
			want := bestAfter(birth, lead)
			for range 3 {
				for _, name := range c.others(lead) {
					c.hosts[name].LeaderGone(lead, true)
				}
			}
			time.Sleep(stagger)
			if got := c.leader(); got != want || c.hosts[got].Leadership().Term != term+1 {
				t.Errorf("%s: %s leads in term %d; want %s in term %d", size, got, c.hosts[got].Leadership().Term, want, term+1)
			}
		})
	}
}

// A node that is cut off from the leader alone, or from everybody, finds
// nobody who misses the leader.
func TestACutOffFollowerDisturbsNobody(t *testing.T) {
	for _, cut := range []func(c *nodes, leader, follower string){
		func(c *nodes, leader, follower string) { c.sever(leader, follower) },
		func(c *nodes, _, follower string) { c.isolate(follower) },
	} {
		synctest.Test(t, func(t *testing.T) {
			c := startNodes(t, dataNodes(), detect)
			lead := c.leader()
			term := c.hosts[lead].Leadership().Term
			follower := bestAfter(c.birth, lead)
			for range 3 {
				cut(c, lead, follower)
				c.hosts[follower].transport.lose(lead)
				time.Sleep(time.Minute)
				c.heal(follower)
				time.Sleep(time.Minute)
			}
			if l := c.hosts[lead].Leadership(); !l.Ready || l.Term != term {
				t.Errorf("%+v, it led in term %d before", l, term)
			}
		})
	}
}

// A follower whose view of the leader's host is wrong (a firewall that
// refuses) asks the others before it does anything.
func TestARefusalSeenByOneIsNotEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		term := c.hosts[lead].Leadership().Term
		w := c.hosts[bestAfter(c.birth, lead)].transport
		w.refused.Store(&lead)
		for range 100 {
			w.lose(lead)
			time.Sleep(detect / 3)
		}
		if l := c.hosts[lead].Leadership(); !l.Ready || l.Term != term {
			t.Errorf("%+v, it led in term %d before", l, term)
		}
	})
}

// A leader that everybody believes dead, and isn't, loses its office at the
// most once a turn.
func TestAWrongWordCostsOneElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		term := c.hosts[lead].Leadership().Term
		for _, name := range c.others(lead) {
			c.hosts[name].transport.refused.Store(&lead)
			c.hosts[name].LeaderGone(lead, false)
		}
		time.Sleep(detect)
		next := c.leader()
		if l := c.hosts[next].Leadership(); l.Term > term+1 || next == lead {
			t.Errorf("%s: %+v; it was term %d of %s before", next, l, term, lead)
		}
		before := c.hosts[next].Leadership().Term
		for range 10 { // of a leader that leads no more
			for _, name := range c.others(lead) {
				c.hosts[name].LeaderGone(lead, false)
			}
			time.Sleep(detect)
		}
		if l := c.hosts[next].Leadership(); !l.Ready || l.Term != before {
			t.Errorf("%+v; it was term %d before", l, before)
		}
	})
}

func TestAWordAboutALivingLeaderChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		term := c.hosts[lead].Leadership().Term
		for range 20 {
			for _, name := range c.others(lead) {
				c.hosts[name].LeaderGone(lead, false)
				c.hosts[name].transport.lose(lead)
				c.hosts[name].LeaderGone("nobody", false)
			}
			time.Sleep(detect / 2)
		}
		if l := c.hosts[lead].Leadership(); !l.Ready || l.Term != term {
			t.Errorf("%+v, it led in term %d before", l, term)
		}
	})
}

// A leader that was started again at once listens, but leads no more.
func TestARestartedLeaderIsSucceededAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		got := c.succeed(func(leader string) {
			if err := c.kill(leader); err != nil {
				t.Fatal(err)
			}
			c.start(leader)
		})
		if got.took > 20*time.Millisecond || got.terms != 1 {
			t.Errorf("%s succeeded after %v, in %d terms", got.leader, got.took, got.terms)
		}
	})
}

// The first in rank lacks a committed entry, so the second must be elected.
func TestAShorterLogLetsTheNextRankWin(t *testing.T) {
	for _, birth := range []*hadv1.Birth{dataNodes(), testBirth()} { // the second: a witness, which then leads
		synctest.Test(t, func(t *testing.T) {
			c := startNodes(t, birth, detect)
			var first, second string
			got := c.succeed(func(leader string) {
				first = bestAfter(birth, leader)
				second = slices.DeleteFunc(c.others(leader), func(n string) bool { return n == first })[0]
				c.sever(leader, first)
				c.propose(leader, policyCmd(0, "committed"))
				c.healOneWay(first, leader) // it never catches up, but hears of the death
				_ = c.kill(leader)
			})
			if got.leader != second || got.took > 2*stagger+20*time.Millisecond {
				t.Errorf("%s succeeded after %v, want %s", got.leader, got.took, second)
			}
		})
	}
}

// Leadership that is handed on isn't missed.
func TestTransfersNeedNoDetector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		for range 20 {
			lead := c.leader()
			term, to := c.hosts[lead].Leadership().Term, c.others(lead)[0]
			for _, name := range c.others(lead) {
				c.hosts[name].transport.lose(lead)
				c.hosts[name].LeaderGone(lead, false)
			}
			if err := c.hosts[lead].Transfer(t.Context(), to); err != nil {
				t.Fatal(err)
			}
			if got := c.leader(to); c.hosts[got].Leadership().Term != term+1 {
				t.Fatalf("%s leads: %+v, it was term %d before", got, c.hosts[got].Leadership(), term)
			}
			time.Sleep(3 * detect)
		}
	})
}

// A greeting keeps a connection open. It is no sign of life of a leader, and
// raft doesn't see it.
func TestAGreetingSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		others := c.others(lead)
		follower, third := others[0], others[1]
		c.isolate(lead)
		before := c.hosts[follower].detect.hearing.heard()
		for range 3 {
			var resp raft.AppendEntriesResponse
			err := c.hosts[third].transport.AppendEntries("", raft.ServerAddress(follower), greeting(), &resp)
			if err != nil || resp.Success || resp.Term != 0 {
				t.Errorf("a greeting was answered with %+v (%v)", resp, err)
			}
		}
		if got := c.hosts[follower].detect.hearing.heard(); got != before {
			t.Errorf("after a greeting the last contact is %+v, it was %+v", got, before)
		}
	})
}

func TestRankIsTheSameEverywhere(t *testing.T) {
	birth := testBirth() // alpha, beta, and the witness gamma
	for _, tt := range []struct {
		leader string
		want   map[string]int
	}{
		{"alpha", map[string]int{"beta": 0, "gamma": 1}},
		{"beta", map[string]int{"alpha": 0, "gamma": 1}},
		{"gamma", map[string]int{"alpha": 0, "beta": 1}},
	} {
		for name, want := range tt.want {
			d := &detector{voters: birth.GetMembers}
			if got, witness := d.rank(name, tt.leader); got != want || witness != (name == "gamma") {
				t.Errorf("after %s, %s is number %d (witness: %v), want %d", tt.leader, name, got, witness, want)
			}
		}
	}
}

// A certain word ends the question whether it is so: here nobody answers it.
func TestACertainWordEndsTheAsking(t *testing.T) {
	i := new(interruption)
	ctx, cancel := i.interrupts(t.Context(), "alpha", time.Hour)
	defer cancel()
	i.of("beta")
	if ctx.Err() != nil {
		t.Error("a word about another node ended the question")
	}
	i.of("alpha")
	if ctx.Err() == nil {
		t.Error("the word didn't end the question")
	}
	cancel()
	i.of("alpha") // nobody asks any more
}
