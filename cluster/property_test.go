package cluster

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
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
			runRandom(t, rand.New(rand.NewPCG(seed, 1)), 1000)
		})
	}
}

// model is what must be true, kept apart from State.
type model struct {
	t         *testing.T
	owner     map[uint64]*hadv1.Instance // of every epoch there ever was
	open      map[uint64]*openEpoch
	move      *hadv1.MoveOrder // under way; nil: none
	lastEpoch uint64
	hooks     map[string]uint64 // by node: the last hook report delivered
	farewells map[string]uint64 // by node: the newest epoch its guards have spoken of
	guards    map[uint64]bool   // entries that are a guard's word
	handed    int               // epochs that were opened beside another
	parted    int               // epochs closed otherwise than by a report or an Acquire
	mounting  map[uint64]bool   // epochs whose owner may have mounted
	mounts    int               // epochs that got as far
	secured   int               // epochs whose volumes evidence has made safe
	grown     int               // epochs without volumes that got some
}

// openEpoch is an epoch that isn't closed.
type openEpoch struct {
	lease  uint64 // its last lease entry
	handed bool   // another was opened beside it: it can't be renewed

	volumes bool
	secured bool // its volumes are safe from its owner: it can't be renewed
}

// newest returns the newest open epoch; 0: none is open.
func (m *model) newest() uint64 {
	if len(m.open) == 0 {
		return 0
	}
	return slices.Max(slices.Collect(maps.Keys(m.open)))
}

// oldest returns the oldest open epoch; 0: none is open.
func (m *model) oldest() uint64 {
	if len(m.open) == 0 {
		return 0
	}
	return slices.Min(slices.Collect(maps.Keys(m.open)))
}

func (m *model) lease(epoch uint64) uint64 {
	if e := m.open[epoch]; e != nil {
		return e.lease
	}
	return 0
}

