package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// LevelError says that a record isn't proposed because some member's had would
// not read it as this one does. Nothing changed.
type LevelError struct {
	Needs   uint32
	InForce uint32
	What    string   // the record or field that needs it
	Behind  []string // who keeps the group from it, and what to do: parts of a sentence
}

func (e *LevelError) Error() string {
	return fmt.Sprintf("records of level %d are needed for this (%s), and the log stays at level %d until every node reads them: %s",
		e.Needs, e.What, e.InForce, strings.Join(e.Behind, "; "))
}

// Level is the latest level that records of the log may have. It only grows.
func (v View) Level() uint32 { return level.Of(v.LevelRise.GetRise().GetLevel()) }

func (s *State) levelInForce() uint32 { return level.Of(s.level.GetRise().GetLevel()) }

func (s *State) applyLevelRise(e Entry, cmd *hadv1.Command, r *hadv1.LevelRise) string {
	switch {
	case r.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
	case s.birth == nil:
		return refuse("the cluster isn't born yet: nobody knows whom to ask")
	case r.GetLevel() <= s.levelInForce():
		return refuse("the log is at level %d already", s.levelInForce())
	}
	said := map[string]uint32{}
	for _, m := range r.GetMembers() {
		said[m.GetNodeId()] = level.Of(m.GetLevel())
	}
	for _, m := range readers(s.roster.GetMembers(), r.GetExcept()) {
		if said[m.GetNodeId()] < r.GetLevel() {
			return refuse("%s was not heard to read records of level %d", m.GetName(), r.GetLevel())
		}
	}
	s.level = &hadv1.LevelInForce{Rise: r, Index: e.Index}
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_LevelRisen{LevelRisen: r}})
	return ""
}

// errTooOld is matched by what ends a had that is older than the log it finds.
var errTooOld = errors.New("this had is too old for its cluster")

// tooOld says that this had can't go on with a log; nil: it can.
func tooOld(r *hadv1.LevelRise) error {
	if r.GetLevel() <= level.Known {
		return nil
	}
	var by []string
	for _, m := range r.GetMembers() {
		by = append(by, m.GetNode()+" "+m.GetVersion())
	}
	return fmt.Errorf("%w: the cluster's log has records of level %d, and this had reads up to level %d. When the log's level rose the nodes ran %s: install that version or a later one here",
		errTooOld, r.GetLevel(), level.Known, strings.Join(by, ", "))
}

// askLimit is how long members have to say their level.
const askLimit = 2 * time.Second

// admit makes sure that every member reads a command as this node does, before
// it is proposed: the log's level rises first where it is too low.
//
// It rises when something needs it and not before: until then any node can go
// back to the had it ran.
func (n *Node) admit(ctx context.Context, cmd *hadv1.Command) error {
	needs, what := n.needs(cmd)
	if needs <= n.fsm.levelInForce() || cmd.GetLevelRise() != nil {
		return nil
	}
	if ownership(cmd) {
		return &LevelError{needs, n.fsm.levelInForce(), what, []string{"nobody is asked on the way to ownership (hactl upgrade finish)"}}
	}
	_, err := n.raiseLevel(ctx, needs, "", what, n.removed(cmd.GetMemberRemove()))
	return err
}

// RaiseLevel has all members asked whether they read records of a level, and if
// they do, lets the log have them. The index is 0 if it had already. A member that
// doesn't answer counts as reading what it said last in the log, which is the level
// in force. Errors are Propose's.
func (n *Node) RaiseLevel(ctx context.Context, needs uint32, by, reason string) (index uint64, err error) {
	return n.raiseLevel(ctx, needs, by, reason, "")
}

