package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// TestRandomCommandsKeepTheInvariants feeds seeded random sequences of
// plausible and of illegal commands to replicas, one of which goes through
// snapshots at random, and checks every verdict against a model that knows
// nothing but the promises.
func TestRandomCommandsKeepTheInvariants(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			runRandom(t, rand.New(rand.NewPCG(seed, 1)), 400)
		})
	}
}

// model is what must be true, kept apart from State.
type model struct {
	t          *testing.T
	owner      map[uint64]*hadv1.Instance // of every epoch there ever was
	openEpoch  uint64                     // 0: none
	leaseIndex uint64                     // of the open epoch
	lastEpoch  uint64
	hooks      map[string]uint64 // by node: the last hook report delivered
}

func runRandom(t *testing.T, r *rand.Rand, commands int) {
	l := bornLog(t)
	replica := restored(t, l.state) // joined by snapshot
	m := &model{t: t, owner: map[uint64]*hadv1.Instance{}, hooks: map[string]uint64{}}
	g := &generator{r: r, term: 1, seq: map[string]uint64{}, run: map[string]int{"alpha": 1, "beta": 1, "gamma": 1}}
	refusals, last := 0, encodeAt(t, l.state, 0)
	for range commands {
		if r.IntN(12) == 0 {
			g.term++
		}
		view := l.state.View()
		kept := cloneClaims(view.Open)
		cmd := g.command(l, m)
		v := l.apply(g.term, cmd)

		data, _ := encodeCommand(cmd)
		own, err := decodeCommand(data)
		if err != nil {
			t.Fatal(err)
		}
		if rv := replica.Apply(Entry{Index: l.index, Term: g.term}, own); rv != v {
			t.Fatalf("entry %d: one replica answers %+v and the other %+v", l.index, v, rv)
		}
		if r.IntN(20) == 0 {
			if string(encode(t, l.state)) != string(encode(t, replica)) {
				t.Fatalf("entry %d: the replicas' states differ", l.index)
			}
			replica = restored(t, replica)
		}

		for i, c := range kept {
			if !proto.Equal(c, view.Open[i]) {
				t.Fatalf("entry %d changed a claim that a View holds: %v", l.index, view.Open[i])
			}
		}
		before := last
		last = encodeAt(t, l.state, 0)
		if v.Refused != "" {
			refusals++
			if !bytes.Equal(before, last) {
				t.Fatalf("entry %d was refused (%s) and changed the state: %v", l.index, v.Refused, cmd)
			}
			continue
		}
		m.accepted(l, g.term, cmd)
	}
	if refusals < commands/10 || refusals > commands*9/10 {
		t.Errorf("%d of %d commands were refused: the mix tests too little", refusals, commands)
	}
	if !bytes.Equal(encode(t, l.state), encode(t, replica)) {
		t.Error("the replicas' states differ at the end")
	}
	m.checkHistory(l)
}

