package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestTransferHandsOverAndTheBirthStaysOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		for range 3 {
			lead := c.leader()
			to := c.others(lead)[0]
			changed := c.hosts[to].LeadershipChanged()
			if err := c.hosts[lead].Transfer(t.Context(), to); err != nil {
				t.Fatal(err)
			}
			if c.hosts[lead].Leadership().Leading {
				t.Errorf("%s still leads after its transfer", lead)
			}
			<-changed
			if got := c.leader(to); got != to {
				t.Fatalf("%s leads, want %s", got, to)
			}
		}
		lead := c.leader()
		births := 0
		events, _ := c.hosts[lead].History(0)
		for _, e := range events {
			if e.GetBirth() != nil {
				births++
			}
		}
		if births != 1 {
			t.Errorf("the birth is recorded %d times", births)
		}
		if err := c.hosts[lead].Transfer(t.Context(), "delta"); err == nil || !strings.Contains(err.Error(), `"delta"`) {
			t.Errorf("a transfer to nobody: %v", err)
		}
		if err := c.hosts[c.others(lead)[0]].Transfer(t.Context(), lead); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower's transfer: %v", err)
		}
	})
}

// A node that can't be reached costs whoever tries to hand leadership to it
// less than a lease, each time, and nothing for ever (raft's own transfer:
// raft#696).
func TestTransferToANodeThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		to := c.others(lead)[0]
		c.isolate(to)
		for n := range 5 {
			c.propose(lead, policyCmd(uint64(n), fmt.Sprint("before try ", n)))
			timing, start := c.hosts[lead].cfg.Timing, time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timing.HandOver())
			err := c.hosts[lead].Transfer(ctx, to)
			cancel()
			if err == nil || !strings.Contains(err.Error(), to) {
				t.Fatalf("handed to %s, which is cut off: %v", to, err)
			}
			if took := time.Since(start); took+timing.Renew+timing.Margin >= timing.TTL {
				t.Errorf("no renewal for %v: the lease is lost with it", took)
			}
		}
		c.propose(lead, policyCmd(5, "after all"))
		c.heal(to)
		time.Sleep(3 * detect)
		lead = c.leader()
		if lead == to {
			t.Fatalf("%s leads without having been asked", to)
		}
		if err := c.hosts[lead].Transfer(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		c.settled(c.propose(c.leader(to), policyCmd(6, "by the new leader")))
	})
}

// slowLog is a disk that takes its time.
type slowLog struct{ raft.LogStore }

func (s slowLog) StoreLogs(logs []*raft.Log) error {
	time.Sleep(3 * time.Millisecond)
	return s.LogStore.StoreLogs(logs)
}

func (s slowLog) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// A command that raft has taken and that is still on its way to the disk when
// leadership is handed on must not leave the successor without it: it could
// not win.
func TestTransferWaitsForCommandsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		for name, h := range c.hosts {
			if err := c.crash(name); err != nil {
				t.Fatal(err)
			}
			h.storage.Log = slowLog{h.storage.Log}
			c.start(name)
		}
		for n := range 5 {
			lead := c.leader()
			to := c.others(lead)[0]
			committed := make(chan error, 1)
			go func() {
				_, err := c.hosts[lead].Propose(t.Context(), policyCmd(uint64(n), fmt.Sprint(n)))
				committed <- err
			}()
			time.Sleep(time.Millisecond)
			if err := c.hosts[lead].Transfer(t.Context(), to); err != nil {
				t.Fatal(err)
			}
			if err := <-committed; err != nil {
				t.Errorf("the command under way: %v", err)
			}
			if got := c.leader(); got != to {
				t.Fatalf("%s leads, want %s", got, to)
			}
		}
	})
}

// slowTerms is a disk that takes its time over a new term.
type slowTerms struct {
	raft.StableStore
	takes time.Duration
}

func (s slowTerms) SetUint64(key []byte, val uint64) error {
	if string(key) == "CurrentTerm" { // as raft calls it; its vote is another
		time.Sleep(s.takes)
	}
	return s.StableStore.SetUint64(key, val)
}

// Whoever was asked to stand has a term to write down first. What the old leader
// took into its log meanwhile, such as an Acquire of its own, would reach others and
// keep that node from being elected.
func TestTransferToANodeThatIsSlowToStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, dataNodes(), detect)
		lead := c.leader()
		to := c.others(lead)[0]
		if err := c.crash(to); err != nil {
			t.Fatal(err)
		}
		timing := TimingFor(detect)
		c.hosts[to].storage.Stable = slowTerms{c.hosts[to].storage.Stable, timing.HandOver()}
		c.start(to)
		c.idle(lead)

		handed := make(chan error, 1)
		go func() { handed <- c.hosts[lead].Transfer(t.Context(), to) }()
		for n := uint64(0); c.hosts[lead].Leadership().Leading; time.Sleep(timing.Margin) {
			if _, err := c.hosts[lead].Propose(t.Context(), policyCmd(n, "meanwhile")); err == nil {
				n++
			}
		}
		if err := <-handed; err != nil {
			t.Error(err)
		}
		if got := c.leader(); got != to {
			t.Errorf("%s leads, want %s, which was asked to", got, to)
		}
	})
}
