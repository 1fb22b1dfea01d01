package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// A leader with a stuck disk can't renew its lease. It must not keep the
// others from electing one that can, and follows when its disk goes on.
func TestALeaderWithAStuckDiskIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), 500*time.Millisecond)
		disks := map[string]*stuckLog{}
		for name, h := range c.hosts {
			if err := c.crash(name); err != nil {
				t.Fatal(err)
			}
			disks[name] = &stuckLog{LogStore: h.storage.Log, free: make(chan struct{})}
			h.storage.Log = disks[name]
		}
		for name := range c.hosts {
			c.start(name)
		}
		old := c.leader()
		c.propose(old, policyCmd(0, "before"))
		disks[old].stuck.Store(true)
		go func() { _, _ = c.hosts[old].Propose(t.Context(), policyCmd(1, "never")) }()
		stuckAt := time.Now()
		next := c.leader(c.others(old)...)
		if took := time.Since(stuckAt); took > 4*c.detect {
			t.Errorf("%s was replaced after %v", old, took)
		}
		index := c.propose(next, policyCmd(1, "after"))

		disks[old].stuck.Store(false)
		close(disks[old].free)
		c.settled(index)
		if c.hosts[old].Leadership().Ready {
			t.Errorf("%s leads again with an old term", old)
		}
	})
}
