package cluster

import (
	"cmp"
	"slices"
	"time"

	hadv1 "had/proto/had/v1"
)

// What operators, checks and limits say about who should own. None of it opens,
// renews or closes an epoch: it is read by those who decide.

// LongestFreeze bounds a freeze: one that was forgotten keeps a dead owner from
// being succeeded.
const LongestFreeze = 30 * 24 * time.Hour

// failoversKept is how many of the latest the limits can count.
const failoversKept = 64

func (s *State) applyFreeze(e Entry, cmd *hadv1.Command, f *hadv1.Freeze) string {
	switch {
	case s.frozen != nil && f.GetOperation() != "" && s.frozen.GetFreeze().GetOperation() == f.GetOperation():
		return "" // a retry
	case f.GetForNs() <= 0 || f.GetForNs() > int64(LongestFreeze):
		return refuse("a freeze of %v makes no sense: it lasts above 0 and at most %v", time.Duration(f.GetForNs()), LongestFreeze)
	case !f.GetUntil().IsValid():
		return refuse("the freeze doesn't say until when it lasts")
	}
	s.frozen = &hadv1.Frozen{Freeze: f, Index: e.Index, At: cmd.GetAt()}
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_Frozen{Frozen: f}})
	return ""
}

func (s *State) applyUnfreeze(e Entry, cmd *hadv1.Command, u *hadv1.Unfreeze) string {
	switch {
	case s.frozen == nil:
		return refuse("nothing is frozen")
	case u.GetIndex() != 0 && u.GetIndex() != s.frozen.GetIndex():
		return refuse("the freeze of entry %d is over; another one is in force since", u.GetIndex())
	}
	s.frozen = nil
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_Unfrozen{Unfrozen: u}})
	return ""
}

func (s *State) applyDrain(e Entry, cmd *hadv1.Command, d *hadv1.Drain) string {
	m := s.memberNamed(d.GetNode())
	switch {
	case m == nil:
		return refuse("%q is not a node of this cluster", d.GetNode())
	case m.GetWitness():
		return refuse("%s is a witness and never owns", d.GetNode())
	case s.drained[d.GetNode()] != nil:
		return "" // it is
	}
	s.drained[d.GetNode()] = d
	s.record(e, cmd, &hadv1.Event{Node: d.GetNode(), Body: &hadv1.Event_Drained{Drained: d}})
	return ""
}

func (s *State) applyUndrain(e Entry, cmd *hadv1.Command, u *hadv1.Undrain) string {
	if s.drained[u.GetNode()] == nil {
		return refuse("%s is not drained", u.GetNode())
	}
	delete(s.drained, u.GetNode())
	delete(s.nodes, u.GetNode()) // a person says that it can own again
	s.forgetFailing(u.GetNode())
	s.record(e, cmd, &hadv1.Event{Node: u.GetNode(), Body: &hadv1.Event_Undrained{Undrained: u}})
	return ""
}

func (s *State) applyHold(e Entry, cmd *hadv1.Command, h *hadv1.Hold) string {
	c := findClaim(s.open, h.GetEpoch())
	switch {
	case h.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", h.GetTerm(), e.Term)
	case c == nil || c.GetEpoch() != s.lastEpoch:
		return refuse("epoch %d is over: there is nothing to hold", h.GetEpoch())
	case s.held != nil:
		return "" // it is
	}
	s.held = &hadv1.Held{Hold: h, At: cmd.GetAt()}
	s.record(e, cmd, &hadv1.Event{Node: c.GetInstance().GetNode(), Epoch: h.GetEpoch(), Body: &hadv1.Event_Held{Held: h}})
	return ""
}

func (s *State) applyResume(e Entry, cmd *hadv1.Command, r *hadv1.Resume) string {
	if s.held == nil {
		return refuse("nothing is held")
	}
	s.held, s.failovers, s.failing = nil, nil, nil
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_Resumed{Resumed: r}})
	return ""
}

// applyCheckChange keeps which checks a node said last to be failing. What the
// owner's check says when it passes is about the others, too: where it failed
// before, it need not fail for a reason that all nodes share.
func (s *State) applyCheckChange(e Entry, r *hadv1.Report, ch *hadv1.CheckChange) {
	owner := findClaim(s.open, s.lastEpoch).GetInstance().GetNodeId() == r.GetNodeId()
	var kept []*hadv1.FailingCheck
	for _, f := range s.failing {
		same := f.GetChange().GetCheck() == ch.GetCheck()
		switch {
		case same && f.GetNode() == r.GetNode():
			continue
		case same && owner && !ch.GetFailing() && ch.GetEpoch() == s.lastEpoch:
			f = &hadv1.FailingCheck{Node: f.GetNode(), Change: f.GetChange(), Index: f.GetIndex(), PassedSince: true}
		}
		kept = append(kept, f)
	}
	if ch.GetFailing() {
		kept = append(kept, &hadv1.FailingCheck{Node: r.GetNode(), Change: ch, Index: e.Index})
	}
	slices.SortStableFunc(kept, func(a, b *hadv1.FailingCheck) int {
		return cmp.Or(cmp.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetChange().GetCheck(), b.GetChange().GetCheck()))
	})
	s.failing = kept
}

// forgetFailing lets a node be tried as if none of its checks had ever failed.
func (s *State) forgetFailing(node string) {
	s.failing = slices.DeleteFunc(slices.Clone(s.failing), func(f *hadv1.FailingCheck) bool { return f.GetNode() == node })
}

// countFailover notes what the limits count.
func (s *State) countFailover(f *hadv1.Failover) {
	s.failovers = append(slices.Clone(s.failovers), f)
	if over := len(s.failovers) - failoversKept; over > 0 {
		s.failovers = s.failovers[over:]
	}
}

// scriptFailed returns which script kept an owner's turn from succeeding; empty:
// it was something else.
func scriptFailed(p *hadv1.Progress) string {
	for _, step := range p.GetSteps() {
		if step.GetError() != "" && (step.GetName() == "pre_acq" || step.GetName() == "post_acq") {
			return step.GetError()
		}
	}
	return ""
}

// Failing returns the checks that a node said last to be failing.
func (v View) Failing(node string) (all []*hadv1.FailingCheck) {
	for _, f := range v.FailingChecks {
		if f.GetNode() == node {
			all = append(all, f)
		}
	}
	return all
}
