package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// When the leader of two data nodes and a witness dies, the witness lets the
// other data node win, each time, whoever's election timer runs out first.
func TestWitnessLetsTheDataNodeWin(t *testing.T) {
	for range 40 { // raft draws its timers anew each time
		synctest.Test(t, func(t *testing.T) {
			c := startNodes(t, testBirth(), detect)
			first := c.leader()
			if first == "gamma" {
				t.Fatal("the witness won the first election")
			}
			time.Sleep(time.Minute) // so long that no patience of its start is left
			c.idle(first)
			if err := c.crash(first); err != nil {
				t.Fatal(err)
			}
			died := time.Now()
			next := c.leader()
			if next == "gamma" || next == first {
				t.Fatalf("%s succeeded %s", next, first)
			}
			if took := time.Since(died); took > 8*detect {
				t.Errorf("it took %v to elect the only data node left", took)
			}
		})
	}
}

// A witness that alone has a committed entry must lead in the end, or nobody
// could. It then hands on to the data node, which has caught up by then.
func TestWitnessLeadsWhenItAloneHasACommittedEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, testBirth(), detect)
		first := c.leader()
		behind := "alpha"
		if first == "alpha" {
			behind = "beta"
		}
		c.isolate(behind)
		index := c.propose(first, policyCmd(0, "committed"))
		if err := c.crash(first); err != nil {
			t.Fatal(err)
		}
		died := time.Now()
		c.heal(behind)
		if got := c.leader(); got != "gamma" {
			t.Fatalf("%s leads, and lacks a committed entry", got)
		}
		gamma := c.hosts["gamma"]
		if took, patience := time.Since(died), gamma.witnessPatience(); took > patience+8*detect {
			t.Errorf("it took %v, its patience is %v", took, patience)
		}
		c.settled(index)
		if err := gamma.Transfer(t.Context(), behind); err != nil {
			t.Fatal(err)
		}
		if got := c.leader(behind); got != behind {
			t.Fatalf("%s leads after the hand-over", got)
		}
		if v, _ := c.hosts[behind].View(); v.Policy.GetText() != "committed" {
			t.Error("the committed entry is gone")
		}
	})
}
