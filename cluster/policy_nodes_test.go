package cluster

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Wherever a leader dies while it applies a policy, the cluster has the one before
// or the new one, everywhere the same, and never a third: the new one if anybody was
// told so, the one before if the entry never left the leader.
func TestALeaderThatDiesWhileItAppliesAPolicy(t *testing.T) {
	type step struct {
		name  string
		fault func(c *nodes, leader, follower string) // before it applies
		after time.Duration                           // until it dies; 0: as soon as it has been asked
		want  string                                  // "old", "new"; empty: either
	}
	steps := []step{
		{"before the entry has left it", func(c *nodes, leader, _ string) { c.isolate(leader) }, 20 * time.Millisecond, "old"},
		{"after the commit", nil, 2 * time.Second, "new"},
		{"after the commit, with a follower behind", func(c *nodes, leader, follower string) { c.sever(leader, follower) }, 2 * time.Second, "new"},
	}
	for after := time.Duration(0); after < 3*time.Millisecond; after += 250 * time.Microsecond {
		steps = append(steps, step{fmt.Sprintf("%v after it was asked", after), nil, after, ""})
	}
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), 200*time.Millisecond)
		c.propose(c.leader(), policyCmd(0, "policy 1"))
		seen := map[string]int{}
		for _, s := range steps {
			leader := c.leader()
			view, _ := c.hosts[leader].View()
			old, version := view.Policy.GetText(), view.Policy.GetVersion()
			text := fmt.Sprintf("policy %d", version+1) + " " + s.name
			if s.fault != nil {
				s.fault(c, leader, c.others(leader)[0])
			}
			told := make(chan error, 1)
			go func(n *Node) {
				_, err := n.Propose(t.Context(), policyCmd(version, text))
				told <- err
			}(c.hosts[leader].Node)
			if s.after > 0 {
				time.Sleep(s.after)
			}
			if err := c.crash(leader); err != nil {
				t.Fatal(err)
			}
			err := <-told
			for name := range c.hosts {
				c.heal(name)
			}
			c.leader()
			c.start(leader)
			index := c.propose(c.leader(), drainCmd("beta")) // whatever is under way is decided by then
			c.settled(index)
			for name, h := range c.hosts {
				v, _ := h.View()
				is := "a third"
				switch {
				case v.Policy.GetText() == text && v.Policy.GetVersion() == version+1:
					is = "new"
				case v.Policy.GetText() == old && v.Policy.GetVersion() == version && err != nil:
					is = "old"
				}
				if is == "a third" || s.want != "" && is != s.want {
					t.Fatalf("%s: told %v, and %s has version %d, %q (%s)", s.name, err, name, v.Policy.GetVersion(), v.Policy.GetText(), is)
				}
				seen[is]++
			}
		}
		if seen["old"] == 0 || seen["new"] == 0 {
			t.Errorf("the steps came to %v: they test too little", seen)
		}
	})
}
