package cluster

import (
	"maps"
	"slices"
	"sort"

	hadv1 "had/proto/had/v1"
)

// HistoryLimit is how many events the state keeps; the oldest go first, and
// how many went is counted.
const HistoryLimit = 2000

// Entry places a command in the log.
type Entry struct {
	Index uint64
	Term  uint64
}

// State is what every node computes from the log. It changes only through
// Apply. It is not safe for concurrent use: FSM guards it.
//
// Invariant: messages reachable from a State are never changed in place, so
// that a View may share them.
type State struct {
	applied   uint64
	birth     *hadv1.Birth
	roster    *hadv1.Roster // nil: there was no birth yet
	policy    *hadv1.Policy
	open      []*hadv1.Claim // epochs not closed yet, oldest first
	lastEpoch uint64         // epochs only grow
	lastOwner string
	nodes     map[string]*hadv1.NodeRecord
	move      *hadv1.Move
	lastMove  *hadv1.Move          // the latest that has ended
	delivered map[streamKey]uint64 // every report up to the seq has been applied
	history   []*hadv1.Event       // oldest first
	dropped   uint64
	doubted   uint64                 // the latest epoch whose volumes nobody saw to be safe; 0: mounted since
	tokens    []*hadv1.Token         // ordered by name; never changed in place
	notify    []*hadv1.NotifyChannel // ordered by channel
	syncs     *hadv1.SyncState       // nil: nobody has owned since there are syncs

	frozen    *hadv1.Frozen           // nil: it isn't
	drained   map[string]*hadv1.Drain // by node
	failing   []*hadv1.FailingCheck   // by node and check
	failovers []*hadv1.Failover       // that the limits count, oldest first
	held      *hadv1.Held             // nil: it isn't

	earlier []*hadv1.Policy     // that were in force before policy, oldest first; see boundPolicies
	trial   *hadv1.PolicyTrial  // of policy; nil: it is there for good
	level   *hadv1.LevelInForce // nil: the first
}

type streamKey struct{ nodeID, stream string }

// NewState returns the state before the first entry.
func NewState() *State {
	return &State{nodes: map[string]*hadv1.NodeRecord{}, drained: map[string]*hadv1.Drain{}, delivered: map[streamKey]uint64{}}
}

// View is a State at one moment, for reading only.
type View struct {
	Applied   uint64 // index of the last entry applied
	Birth     *hadv1.Birth
	Roster    *hadv1.Roster // of a Node's view never nil
	Policy    *hadv1.Policy // nil until the first apply
	Open      []*hadv1.Claim
	LastEpoch uint64
	LastOwner string
	Nodes     map[string]*hadv1.NodeRecord // only nodes that failed a turn since their last success
	Move      *hadv1.Move
	LastMove  *hadv1.Move // the latest that has ended
	// Doubted is the latest epoch whose volumes were taken over on no more than
	// the passing of time or a person's word; 0: somebody has mounted them since.
	Doubted uint64
	Tokens  []*hadv1.Token         // contents of replicated reconnect tokens, sealed; ordered by name
	Notify  []*hadv1.NotifyChannel // ordered by channel; see Channel
	Syncs   *hadv1.SyncState       // see SyncHeld; nil: nobody has owned since there are syncs

	Frozen        *hadv1.Frozen           // nil: it isn't
	Drained       map[string]*hadv1.Drain // by node
	FailingChecks []*hadv1.FailingCheck   // as each node said last, by node and check
	Failovers     []*hadv1.Failover       // caused by checks or scripts, oldest first
	Held          *hadv1.Held             // nil: it isn't

	EarlierPolicies []*hadv1.Policy     // oldest first; older ones have no text any more
	Trial           *hadv1.PolicyTrial  // of Policy: it is undone unless it is confirmed; nil: it is there for good
	LevelRise       *hadv1.LevelInForce // nil: records are of the first level; see Level
}

// View returns the state without its history.
func (s *State) View() View {
	return View{
		Applied: s.applied, Birth: s.birth, Roster: s.roster, Policy: s.policy,
		Open: slices.Clone(s.open), LastEpoch: s.lastEpoch, LastOwner: s.lastOwner,
		Nodes: maps.Clone(s.nodes), Move: s.move, LastMove: s.lastMove, Doubted: s.doubted,
		Tokens: s.tokens, Notify: s.notify, Syncs: s.syncs,
		Frozen: s.frozen, Drained: maps.Clone(s.drained), FailingChecks: s.failing, Failovers: s.failovers, Held: s.held,
		EarlierPolicies: s.earlier, Trial: s.trial,
		LevelRise: s.level,
	}
}

// Claim returns the open claim of an epoch, nil when it is closed or unknown.
func (v View) Claim(epoch uint64) *hadv1.Claim { return findClaim(v.Open, epoch) }

// Newest returns the open claim with the highest epoch, nil when there is none.
func (v View) Newest() *hadv1.Claim {
	if len(v.Open) == 0 {
		return nil
	}
	return v.Open[len(v.Open)-1]
}

// History returns the kept events after a log index, and how many older ones
// the bound has cut off in all.
func (s *State) History(after uint64) (events []*hadv1.Event, dropped uint64) {
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].GetIndex() > after })
	return slices.Clone(s.history[i:]), s.dropped
}

func findClaim(open []*hadv1.Claim, epoch uint64) *hadv1.Claim {
	i := slices.IndexFunc(open, func(c *hadv1.Claim) bool { return c.GetEpoch() == epoch })
	if i < 0 {
		return nil
	}
	return open[i]
}

// replaceClaim swaps in a changed copy of an open claim.
func (s *State) replaceClaim(c *hadv1.Claim) {
	s.open = slices.Clone(s.open)
	i := slices.IndexFunc(s.open, func(o *hadv1.Claim) bool { return o.GetEpoch() == c.GetEpoch() })
	s.open[i] = c
}

func (s *State) closeClaim(epoch uint64) {
	s.open = slices.DeleteFunc(slices.Clone(s.open), func(c *hadv1.Claim) bool { return c.GetEpoch() == epoch })
}
