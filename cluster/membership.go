package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	hadv1 "had/proto/had/v1"
)

// The leader has raft's configuration follow the members of the state: one
// server at a time, for raft's proof needs that the majorities of two
// configurations in a row meet (Raft dissertation, §4.1), and only once an entry
// of its own term is committed, which hashicorp/raft sees to. Whoever leads next
// goes on where the last leader was stopped: what is to be done follows from the
// state and the configuration alone.

// Roster returns the members as this node knows them: of the state, or those it
// was started with while its state is still behind.
func (n *Node) Roster() *hadv1.Roster {
	return laterRoster(n.fsm.roster(), n.cfg.Roster)
}

// laterRoster returns the one of two that knows more; nil is as at birth.
func laterRoster(a, b *hadv1.Roster) *hadv1.Roster {
	if a == nil || b != nil && a.GetIndex() < b.GetIndex() {
		return b
	}
	return a
}

// servers returns raft's configuration: the latest in this node's log.
func (n *Node) servers() (servers []raft.Server, index uint64) {
	r := n.contact.Load()
	if r == nil {
		return nil, 0
	}
	f := r.GetConfiguration()
	if f.Error() != nil { // it has answered already (raft's GetConfiguration)
		return nil, 0
	}
	return f.Configuration().Servers, f.Index()
}

func serverWith(servers []raft.Server, id raft.ServerID) (raft.Server, bool) {
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == id })
	if i < 0 {
		return raft.Server{}, false
	}
	return servers[i], true
}

func isVoter(s raft.Server) bool { return s.Suffrage == raft.Voter }

// voters returns the members that vote by raft's configuration, in the order of
// the roster.
func (n *Node) voters() []*hadv1.Member {
	servers, _ := n.servers()
	servers = slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool { return !isVoter(s) })
	var out []*hadv1.Member
	for _, m := range n.Roster().GetMembers() {
		if _, ok := serverWith(servers, raft.ServerID(m.GetNodeId())); ok {
			out = append(out, m)
		}
	}
	return out
}

// addressOf returns how raft addresses a member: by its name.
func (n *Node) addressOf(id raft.ServerID) raft.ServerAddress {
	servers, _ := n.servers()
	s, _ := serverWith(servers, id)
	return s.Address
}

// voterNamed returns the ID of a voter by raft's configuration.
func (n *Node) voterNamed(name string) (raft.ServerID, bool) {
	servers, _ := n.servers()
	for _, s := range servers {
		if string(s.Address) == name && isVoter(s) {
			return s.ID, true
		}
	}
	return "", false
}

// MemberState is how far a member is, as this node knows.
type MemberState struct {
	Voter  bool   // by raft's configuration
	Has    uint64 // how much of this leader's log it has acknowledged; 0: this node doesn't lead, or it hasn't
	Waits  Waits  // what its change waits for
	LogEnd uint64 // of this node
}

// Waits is what a change of a member waits for.
type Waits struct {
	Why   string // a sentence; empty: nothing
	Third bool   // for a third node: nothing else is missing
}

