package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// raft pauses up to 10 s before it sends entries to a node again that was
// away for long. Until then the node's acknowledgements are missing: whoever
// restarts one node after the other would lose the quorum for a lease. Where
// in such a pause the node comes back is chance, so it comes back at many
// moments.
func TestANodeThatWasAwayIsUpToDateSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), 500*time.Millisecond)
		leader := c.leader()
		away := c.others(leader)[0]
		propose := func() uint64 {
			v, _ := c.hosts[leader].View()
			return c.propose(leader, policyCmd(v.Policy.GetVersion(), "# a policy"))
		}
		for absence := 20 * time.Second; absence < 44*time.Second; absence += 3 * time.Second {
			if err := c.crash(away); err != nil {
				t.Fatal(err)
			}
			for gone := time.Now(); time.Since(gone) < absence; time.Sleep(250 * time.Millisecond) {
				propose()
			}
			c.start(away)
			index := propose()
			c.eventually("bring "+away+" up to date after "+absence.String(), time.Second, func() bool {
				v, _ := c.hosts[away].View()
				return v.Applied >= index
			})
		}
	})
}