func restored(t *testing.T, s *State) *State {
	t.Helper()
	out, err := DecodeState(encode(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func cloneClaims(open []*hadv1.Claim) []*hadv1.Claim {
	var out []*hadv1.Claim
	for _, c := range open {
		out = append(out, proto.CloneOf(c))
	}
	return out
}

// accepted checks one accepted command against the promises.
func (m *model) accepted(l *log, term uint64, cmd *hadv1.Command) {
	m.t.Helper()
	switch {
	case cmd.GetAcquire() != nil:
		a := cmd.GetAcquire()
		if m.openEpoch != 0 {
			m.mustHaveWaited(l.index, a)
		}
		if l.index <= m.lastEpoch {
			m.t.Fatalf("epoch %d after epoch %d", l.index, m.lastEpoch)
		}
		if a.GetTerm() != term || a.GetInstance().GetNode() == "gamma" {
			m.t.Fatalf("entry %d: an illegal Acquire was accepted: %v", l.index, a)
		}
		m.owner[l.index] = a.GetInstance()
		m.openEpoch, m.leaseIndex, m.lastEpoch = l.index, l.index, l.index
	case cmd.GetLeaseRenew() != nil:
		r := cmd.GetLeaseRenew()
		if r.GetEpoch() != m.openEpoch || r.GetTerm() != term || !proto.Equal(r.GetInstance(), m.owner[r.GetEpoch()]) {
			m.t.Fatalf("entry %d: a renewal of epoch %d was accepted, open is %d: %v", l.index, r.GetEpoch(), m.openEpoch, r)
		}
		m.leaseIndex = l.index
	case cmd.GetDeliver() != nil:
		for _, rep := range cmd.GetDeliver().GetReports() {
			if rep.GetSeq() != m.hooks[rep.GetNode()]+1 {
				continue // delivered before
			}
			m.hooks[rep.GetNode()]++
			rel := rep.GetReleased()
			if rel != nil && rel.GetEpoch() == m.openEpoch && m.openEpoch != 0 && m.owner[m.openEpoch].GetNodeId() == rep.GetNodeId() {
				m.openEpoch = 0
			}
		}
	}
	open := l.open()
	if len(open) > 1 || len(open) == 0 && m.openEpoch != 0 || len(open) == 1 && open[0] != m.openEpoch {
		m.t.Fatalf("entry %d: open epochs %v, want %d alone (0: none) after %v", l.index, open, m.openEpoch, cmd)
	}
	if c := l.state.View().Newest(); c != nil {
		if c.GetLastLeaseIndex() != m.leaseIndex || !proto.Equal(c.GetInstance(), m.owner[c.GetEpoch()]) || c.GetTerms().GetTtlNs() != int64(time.Second) {
			m.t.Fatalf("entry %d: the claim is %v, want instance %v and lease entry %d", l.index, c, m.owner[c.GetEpoch()], m.leaseIndex)
		}
	}
	if s := l.state; s.lastEpoch != m.lastEpoch || len(s.history) > HistoryLimit {
		m.t.Fatalf("entry %d: last epoch %d, want %d; %d events", l.index, s.lastEpoch, m.lastEpoch, len(s.history))
	}
}

func (m *model) mustHaveWaited(index uint64, a *hadv1.Acquire) {
	m.t.Helper()
	for _, ev := range a.GetEvidence() {
		if ev.GetEpoch() == m.openEpoch && ev.GetKind() == hadv1.Evidence_KIND_WAITED && ev.GetLeaseIndex() == m.leaseIndex {
			if proto.Equal(a.GetInstance(), m.owner[m.openEpoch]) {
				m.t.Fatalf("entry %d: an instance waited out its own epoch", index)
			}
			return
		}
	}
	m.t.Fatalf("entry %d: two owners: epoch %d (lease entry %d) is open and %v succeeded it", index, m.openEpoch, m.leaseIndex, a)
}

// checkHistory finds every report that was accepted exactly once, in order.
func (m *model) checkHistory(l *log) {
	m.t.Helper()
	events, dropped := l.state.History(0)
	if dropped != 0 {
		m.t.Fatalf("%d events were dropped: the sequence is too long for this check", dropped)
	}
	seen := map[string]uint64{}
	place := [2]uint64{}
	for _, e := range events {
		at := [2]uint64{e.GetIndex(), uint64(e.GetSub())}
		if at[0] < place[0] || at[0] == place[0] && at[1] <= place[1] && place[0] != 0 {
			m.t.Fatalf("event %v comes after %v", at, place)
		}
		place = at
		if e.GetHook() == nil && e.GetReleased() == nil && e.GetProgress() == nil {
			continue
		}
		seen[e.GetNode()]++
		want := fmt.Sprintf("%s-%d", e.GetNode(), seen[e.GetNode()])
		if h := e.GetHook(); h != nil && h.GetScript() != want {
			m.t.Fatalf("the history has %s where %s belongs", h.GetScript(), want)
		}
	}
	for node, n := range m.hooks {
		if seen[node] != n {
			m.t.Fatalf("the history has %d reports of %s, %d were accepted", seen[node], node, n)
		}
	}
}

// generator draws commands: about half as a correct node would make them, the
// others wrong in one respect.
type generator struct {
	r    *rand.Rand
	term uint64
	seq  map[string]uint64 // by node: reports drawn so far
	run  map[string]int    // by node: which run of had it is
	past []*hadv1.Report
}

func (g *generator) node() string { return []string{"alpha", "beta", "gamma"}[g.r.IntN(3)] }

func (g *generator) instance(node string) *hadv1.Instance {
	if g.r.IntN(15) == 0 {
		g.run[node]++ // it restarted
	}
	run := g.run[node]
	if g.r.IntN(10) == 0 {
		run = max(1, run-1) // something of its earlier run is still under way
	}
	return instance(node, run)
}

// wrong is true now and then.
func (g *generator) wrong() bool { return g.r.IntN(8) == 0 }

// near returns n, or now and then a number beside it.
func (g *generator) near(n uint64) uint64 {
	if g.wrong() {
		return n + uint64(g.r.IntN(3)) - 1
	}
	return n
}

func (g *generator) command(l *log, m *model) *hadv1.Command {
	owner := m.owner[m.openEpoch]
	switch n := g.r.IntN(100); {
	case n < 25:
		var evidence []*hadv1.Evidence
		if m.openEpoch != 0 && !g.wrong() {
			evidence = append(evidence, waited(g.near(m.openEpoch), g.near(m.leaseIndex)))
			if g.wrong() {
				evidence[0].Kind = hadv1.Evidence_Kind(g.r.IntN(4)) //nolint:gosec // 0 to 3
			}
		}
		cmd := acquireCmd(g.instance(g.node()), g.near(g.term), evidence...)
		cmd.GetAcquire().PolicyVersion = l.state.View().Policy.GetVersion()
		if g.r.IntN(2) == 0 {
			cmd.GetAcquire().MoveOperation = "op"
		}
		return cmd
	case n < 50:
		in := owner
		if in == nil || g.wrong() {
			in = g.instance(g.node())
		}
		return renewCmd(in, g.near(g.term), g.near(m.openEpoch))
	case n < 85:
		return g.deliver(m)
	case n < 92:
		return moveCmd("op", g.near(m.openEpoch), g.node())
	case n < 96:
		return moveEndCmd("op")
	case n < 98:
		return policyCmd(g.near(l.state.View().Policy.GetVersion()), fmt.Sprintf("policy %d", l.index))
	}
	return birthCmd(testBirth())
}

// deliver makes a batch out of new reports, repeated ones and, when wrong,
// ones from ahead of their turn.
func (g *generator) deliver(m *model) *hadv1.Command {
	var reports []*hadv1.Report
	for range 1 + g.r.IntN(3) {
		if len(g.past) > 0 && g.r.IntN(4) == 0 {
			reports = append(reports, g.past[g.r.IntN(len(g.past))])
			continue
		}
		node := g.node()
		seq := m.hooks[node] + 1
		for _, r := range reports {
			if r.GetNode() == node {
				seq = max(seq, r.GetSeq()+1)
			}
		}
		if g.r.IntN(25) == 0 {
			seq++ // one was lost
		}
		rep := g.report(node, seq, m.openEpoch)
		reports = append(reports, rep)
		g.past = append(g.past, rep)
	}
	return deliverCmd(reports...)
}

func (g *generator) report(node string, seq, epoch uint64) *hadv1.Report {
	switch g.r.IntN(4) {
	case 0:
		return released(node, seq, g.near(epoch))
	case 1:
		return progress(node, seq, g.near(epoch), hadv1.Progress_Outcome(g.r.IntN(4))) //nolint:gosec // 0 to 3
	}
	return hookResult(node, seq, epoch)
}
