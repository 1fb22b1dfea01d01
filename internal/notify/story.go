package notify

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Severity is how soon somebody should look.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // all is well again, or as somebody wanted it
	Warning  Severity = "warning"  // look when you can: less is left to fail, or something failed
	Critical Severity = "critical" // look now: nobody serves, or had waits for a person
)

func (s Severity) rank() int {
	return slices.Index([]Severity{Info, Warning, Critical}, s)
}

// Item is one thing that people are told.
type Item struct {
	Index    uint64 // place of its event in the log
	Sub      uint32
	At       time.Time // when it happened, by the wall clock of who saw it
	Topic    policy.Topic
	Severity Severity
	Node     string // whom it is about
	Epoch    uint64 // 0: none
	Title    string // a phrase, for a subject
	Text     string // a sentence or two
}

// story is what the history comes to for people: of all its events those that
// are worth telling, each once. It is read from the oldest event that is kept,
// so every leader comes to the same story.
type story struct {
	mu    sync.Mutex
	seen  uint64 // log index: everything up to it is read
	items []Item // oldest first

	owners  []string          // that may own, by the birth record
	turns   map[uint64]turn   // of the latest epochs
	latest  uint64            // epoch
	owner   string            // in it
	lost    bool              // its owner was released by force
	served  uint64            // the latest epoch that somebody was seen to serve in
	refused map[string]string // why a node would not own, since somebody served
	silent  map[string]bool
	waiting map[uint64]bool   // epochs whose volumes are waited for
	fenced  map[string]string // the latest failure, by epoch and method

	frozen  *hadv1.Freeze     // in force
	held    bool              // checks and scripts change nothing
	failing map[string]bool   // checks of which it was told, by node and name
	holds   map[string]string // syncs that are held: the owner whose data they would copy
	amiss   map[matter]bool   // syncs and tokens of which it was told, by node and name
	expires map[string]uint32 // certificates of which it was told: how many days before
}

// turn is how an epoch began.
type turn struct {
	acquire *hadv1.Acquire
	from    string // who owned before; empty: nobody, or the history no longer knows
	planned bool   // nothing failed
}

// ofSilence reports whether an owner had to be waited for.
func ofSilence(e *hadv1.Evidence) bool { return e.GetKind() != hadv1.Evidence_KIND_HANDED_OVER }

func newStory() *story {
	return &story{
		turns: map[uint64]turn{}, refused: map[string]string{}, silent: map[string]bool{},
		waiting: map[uint64]bool{}, fenced: map[string]string{},
		failing: map[string]bool{}, holds: map[string]string{}, amiss: map[matter]bool{}, expires: map[string]uint32{},
	}
}

// history is the part of the log that a story is read from.
type history interface {
	View() (cluster.View, <-chan struct{})
	History(after uint64) ([]*hadv1.Event, uint64)
}

// read goes on to the newest event and returns the log index it has come to.
func (s *story) read(log history) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.owners) == 0 {
		view, _ := log.View()
		for _, m := range view.Roster.GetMembers() {
			if !m.GetWitness() {
				s.owners = append(s.owners, m.GetName())
			}
		}
	}
	events, _ := log.History(s.seen)
	for _, e := range events {
		s.seen = e.GetIndex()
		if it, ok := s.tell(e); ok {
			it.Index, it.Sub, it.At, it.Epoch = e.GetIndex(), e.GetSub(), e.GetAt().AsTime(), e.GetEpoch()
			it.Title, it.Text = line(it.Title, maxTitle), line(it.Text, maxText)
			if it.Node == "" {
				it.Node = e.GetNode()
			}
			s.items = append(s.items, it)
		}
	}
	s.items = s.items[max(0, len(s.items)-cluster.HistoryLimit):]
	return s.seen
}

// between returns what there is to tell of the entries after one up to another.
func (s *story) between(after, through uint64, topics []policy.Topic) (out []Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.items {
		if it.Index > after && it.Index <= through && (topics == nil || slices.Contains(topics, it.Topic)) {
			out = append(out, it)
		}
	}
	return out
}

