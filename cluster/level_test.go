package cluster

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

func riseCmd(term uint64, to uint32, members ...*hadv1.MemberLevel) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_LevelRise{LevelRise: &hadv1.LevelRise{Term: term, Level: to, Members: members}}}
}

// reads are the members of testBirth with the levels they know, in its order.
func reads(levels ...uint32) (out []*hadv1.MemberLevel) {
	for i, m := range testBirth().GetMembers() {
		if i < len(levels) {
			out = append(out, &hadv1.MemberLevel{Node: m.GetName(), NodeId: m.GetNodeId(), Level: levels[i], Version: "9.1"})
		}
	}
	return out
}

func TestLevelOnlyRises(t *testing.T) {
	newLog(t).refused(1, riseCmd(1, 2, reads(2, 2, 2)...)) // whose members aren't known
	l := bornLog(t)
	if got := l.state.View().Level(); got != level.First {
		t.Errorf("a new cluster's log is at level %d", got)
	}
	l.refused(1, riseCmd(2, 2, reads(2, 2, 2)...)) // another term's
	l.refused(1, riseCmd(1, 2, reads(2, 2)...))    // gamma wasn't heard
	l.refused(1, riseCmd(1, 2, reads(2, 1, 2)...))
	l.refused(1, riseCmd(1, 2, reads(2, 0, 2)...)) // beta's had knows no levels
	stranger := reads(2, 2, 2)
	stranger[2].NodeId = "id-other"
	l.refused(1, riseCmd(1, 2, stranger...))

	l.must(1, riseCmd(1, 2, reads(2, 3, 2)...))
	l.refused(1, riseCmd(1, 2, reads(2, 2, 2)...))
	l.refused(1, riseCmd(1, 1, reads(2, 2, 2)...))
	if got := restored(t, l.state).View().Level(); got != 2 {
		t.Errorf("level %d after a snapshot", got)
	}
	events, _ := l.state.History(0)
	if got := events[len(events)-1].GetLevelRisen(); got.GetLevel() != 2 || len(got.GetMembers()) != 3 {
		t.Errorf("the history has %v", got)
	}
}

// A dead node, or one with an old had, must not keep itself from being removed.
func TestALevelRisesWithoutAMemberThatLeaves(t *testing.T) {
	l := bornLog(t)
	rise := riseCmd(1, 2, reads(2, 2)...)
	l.refused(1, rise) // gamma wasn't heard
	rise.GetLevelRise().Except = testBirth().GetMembers()[2].GetNodeId()
	l.must(1, rise)
	l = bornLog(t)
	rise = riseCmd(1, 2, reads(2)...)
	rise.GetLevelRise().Except = testBirth().GetMembers()[2].GetNodeId()
	l.refused(1, rise) // neither was beta
}

// A had from before there were levels knows one format of snapshots, and must not
// go on from a state of which it would pass over a part.
func TestSnapshotOfALaterLevelHasAFormatOfItsOwn(t *testing.T) {
	l := bornLog(t)
	if f := encode(t, l.state)[len(snapshotMagic)]; f != snapshotFormat {
		t.Errorf("format %d at the first level", f)
	}
	l.must(1, riseCmd(1, 2, reads(2, 2, 2)...))
	if f := encode(t, l.state)[len(snapshotMagic)]; f != snapshotLeveled {
		t.Errorf("format %d at level 2", f)
	}
}

