package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	hadv1 "had/proto/had/v1"
)

const quick = 200 * time.Millisecond

// add has a new node, with an empty disk, added by the leader. It runs once the
// log says that it belongs to the cluster, as a node that asks for that does.
func (c *nodes) add(leader, name string) {
	c.t.Helper()
	c.propose(leader, addCmd(memberOf(name)))
	c.take(name, c.hosts[leader].Roster())
}

func (c *nodes) take(name string, r *hadv1.Roster) {
	c.make(name)
	c.hosts[name].roster.Store(r)
	c.start(name)
}

// votes returns the names of raft's voters as a node has them, sorted, and
// whether the state agrees and no change is under way.
func (c *nodes) votes(on string) (voters []string, settled bool) {
	settled = true
	for _, m := range c.hosts[on].voters() {
		voters = append(voters, m.GetName())
	}
	var members []string
	for _, m := range c.hosts[on].Roster().GetMembers() {
		settled = settled && Settled(m)
		members = append(members, m.GetName())
	}
	slices.Sort(voters)
	slices.Sort(members)
	return voters, settled && slices.Equal(voters, members)
}

// become waits until the leader's voters are these, and every running node that
// is one of them agrees.
func (c *nodes) become(want ...string) {
	c.t.Helper()
	slices.Sort(want)
	var last string
	defer func() {
		if c.t.Failed() {
			c.t.Log(last)
		}
	}()
	c.eventually(fmt.Sprintf("become %v", want), time.Minute, func() bool {
		last = ""
		for _, name := range want {
			if h := c.hosts[name]; h.Node != nil {
				voters, settled := c.votes(name)
				last += fmt.Sprintf("%s: %v %v; ", name, voters, settled)
				if !settled || !slices.Equal(voters, want) {
					return false
				}
			}
		}
		return true
	})
}

func alone() *hadv1.Birth {
	b := testBirth()
	b.Members = b.Members[:1]
	return b
}

func TestOneThreeFiveThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, alone(), quick)
		c.leader()
		c.add("alpha", "beta")
		c.eventually("have beta catch up", time.Minute, func() bool {
			return c.hosts["alpha"].MemberState("id-beta").Waits.Third
		})
		if voters, _ := c.votes("alpha"); len(voters) != 1 {
			t.Fatalf("with two voters the cluster stops when either dies: %v", voters)
		}
		c.add("alpha", "gamma")
		c.become("alpha", "beta", "gamma")
		c.add(c.leader(), "delta")
		c.become("alpha", "beta", "gamma", "delta")
		c.add(c.leader(), "epsilon")
		c.become("alpha", "beta", "gamma", "delta", "epsilon")

		// The leader itself goes: another takes over first.
		first := c.leader()
		c.propose(first, removeCmd(first, false))
		left := c.others(first)
		c.become(left...)
		second := c.leader(left...)
		c.propose(second, removeCmd(left[0], false))
		c.become(left[1:]...)
		for _, gone := range []string{first, left[0]} {
			if err := c.kill(gone); err != nil {
				t.Error(err)
			}
		}
		leader := c.leader(left[1:]...)
		c.settled(c.propose(leader, policyCmd(0, "")))
	})
}

func TestSecondVoterIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, alone(), quick)
		c.leader()
		cmd := addCmd(memberOf("beta"))
		cmd.GetMemberAdd().TwoVoters = true
		c.propose("alpha", cmd)
		c.take("beta", c.hosts["alpha"].Roster())
		c.become("alpha", "beta")
	})
}

// A node that doesn't answer gets no vote, and can be taken back.
func TestDeadNodeGetsNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), quick)
		leader := c.leader()
		c.propose(leader, addCmd(memberOf("delta")))
		time.Sleep(20 * time.Second)
		if voters, settled := c.votes(leader); len(voters) != 3 || settled {
			t.Fatalf("the voters are %v, settled %v", voters, settled)
		}
		if w := c.hosts[leader].MemberState("id-delta").Waits.Why; !strings.Contains(w, "hasn't answered yet") {
			t.Errorf("it waits for: %s", w)
		}
		c.propose(leader, removeCmd("delta", false))
		c.become("alpha", "beta", "gamma")
	})
}