// told reports what the story says of a node and of an epoch's volumes.
func (s *story) told(node string, epoch uint64) (silent, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent[node], s.waiting[epoch]
}

// keptTurns is how many of the latest epochs are remembered.
const keptTurns = 16

// tell takes an event into the story; ok is false when it is not worth telling.
func (s *story) tell(e *hadv1.Event) (it Item, ok bool) {
	switch b := e.GetBody().(type) {
	case *hadv1.Event_Acquired:
		s.turns[e.GetEpoch()] = turn{
			acquire: b.Acquired, from: s.owner, planned: !s.lost && !slices.ContainsFunc(b.Acquired.GetEvidence(), ofSilence),
		}
		s.latest, s.owner, s.lost = e.GetEpoch(), e.GetNode(), false
		if len(s.turns) > keptTurns {
			delete(s.turns, slices.Min(slices.Collect(maps.Keys(s.turns))))
		}
		return Item{}, false // serving is what counts, and comes next
	case *hadv1.Event_Progress:
		return s.progress(e, b.Progress)
	case *hadv1.Event_Released:
		// What an earlier owner gives back after another has taken over is
		// the end of a story that was told.
		if !b.Released.GetForced() || e.GetEpoch() < s.latest {
			return Item{}, false
		}
		s.lost = true
		return forced(e, b.Released), true
	case *hadv1.Event_Hook:
		return script(e, b.Hook)
	case *hadv1.Event_MoveEnded:
		return Item{
			Topic: policy.TopicMove, Severity: Warning, Title: fmt.Sprintf("the move to %s did not happen", e.GetNode()),
			Text: fmt.Sprintf("The move to %s ended without a hand-over: %s.", e.GetNode(), b.MoveEnded.GetWhy()),
		}, true
	case *hadv1.Event_Secured:
		return secured(e, b.Secured), true
	case *hadv1.Event_FenceTry:
		return s.fenceTry(e, b.FenceTry)
	case *hadv1.Event_PolicyApplied:
		clear(s.refused) // it may mend what they refused for
		return policyApplied(b.PolicyApplied), true
	case *hadv1.Event_Notice:
		return s.notice(e, b.Notice)
	case *hadv1.Event_Notified:
		return undelivered(b.Notified)
	case *hadv1.Event_Sync:
		return s.sync(e, b.Sync)
	case *hadv1.Event_SyncResumed:
		delete(s.holds, b.SyncResumed.GetName())
		return syncResumed(b.SyncResumed), true
	}
	return s.steered(e)
}

// progress tells the first time that somebody serves in an epoch, and the first
// refusal of each node after that.
func (s *story) progress(e *hadv1.Event, p *hadv1.Progress) (Item, bool) {
	switch p.GetOutcome() {
	case hadv1.Progress_OUTCOME_SERVING:
		clear(s.refused)
		if e.GetEpoch() <= s.served {
			return Item{}, false // it has only taken on another policy
		}
		s.served = e.GetEpoch()
		return serving(e, p, s.turns[e.GetEpoch()]), true
	case hadv1.Progress_OUTCOME_FAILED, hadv1.Progress_OUTCOME_VETOED:
		if _, told := s.refused[e.GetNode()]; told {
			return Item{}, false // it tries again and again
		}
		s.refused[e.GetNode()] = p.GetReason()
		return s.refusal(e, p), true
	case hadv1.Progress_OUTCOME_UNSPECIFIED:
	}
	return Item{}, false
}

// refusal tells that a node doesn't own, or that none is left that would.
func (s *story) refusal(e *hadv1.Event, p *hadv1.Progress) Item {
	left := slices.DeleteFunc(slices.Clone(s.owners), func(n string) bool { _, ok := s.refused[n]; return ok })
	it := Item{Topic: policy.TopicVetoed, Severity: Warning, Title: e.GetNode() + " would not take over"}
	it.Text = fmt.Sprintf("%s would not take its turn: %s.", e.GetNode(), p.GetReason())
	if p.GetOutcome() == hadv1.Progress_OUTCOME_FAILED {
		it.Topic, it.Title = policy.TopicFailed, e.GetNode()+" gave its turn back"
		it.Text = fmt.Sprintf("%s gave its turn back: %s.", e.GetNode(), p.GetReason())
	}
	if len(left) == 0 && len(s.owners) > 0 {
		it.Topic, it.Severity, it.Title = policy.TopicNobody, Critical, "nobody owns: no node is left that would"
		for _, n := range s.owners {
			if n != e.GetNode() {
				it.Text += fmt.Sprintf(" Before it %s: %s.", n, s.refused[n])
			}
		}
		it.Text += " They are tried again; look at hactl status."
	}
	return it
}