// MemberState tells how far a member is.
func (n *Node) MemberState(nodeID string) MemberState {
	servers, _ := n.servers()
	s, _ := serverWith(servers, raft.ServerID(nodeID))
	end := n.raft.LastIndex()
	has, _ := n.replicated.by(raft.ServerID(nodeID), n.raft.CurrentTerm())
	if nodeID == n.cfg.Instance.GetNodeId() {
		has = end
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return MemberState{Voter: s.ID != "" && isVoter(s), Has: has, Waits: n.waits[nodeID], LogEnd: end}
}

// followMembers keeps the roster durable and, while this node leads, raft's
// configuration as the roster has it, until ctx ends.
func (n *Node) followMembers(ctx context.Context) {
	kept, f := n.cfg.Roster.GetIndex(), &memberChanges{n: n, rounds: map[string]*round{}}
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		leadership := n.LeadershipChanged()
		view, changed := n.View()
		busy := false
		if r := view.Roster; r.GetIndex() > kept {
			if err := n.keepRoster(r); err != nil {
				n.cfg.Logger.Warn("the list of members was not recorded in the data folder; it is tried again", "error", err)
				busy = true
			} else {
				kept = r.GetIndex()
			}
		}
		// Who is asked for its vote after a restart must be known then.
		if l := n.Leadership(); l.Ready && !busy {
			busy = f.step(ctx, l.Term, view.Roster)
		}
		if busy {
			again.Reset(max(n.cfg.Timing.Detect/4, 50*time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-leadership:
		case <-again.C:
		}
	}
}

func (n *Node) keepRoster(r *hadv1.Roster) error {
	if n.cfg.KeepRoster == nil {
		return nil
	}
	return n.cfg.KeepRoster(r)
}

// memberChanges carries out what MemberAdd and MemberRemove ask for. It belongs to
// followMembers.
type memberChanges struct {
	n      *Node
	rounds map[string]*round // of joining members, by node ID
}

// round is one look at whether a joining member keeps up (Raft dissertation,
// §4.2.1): it has all of the log that there was when the round began.
type round struct {
	term   uint64
	target uint64
	began  time.Time
	keeps  bool // it had, within inStep
}

// inStep is how far behind, in time, a member may be that gets a vote: less than
// what a commit may take.
const inStep = time.Second

// step does one thing for the members that aren't settled, if there is something
// to do, and reports whether it has to be called again.
func (f *memberChanges) step(ctx context.Context, term uint64, r *hadv1.Roster) (busy bool) {
	servers, index := f.n.servers()
	waits := map[string]Waits{}
	defer func() { f.n.setWaits(waits) }()
	for _, m := range r.GetMembers() {
		if Settled(m) {
			continue
		}
		busy = true
		f.measure(m, term, servers)
		why, err := f.advance(ctx, m, term, r, servers, index)
		if err != nil {
			why.Why = err.Error()
			f.n.cfg.Logger.Warn("a change of the members has not gone on; it is tried again", "node", m.GetName(), "error", err)
		}
		waits[m.GetNodeId()] = why
		if why.Why == "" {
			return true // the configuration is another now
		}
	}
	for id := range f.rounds {
		if m := memberWith(r, id); m == nil || Settled(m) {
			delete(f.rounds, id)
		}
	}
	return busy
}

// measure goes on with the round of a joining member.
func (f *memberChanges) measure(m *hadv1.Member, term uint64, servers []raft.Server) {
	id := m.GetNodeId()
	if _, ok := serverWith(servers, raft.ServerID(id)); !ok || m.GetStanding() != hadv1.Member_STANDING_JOINING {
		return
	}
	is := f.rounds[id]
	if is == nil || is.term != term {
		is = &round{term: term, target: f.n.raft.LastIndex(), began: time.Now()}
		f.rounds[id] = is
	}
	if has, _ := f.n.replicated.by(raft.ServerID(id), term); has >= is.target {
		is.keeps = time.Since(is.began) <= inStep
		is.target, is.began = f.n.raft.LastIndex(), time.Now()
	} else if time.Since(is.began) > inStep {
		is.keeps = false
	}
}

// advance takes the next step with a member. It returns why there is none yet.
func (f *memberChanges) advance(ctx context.Context, m *hadv1.Member, term uint64, r *hadv1.Roster, servers []raft.Server, index uint64) (Waits, error) {
	id, to := raft.ServerID(m.GetNodeId()), raft.ServerAddress(m.GetName())
	is, known := serverWith(servers, id)
	n, limit := f.n, 2*f.n.cfg.Timing.TTL
	switch leaving := m.GetStanding() == hadv1.Member_STANDING_LEAVING; {
	case leaving && known:
		if m.GetNodeId() == n.cfg.Instance.GetNodeId() {
			return f.stepDown(ctx, r)
		}
		if why := n.wouldStop(ctx, servers, id, false); why != "" {
			return Waits{Why: why}, nil
		}
		return Waits{}, n.configure(ctx, "take it out of raft's configuration", n.raft.RemoveServer(id, index, limit))
	case leaving, known && isVoter(is):
		// The entry of the configuration comes before this one in the log of this
		// term, so it is committed when this one is.
		_, err := n.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_MemberSettle{MemberSettle: &hadv1.MemberSettle{
			Term: term, NodeId: m.GetNodeId(), Name: m.GetName(), Since: m.GetSince(), Gone: leaving,
		}}})
		return Waits{}, err
	case !known:
		return Waits{}, n.configure(ctx, "add it without a vote", n.raft.AddNonvoter(id, to, index, limit))
	}
	if why := f.unready(m, r, servers); why.Why != "" {
		return why, nil
	}
	if why := n.wouldStop(ctx, servers, id, true); why != "" {
		return Waits{Why: why}, nil
	}
	return Waits{}, n.configure(ctx, "give it a vote", n.raft.AddVoter(id, to, index, limit))
}