func runRandom(t *testing.T, r *rand.Rand, commands int) {
	l := bornLog(t)
	replica := restored(t, l.state) // joined by snapshot
	m := &model{t: t, owner: map[uint64]*hadv1.Instance{}, open: map[uint64]*openEpoch{}, hooks: map[string]uint64{}, farewells: map[string]uint64{}, guards: map[uint64]bool{}, mounting: map[uint64]bool{}}
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
	if m.handed < 1 || m.parted < 3 {
		t.Errorf("%d epochs were handed over, %d closed by a wait or a guard's word: the mix tests too little", m.handed, m.parted)
	}
	if m.mounts < 5 || m.secured < 3 || m.grown < 1 {
		t.Errorf("%d epochs got as far as to mount, %d were secured, %d got volumes later: the mix tests too little", m.mounts, m.secured, m.grown)
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
	fatal := func(format string, args ...any) {
		m.t.Helper()
		m.t.Fatalf("entry %d: %s; accepted was %v", l.index, fmt.Sprintf(format, args...), cmd)
	}
	switch {
	case cmd.GetAcquire() != nil:
		a := cmd.GetAcquire()
		m.succeed(a, fatal)
		if l.index <= m.lastEpoch || a.GetTerm() != term || a.GetInstance().GetNode() == "gamma" {
			fatal("an epoch after %d", m.lastEpoch)
		}
		m.owner[l.index] = a.GetInstance()
		m.open[l.index], m.lastEpoch, m.move = &openEpoch{lease: l.index, volumes: len(a.GetVolumes()) > 0}, l.index, nil
	case cmd.GetLeaseRenew() != nil:
		r := cmd.GetLeaseRenew()
		e := m.open[r.GetEpoch()]
		if e == nil || e.handed || e.secured || r.GetTerm() != term || !proto.Equal(r.GetInstance(), m.owner[r.GetEpoch()]) {
			fatal("a renewal; open is %+v", e)
		}
		e.lease = l.index
	case cmd.GetExtend() != nil:
		m.extended(cmd.GetExtend(), term, fatal)
	case cmd.GetWaited() != nil:
		ev := cmd.GetWaited().GetEvidence()
		e := m.open[ev.GetEpoch()]
		if e == nil || !e.handed || e.volumes && !e.secured || e.lease != ev.GetLeaseIndex() || ev.GetKind() != hadv1.Evidence_KIND_WAITED || cmd.GetWaited().GetTerm() != term {
			fatal("a wait for an epoch that is %+v", e)
		}
		delete(m.open, ev.GetEpoch())
		m.parted++
	case cmd.GetSecured() != nil:
		r := cmd.GetSecured()
		e := m.open[r.GetEpoch()]
		if e == nil || !e.volumes || !proto.Equal(r.GetInstance(), m.owner[r.GetEpoch()]) || !m.proves(r, e, term, cmd.GetProposer()) {
			fatal("evidence about an epoch that is %+v", e)
		}
		if !e.secured {
			m.secured++
		}
		e.secured = true
	case cmd.GetFarewell() != nil:
		rel := cmd.GetFarewell().GetReleased()
		node := rel.GetReporter().GetNode()
		if rel.GetEpoch() <= m.farewells[node] {
			break // said before
		}
		m.farewells[node], m.guards[l.index] = rel.GetEpoch(), true
		if m.open[rel.GetEpoch()] != nil {
			if !proto.Equal(m.owner[rel.GetEpoch()], rel.GetReporter()) {
				fatal("a guard's word about another run's epoch")
			}
			delete(m.open, rel.GetEpoch())
			m.parted++
		}
	case cmd.GetMoveOrder() != nil:
		if m.move.GetOperation() != cmd.GetMoveOrder().GetOperation() { // or it is a retry
			m.move = cmd.GetMoveOrder()
		}
	case cmd.GetMoveEnd() != nil:
		m.move = nil
	case cmd.GetDeliver() != nil:
		for _, rep := range cmd.GetDeliver().GetReports() {
			if rep.GetSeq() != m.hooks[rep.GetNode()]+1 {
				continue // delivered before
			}
			m.hooks[rep.GetNode()]++
			rel := rep.GetReleased()
			if m.open[rel.GetEpoch()] != nil && m.owner[rel.GetEpoch()].GetNodeId() == rep.GetNodeId() {
				delete(m.open, rel.GetEpoch())
			}
		}
	}
	m.mustBe(l, fatal)
}

// succeed checks the evidence of an Acquire and closes what it closes.
func (m *model) succeed(a *hadv1.Acquire, fatal func(string, ...any)) {
	m.t.Helper()
	before := maps.Clone(m.open)
	for epoch, e := range before {
		ok := false
		for _, ev := range a.GetEvidence() {
			if ev.GetEpoch() != epoch || ok {
				continue
			}
			ok = true
			switch {
			case ev.GetKind() == hadv1.Evidence_KIND_WAITED && ev.GetLeaseIndex() == e.lease && !proto.Equal(a.GetInstance(), m.owner[epoch]) && (!e.volumes || e.secured):
				delete(m.open, epoch)
			case ev.GetKind() == hadv1.Evidence_KIND_HANDED_OVER && !e.handed && len(before) == 1 && m.move.GetFromEpoch() == epoch &&
				m.move.GetTarget() == a.GetInstance().GetNode() && m.owner[epoch].GetNodeId() != a.GetInstance().GetNodeId():
				e.handed = true
				m.handed++
			default:
				ok = false
			}
			break // the first of an epoch counts
		}
		if !ok {
			fatal("two owners: epoch %d (%+v, move %v) is open", epoch, e, m.move)
		}
	}
}

// mustBe compares the state with the model.
func (m *model) mustBe(l *log, fatal func(string, ...any)) {
	m.t.Helper()
	open := l.state.View().Open
	if len(open) != len(m.open) || len(open) > 2 {
		fatal("open epochs are %v, want those of %v", open, m.open)
	}
	renewable := 0
	for _, c := range open {
		e := m.open[c.GetEpoch()]
		if e == nil || c.GetLastLeaseIndex() != e.lease || c.GetHandedTo() != 0 != e.handed ||
			len(c.GetVolumes()) > 0 != e.volumes || c.GetSecured() != nil != e.secured ||
			!proto.Equal(c.GetInstance(), m.owner[c.GetEpoch()]) || c.GetTerms().GetTtlNs() != int64(time.Second) {
			fatal("the claim is %v, want instance %v and %+v", c, m.owner[c.GetEpoch()], e)
		}
		if !e.handed && !e.secured {
			renewable++
		}
	}
	if renewable > 1 {
		fatal("two epochs can be renewed: %v", open)
	}
	m.mount(l, fatal)
	if s := l.state; s.lastEpoch != m.lastEpoch || len(s.history) > HistoryLimit {
		fatal("the last epoch is %d, want %d; %d events", s.lastEpoch, m.lastEpoch, len(s.history))
	}
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
		if m.guards[e.GetIndex()] || e.GetHook() == nil && e.GetReleased() == nil && e.GetProgress() == nil && e.GetCheckChanged() == nil {
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
	newest := m.newest()
	switch n := g.r.IntN(136); {
	case n >= 128:
		return g.extend(l, m)
	case n >= 122:
		return g.notify(l)
	case n < 25:
		return g.acquire(l, m)
	case n >= 110:
		return g.steer(m)
	case n >= 100:
		return g.evidence(m)
	case n < 45:
		in := m.owner[newest]
		if in == nil || g.wrong() {
			in = g.instance(g.node())
		}
		return renewCmd(in, g.near(g.term), g.near(newest))
	case n < 72:
		return g.deliver(m)
	case n < 76:
		old := g.near(m.oldest())
		return &hadv1.Command{Record: &hadv1.Command_Waited{Waited: &hadv1.Waited{Term: g.near(g.term), Evidence: waited(old, g.near(m.lease(old)))}}}
	case n < 80:
		epoch := g.near(m.oldest())
		in := m.owner[epoch]
		if in == nil || g.wrong() {
			in = g.instance(g.node())
		}
		return farewellCmd(in, epoch)
	case n < 92:
		return moveCmd(g.operation(l, m), g.near(newest), g.node())
	case n < 95:
		return moveEndCmd(g.operation(l, m))
	case n < 98:
		return g.policy(l)
	}
	return birthCmd(testBirth())
}

// notify claims and settles messages of two channels.
func (g *generator) notify(l *log) *hadv1.Command {
	channel := []string{"email.ops", "exec.log"}[g.r.IntN(2)]
	c := l.state.View().Channel(channel)
	switch {
	case c.GetClaim() != nil && !g.wrong():
		return markCmd(channel, g.near(c.GetClaimIndex()), hadv1.NotifyMark_Outcome(1+g.r.IntN(3))) //nolint:gosec // 1 to 3
	case g.r.IntN(3) == 0:
		return nothingCmd(g.near(g.term), channel, g.near(c.GetSent()), g.near(l.index))
	}
	return claimCmd(g.near(g.term), channel, g.near(c.GetSent()), g.near(l.index))
}

// acquire is by a node that takes over in its turn, or by the one to which the
// owner moves.
func (g *generator) acquire(l *log, m *model) *hadv1.Command {
	node := g.node()
	handed := m.move != nil && g.r.IntN(4) > 0
	if handed && !g.wrong() {
		node = m.move.GetTarget()
	}
	var evidence []*hadv1.Evidence
	for epoch, e := range m.open {
		ev := waited(g.near(epoch), g.near(e.lease))
		if handed {
			ev.Kind = hadv1.Evidence_KIND_HANDED_OVER
		}
		if g.wrong() {
			ev.Kind = hadv1.Evidence_Kind(g.r.IntN(5)) //nolint:gosec // 0 to 4
		}
		if !g.wrong() {
			evidence = append(evidence, ev)
		}
		if g.wrong() {
			evidence = append(evidence, waited(epoch, g.near(e.lease)))
		}
	}
	cmd := acquireCmd(g.instance(node), g.near(g.term), evidence...)
	if g.r.IntN(3) > 0 {
		cmd = mountsCmd(cmd.GetAcquire().GetInstance(), cmd.GetAcquire().GetTerm(), evidence...)
	}
	cmd.GetAcquire().PolicyVersion = l.state.View().Policy.GetVersion()
	if handed || g.r.IntN(2) == 0 {
		cmd.GetAcquire().MoveOperation = g.operation(l, m)
	}
	return cmd
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
		rep := g.report(node, seq, g.pick(m))
		reports = append(reports, rep)
		g.past = append(g.past, rep)
	}
	return deliverCmd(reports...)
}

// operation is that of the move under way, or a new one.
func (g *generator) operation(l *log, m *model) string {
	if m.move == nil || g.wrong() {
		return fmt.Sprintf("op-%d", l.index)
	}
	return m.move.GetOperation()
}

// pick is the newest open epoch or, if two are open, either.
func (g *generator) pick(m *model) uint64 {
	if g.r.IntN(2) == 0 {
		return m.oldest()
	}
	return m.newest()
}

func (g *generator) report(node string, seq, epoch uint64) *hadv1.Report {
	switch g.r.IntN(5) {
	case 4:
		return checkChange(node, seq, g.near(epoch), g.r.IntN(2) == 0)
	case 0:
		return released(node, seq, g.near(epoch))
	case 1:
		return progress(node, seq, g.near(epoch), hadv1.Progress_Outcome(g.r.IntN(4))) //nolint:gosec // 0 to 3
	}
	return hookResult(node, seq, epoch)
}