func (s *story) fenceTry(e *hadv1.Event, t *hadv1.FenceTry) (Item, bool) {
	key := fmt.Sprintf("%d %s", e.GetEpoch(), t.GetMethod())
	if _, told := s.fenced[key]; told || t.GetError() == "" {
		return Item{}, false // a success is followed by a Secured
	}
	if len(s.fenced) > keptTurns {
		clear(s.fenced)
	}
	s.fenced[key] = t.GetError()
	return Item{
		Topic: policy.TopicVolumes, Severity: Critical, Node: t.GetNode(), Title: t.GetNode() + " could not be switched off",
		Text: fmt.Sprintf("%s was not seen to be off (%s): %s. Its volumes wait.", t.GetNode(), t.GetMethod(), t.GetError()),
	}, true
}

// notice tells what a node has reported, unless the story says so already: two
// leaders may both have seen it.
func (s *story) notice(e *hadv1.Event, r *hadv1.Notice) (Item, bool) {
	switch node := r.GetNode(); r.GetKind() {
	case hadv1.Notice_KIND_SILENT:
		if s.silent[node] {
			return Item{}, false
		}
		s.silent[node] = true
		it := Item{
			Topic: policy.TopicNode, Severity: Warning, Node: node, Title: node + " doesn't answer",
			Text: fmt.Sprintf("%s has not answered since %s. %s", node, clockTime(r.GetSince().AsTime()), r.GetDetail()),
		}
		if s.frozen != nil && node == s.owner {
			it.Severity, it.Title = Critical, node+" doesn't answer, and ownership is frozen"
			it.Text += " Nobody takes over from it before the freeze is over: hactl unfreeze ends it."
		}
		return it, true
	case hadv1.Notice_KIND_BACK:
		if !s.silent[node] {
			return Item{}, false
		}
		delete(s.silent, node)
		return Item{
			Topic: policy.TopicNode, Severity: Info, Node: node, Title: node + " answers again", Text: node + " answers again.",
		}, true
	case hadv1.Notice_KIND_WAITING:
		if s.waiting[r.GetEpoch()] {
			return Item{}, false
		}
		if len(s.waiting) > keptTurns {
			clear(s.waiting)
		}
		s.waiting[r.GetEpoch()] = true
		return Item{
			Topic: policy.TopicWaiting, Severity: Critical, Node: node, Title: "volumes of " + node + " wait",
			Text: fmt.Sprintf("Nobody owns: the volumes of %s wait until it is certain that it no longer writes to them. %s", node, r.GetDetail()),
		}, true
	case hadv1.Notice_KIND_CUT_OFF:
		away := e.GetAt().AsTime().Sub(r.GetSince().AsTime()).Round(time.Second)
		return Item{
			Topic: policy.TopicCutOff, Severity: Warning, Node: node, Title: fmt.Sprintf("%s was without quorum for %s", node, away),
			Text: fmt.Sprintf("%s could reach no majority of the nodes from %s on, for %s. It can now.", node, clockTime(r.GetSince().AsTime()), away),
		}, true
	case hadv1.Notice_KIND_SYNC_FAILS, hadv1.Notice_KIND_TOKEN_AMISS, hadv1.Notice_KIND_TOKEN_PLACED:
		return s.kept(r)
	case hadv1.Notice_KIND_CERTIFICATE:
		return s.expiring(r)
	case hadv1.Notice_KIND_UNSPECIFIED:
	}
	return Item{}, false
}