// The last majority isn't given away: with one of three dead, another can't be
// removed, but the dead one can.
func TestQuorumIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), quick)
		leader := c.leader()
		others := c.others(leader)
		if err := c.crash(others[0]); err != nil {
			t.Fatal(err)
		}
		leader = c.leader(leader, others[1])
		if why := c.hosts[leader].WouldStop(t.Context(), "id-"+others[1]); !strings.Contains(why, "no majority would be left") && others[1] != leader {
			t.Errorf("%s can be removed: %q", others[1], why)
		}
		c.propose(leader, removeCmd(others[0], true))
		c.become(slices.DeleteFunc([]string{"alpha", "beta", "gamma"}, func(n string) bool { return n == others[0] })...)
	})
}

// A wiped node comes back as another one under its name.
func TestReplacedNodeVotesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), quick)
		leader := c.leader()
		gone := c.others(leader)[0]
		if err := c.crash(gone); err != nil {
			t.Fatal(err)
		}
		c.propose(leader, removeCmd(gone, true))
		left := c.others(gone)
		c.become(left...)
		again := memberOf(gone)
		again.NodeId = "id2-" + gone
		c.propose(leader, addCmd(again))
		c.make(gone)
		c.hosts[gone].roster.Store(c.hosts[leader].Roster())
		c.hosts[gone].id = again.GetNodeId()
		c.start(gone)
		c.become("alpha", "beta", "gamma")
		if err := c.crash(leader); err != nil {
			t.Fatal(err)
		}
		c.leader(c.others(leader)...)
	})
}

// Whoever is killed at whatever moment of an add or a remove: the members are
// the old ones or the new ones in the end, the same for all.
func TestKilledAtEveryStepOfAChange(t *testing.T) {
	for _, victim := range []string{"leader", "subject"} {
		for _, change := range []string{"add", "remove"} {
			for after := time.Duration(0); after < 400*time.Millisecond; after += 7 * time.Millisecond {
				t.Run(fmt.Sprintf("%s of %s %v", victim, change, after), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { killedDuringChange(t, victim, change, after) })
				})
			}
		}
	}
}

func killedDuringChange(t *testing.T, victim, change string, after time.Duration) {
	b := dataNodes()
	if change == "remove" {
		b.Members = append(b.Members, memberOf("delta"), memberOf("epsilon"))
	}
	c := startNodes(t, b, quick)
	leader := c.leader()
	subject, cmd := "zeta", addCmd(memberOf("zeta"))
	if change == "remove" {
		subject = c.others(leader)[0]
		cmd = removeCmd(subject, false)
	}
	was, _ := c.votes(leader)
	will := slices.DeleteFunc(slices.Clone(was), func(n string) bool { return n == subject })
	if change == "add" {
		will = append(slices.Clone(was), subject)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proposed := make(chan error, 1)
	node := c.hosts[leader].Node
	go func() { _, err := node.Propose(ctx, cmd); proposed <- err }()
	if change == "add" {
		c.eventually("have it said that it is added", time.Minute, func() bool {
			return memberWith(c.hosts[leader].Roster(), "id-"+subject) != nil
		})
		c.take(subject, c.hosts[leader].Roster())
	}
	time.Sleep(after)
	killed := leader
	if victim == "subject" {
		killed = subject
	}
	if err := c.crash(killed); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-proposed
	time.Sleep(5 * time.Second)
	var alive []string
	for _, n := range was {
		if n != killed {
			alive = append(alive, n)
		}
	}
	leading := c.leader(alive...)
	if got, _ := c.votes(leading); !slices.Equal(sorted(got), sorted(was)) && !slices.Equal(sorted(got), sorted(will)) {
		t.Fatalf("the voters are %v; they were %v and were to become %v", got, was, will)
	}
	c.start(killed)
	m := memberWith(c.hosts[leading].Roster(), "id-"+subject)
	if begun := change == "add" && m != nil || change == "remove" && (m == nil || !Settled(m)); begun {
		c.become(will...)
	} else {
		c.become(was...)
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