func TestAnOlderHadStopsAtALaterLevel(t *testing.T) {
	l := bornLog(t)
	rise := riseCmd(1, level.Known+1, reads(level.Known+1, level.Known+1, level.Known+2)...)
	const want = "install that version or a later one here"

	data, err := encodeCommand(rise)
	if err != nil {
		t.Fatal(err)
	}
	var why error
	f := newFSM(func() {}, func(err error) { why = err })
	f.Apply(&raft.Log{Index: 3, Term: 1, Data: data})
	if !errors.Is(why, errTooOld) || !strings.Contains(why.Error(), want) || !strings.Contains(why.Error(), "gamma 9.1") {
		t.Errorf("at the record: %v", why)
	}
	if _, err := f.Snapshot(); err == nil {
		t.Error("it makes snapshots of a state that it can't know")
	}

	l.must(1, rise)
	why = nil
	f = newFSM(func() {}, func(err error) { why = err })
	err = f.Restore(readCloser{strings.NewReader(string(encode(t, l.state)))})
	if !errors.Is(err, errTooOld) || !errors.Is(why, errTooOld) || !strings.Contains(why.Error(), want) {
		t.Errorf("at a snapshot: %v, and it goes on (%v)", err, why)
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// needing has a node take a SyncResume for a record of a later level.
func needing(n *Node) {
	n.needs = func(cmd *hadv1.Command) (uint32, string) {
		if cmd.GetSyncResume() != nil {
			return level.Known, "sync_resume"
		}
		return level.Needs(cmd)
	}
}

func TestALaterRecordWaitsForEveryMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, testBirth(), 300*time.Millisecond)
		leader := c.leader()
		n := c.hosts[leader]
		needing(n.Node)
		later := func() error {
			_, err := n.Propose(t.Context(), syncResumeCmd("docs", 1))
			return err
		}
		other := "gamma"
		if leader == other {
			other = "beta"
		}

		c.says(other, level.First)
		err := later()
		var behind *LevelError
		if !errors.As(err, &behind) || !strings.Contains(err.Error(), other+" runs had ") || !strings.Contains(err.Error(), "upgrade it first") {
			t.Errorf("%s reads less: %v", other, err)
		}
		if _, err := n.RaiseLevel(t.Context(), level.Known, "root", ""); !errors.As(err, &behind) {
			t.Errorf("%s reads less: %v", other, err)
		}

		c.says(other, level.Known)
		if err := c.crash(other); err != nil {
			t.Fatal(err)
		}
		if err := later(); !errors.As(err, &behind) || !strings.Contains(err.Error(), other+" doesn't answer") {
			t.Errorf("%s is down: %v", other, err)
		}
		view, _ := n.View()
		if view.Level() != level.First {
			t.Errorf("level %d", view.Level())
		}

		c.start(other)
		c.eventually("hear of "+other, time.Minute, func() bool {
			err = later()
			return !errors.As(err, &behind)
		})
		if _, ok := errors.AsType[*RefusedError](err); !ok { // by Apply: there is no epoch
			t.Errorf("the record was not proposed once all read it: %v", err)
		}
		for name, h := range c.hosts {
			c.eventually("have the level on "+name, time.Minute, func() bool {
				view, _ := h.View()
				return view.Level() == level.Known
			})
		}
		if err := c.crash(other); err != nil {
			t.Fatal(err)
		}
		if err := later(); errors.As(err, &behind) {
			t.Errorf("nobody is asked any more: %v", err)
		}
	})
}

// What an owner lives by never waits for an answer of others.
func TestOwnershipWaitsForNoLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startNodes(t, testBirth(), 300*time.Millisecond)
		n := c.hosts[c.leader()]
		n.needs = func(*hadv1.Command) (uint32, string) { return level.Known, "sure" }
		in := n.cfg.Instance
		for _, cmd := range []*hadv1.Command{acquireCmd(in, 1), renewCmd(in, 1, 1), deliverCmd(), farewellCmd(in, 1), waitedCmd(1, waited(1, 1)), moveCmd("op", 1, "beta"), moveEndCmd("op")} {
			begun := time.Now()
			_, err := n.Propose(t.Context(), cmd)
			if _, ok := errors.AsType[*LevelError](err); !ok || time.Since(begun) != 0 {
				t.Errorf("%v after %v: %v", cmd, time.Since(begun), err)
			}
		}
	})
}

func (c *nodes) says(node string, level uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.levels[node] = level
}

func TestAnOlderHadDoesNotStartOnALaterSnapshot(t *testing.T) {
	l := bornLog(t)
	l.must(1, riseCmd(1, level.Known+1, reads(level.Known+1, level.Known+1, level.Known+1)...))
	snaps, mem := raft.NewInmemSnapshotStore(), raft.NewInmemStore()
	_, transport := raft.NewInmemTransport("alpha")
	servers := raft.Configuration{Servers: []raft.Server{{ID: "id-alpha", Address: "alpha"}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, l.index, 1, servers, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if err := snapshotBytes(encode(t, l.state)).Persist(sink); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{
		Birth: testBirth(), Instance: instance("alpha", 1), Timing: TimingFor(time.Second), Storage: &Storage{Log: mem, Stable: mem, Snapshots: snaps},
		Transport: transport, Clock: bubbleClock(), Logger: hclog.NewNullLogger(),
	})
	if !errors.Is(err, errTooOld) {
		t.Errorf("it started: %v", err)
	}
}