func (n *Node) raiseLevel(ctx context.Context, needs uint32, by, reason, except string) (index uint64, err error) {
	n.rising.Lock()
	defer n.rising.Unlock()
	l := n.Leadership()
	if !l.Ready {
		return 0, ErrNotLeader
	}
	view, _ := n.fsm.view()
	if needs <= view.Level() {
		return 0, nil
	}
	said, behind := n.askLevels(ctx, view, needs, except)
	if len(behind) > 0 {
		what := reason
		if by != "" {
			what = "to finish the upgrade"
		}
		return 0, &LevelError{needs, view.Level(), what, behind}
	}
	v, err := n.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_LevelRise{LevelRise: &hadv1.LevelRise{
		Term: l.Term, Level: needs, Members: said, By: by, Reason: reason, Except: except,
	}}})
	if err != nil {
		return 0, fmt.Errorf("let records of level %d into the log: %w", needs, err)
	}
	n.cfg.Logger.Info("the log's level has risen: no older had reads it any more", "level", needs, "for", reason)
	return v.Index, nil
}

// removed returns the node ID of the member that a record removes: a dead node,
// or one whose had can't be upgraded, must not keep itself from being removed.
func (n *Node) removed(r *hadv1.MemberRemove) string {
	if r == nil || r.GetNodeId() != "" {
		return r.GetNodeId()
	}
	view, _ := n.fsm.view()
	for _, m := range view.Roster.GetMembers() {
		if m.GetName() == r.GetName() {
			return m.GetNodeId()
		}
	}
	return ""
}

// readers are the members that must read what the log has: not those that leave,
// and not the one that is about to.
func readers(members []*hadv1.Member, except string) (out []*hadv1.Member) {
	for _, m := range members {
		if m.GetStanding() != hadv1.Member_STANDING_LEAVING && m.GetNodeId() != except {
			out = append(out, m)
		}
	}
	return out
}

// ownership reports whether a command is one that an owner lives by, or the next
// one waits for: it must never depend on whether others answer.
func ownership(cmd *hadv1.Command) bool {
	switch cmd.GetRecord().(type) {
	case *hadv1.Command_Acquire, *hadv1.Command_LeaseRenew, *hadv1.Command_Deliver, *hadv1.Command_MoveOrder, *hadv1.Command_MoveEnd,
		*hadv1.Command_Waited, *hadv1.Command_Farewell, *hadv1.Command_Secured:
		return true
	}
	return false
}

// askLevels asks all members what they know, and says who knows less than needed.
func (n *Node) askLevels(ctx context.Context, view View, needs uint32, except string) (said []*hadv1.MemberLevel, behind []string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	members := readers(view.Roster.GetMembers(), except)
	said, wrong := make([]*hadv1.MemberLevel, len(members)), make([]string, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		said[i] = &hadv1.MemberLevel{Node: m.GetName(), NodeId: m.GetNodeId(), Level: level.Known, Version: n.cfg.Version}
		if m.GetNodeId() == n.cfg.Instance.GetNodeId() {
			continue
		}
		wg.Go(func() {
			h, err := n.health(ctx, m)
			if err != nil {
				said[i].Level, said[i].Version = view.Level(), ""
				wrong[i] = fmt.Sprintf("%s doesn't answer, and what it said last is level %d (start had there)", m.GetName(), view.Level())
				return
			}
			said[i].Level, said[i].Version = level.Of(h.GetRecordLevel()), h.GetVersion()
			wrong[i] = fmt.Sprintf("%s runs had %s, which reads up to level %d (upgrade it first)", m.GetName(), h.GetVersion(), said[i].GetLevel())
		})
	}
	wg.Wait()
	for i := range said {
		if said[i].GetLevel() < needs {
			behind = append(behind, wrong[i])
		}
	}
	return said, behind
}

// health asks a member; the answer is of the node that the log knows by its name.
func (n *Node) health(ctx context.Context, m *hadv1.Member) (*hadv1.HealthResponse, error) {
	if n.cfg.Peers == nil {
		return nil, errors.New("nobody can be asked")
	}
	h, err := n.cfg.Peers.Health(ctx, m.GetName())
	if err == nil && h.GetInstance().GetNodeId() != m.GetNodeId() {
		return nil, fmt.Errorf("it is another node, with ID %s", h.GetInstance().GetNodeId())
	}
	return h, err
}