// unready says why a member without a vote doesn't get one yet. As the second
// voter it would make things worse: two stop when either dies. So it waits for a
// third, unless somebody accepted that.
func (f *memberChanges) unready(m *hadv1.Member, r *hadv1.Roster, servers []raft.Server) Waits {
	n := f.n
	if is := f.rounds[m.GetNodeId()]; is == nil || !is.keeps {
		has, _ := n.replicated.by(raft.ServerID(m.GetNodeId()), n.raft.CurrentTerm())
		if has == 0 {
			return Waits{Why: fmt.Sprintf("%s hasn't answered yet: is had running there?", m.GetName())}
		}
		return Waits{Why: fmt.Sprintf("%s is catching up with the log: entry %d of %d", m.GetName(), has, n.raft.LastIndex())}
	}
	voters, ready := 0, 0
	for _, s := range servers {
		if isVoter(s) {
			voters++
		}
	}
	for _, o := range r.GetMembers() {
		if is := f.rounds[o.GetNodeId()]; o.GetStanding() == hadv1.Member_STANDING_JOINING && is != nil && is.keeps {
			ready++
		}
	}
	if voters == 1 && ready < 2 && !m.GetTwoVoters() {
		return Waits{Third: true, Why: fmt.Sprintf("%s has the whole log and gets its vote together with a third node: two voters would stop when either dies", m.GetName())}
	}
	return Waits{}
}

// stepDown has another voter lead: a leader doesn't take itself out.
func (f *memberChanges) stepDown(ctx context.Context, r *hadv1.Roster) (Waits, error) {
	n := f.n
	self := n.cfg.Instance.GetNode()
	var err error
	for _, witness := range []bool{false, true} {
		for _, m := range r.GetMembers() {
			if _, voter := n.voterNamed(m.GetName()); !voter || !Settled(m) || m.GetName() == self || m.GetWitness() != witness {
				continue
			}
			if err = n.Transfer(ctx, m.GetName()); err == nil {
				return Waits{Why: self + " has handed leadership on"}, nil
			}
		}
	}
	return Waits{Why: "no other node takes over leadership"}, err
}

// configure waits until raft's new configuration is committed.
func (n *Node) configure(ctx context.Context, what string, f raft.Future) error {
	if err := n.await(ctx, f, max(5*time.Second, 4*n.cfg.Timing.TTL)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// wouldStop says why a change of one voter would leave raft without a majority
// that answers: it takes effect before it is committed, and could then neither be
// committed nor undone. Only its own dead voters keep a cluster from changing.
func (n *Node) wouldStop(ctx context.Context, servers []raft.Server, id raft.ServerID, add bool) string {
	var others []string
	voters := 0
	for _, s := range servers {
		if s.ID == id && add || s.ID != id && isVoter(s) {
			voters++
			if string(s.ID) != n.cfg.Instance.GetNodeId() {
				others = append(others, string(s.Address))
			}
		}
	}
	if n.cfg.Peers == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, max(n.cfg.Timing.Detect, time.Second))
	defer cancel()
	answers := make(chan string, len(others))
	for _, name := range others {
		go func() {
			if _, err := n.cfg.Peers.Contact(ctx, name, &hadv1.ContactRequest{}); err != nil {
				answers <- name
				return
			}
			answers <- ""
		}()
	}
	var silent []string
	for range others {
		if name := <-answers; name != "" {
			silent = append(silent, name)
		}
	}
	if voters-len(silent) > voters/2 {
		return ""
	}
	slices.Sort(silent)
	return fmt.Sprintf("of the %d voters there would be, %s doesn't answer: no majority would be left", voters, strings.Join(silent, " and "))
}

// WouldStop says why this cluster can't do without a voter's vote at present;
// empty: it can.
func (n *Node) WouldStop(ctx context.Context, nodeID string) string {
	servers, _ := n.servers()
	if s, ok := serverWith(servers, raft.ServerID(nodeID)); !ok || !isVoter(s) {
		return ""
	}
	return n.wouldStop(ctx, servers, raft.ServerID(nodeID), false)
}

func (n *Node) setWaits(w map[string]Waits) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waits = w
}
