package cluster

import (
	"slices"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// guardStream is the stream of farewells of a node's guards. Its seq is the
// epoch, for an epoch has one guard and ends once.
const guardStream = "guard"

// evidenceMissing says why an Acquire may not succeed an open claim. This is
// the refusal that keeps two owners from being written down. There are two
// ways past an epoch that was not released: to have waited out its last lease
// entry, where a later entry than the one named makes the wait void; or that
// its owner is the one who ordered the move, and lets go when it is asked. The
// first is not enough for one with volumes, which must have been secured, too;
// by the second it stays open.
func (s *State) evidenceMissing(c *hadv1.Claim, a *hadv1.Acquire) string {
	for i, ev := range a.GetEvidence() {
		if ev.GetEpoch() != c.GetEpoch() {
			continue
		}
		if slices.ContainsFunc(a.GetEvidence()[i+1:], func(o *hadv1.Evidence) bool { return o.GetEpoch() == c.GetEpoch() }) {
			return refuse("it names two kinds of evidence for epoch %d", c.GetEpoch())
		}
		switch ev.GetKind() {
		case hadv1.Evidence_KIND_WAITED:
			if proto.Equal(c.GetInstance(), a.GetInstance()) {
				return refuse("epoch %d is this instance's own: it must be released, not waited for", c.GetEpoch())
			}
			if why := waitVoid(c, ev); why != "" {
				return why
			}
			return volumesUnsafe(c)
		case hadv1.Evidence_KIND_HANDED_OVER:
			return s.notHandedOver(c, a)
		case hadv1.Evidence_KIND_UNSPECIFIED, hadv1.Evidence_KIND_RELEASED, hadv1.Evidence_KIND_REBOOTED:
		}
		return refuse("epoch %d of %s can't be closed by %s in an Acquire", c.GetEpoch(), c.GetInstance().GetNode(), ev.GetKind())
	}
	return refuse("epoch %d of %s is still open", c.GetEpoch(), c.GetInstance().GetNode())
}

// waitVoid says why a wait doesn't count for a claim; empty: it does.
func waitVoid(c *hadv1.Claim, ev *hadv1.Evidence) string {
	if ev.GetLeaseIndex() != c.GetLastLeaseIndex() {
		return refuse("the lease of epoch %d was renewed at entry %d; the wait was for entry %d", c.GetEpoch(), c.GetLastLeaseIndex(), ev.GetLeaseIndex())
	}
	return ""
}

// volumesUnsafe says why a wait for the addresses isn't enough to close a claim;
// empty: it is. Time that passes stops no write.
func volumesUnsafe(c *hadv1.Claim) string {
	if why := WhyNotSecured(c); why != "" {
		return refuse("epoch %d is still open: %s", c.GetEpoch(), why)
	}
	return ""
}

// notHandedOver says why an Acquire may not open an epoch beside a claim.
func (s *State) notHandedOver(c *hadv1.Claim, a *hadv1.Acquire) string {
	o := s.move.GetOrder()
	switch {
	case o == nil || a.GetMoveOperation() != o.GetOperation() || o.GetFromEpoch() != c.GetEpoch():
		return refuse("no move away from epoch %d is under way: its owner has not offered to let go", c.GetEpoch())
	case c.GetHandedTo() != 0:
		return refuse("epoch %d has been handed over to epoch %d already", c.GetEpoch(), c.GetHandedTo())
	case c.GetInstance().GetNodeId() == a.GetInstance().GetNodeId():
		return refuse("epoch %d is this node's own: it must be released", c.GetEpoch())
	case len(s.open) > 1:
		return refuse("another epoch than %d is open, too: it must be closed first", c.GetEpoch())
	}
	return ""
}

func (s *State) handOver(c *hadv1.Claim, to uint64) {
	c = proto.CloneOf(c)
	c.HandedTo = to
	s.replaceClaim(c)
}

// close ends a claim that a successor accounts for.
func (s *State) close(c *hadv1.Claim, ev *hadv1.Evidence) *hadv1.Event {
	s.closeClaim(c.GetEpoch())
	if isDoubtful(c.GetSecured().GetKind()) {
		s.doubted = c.GetEpoch()
	}
	return &hadv1.Event{Node: c.GetInstance().GetNode(), Epoch: c.GetEpoch(), Body: &hadv1.Event_Closed{Closed: ev}}
}

// applyWaited closes an epoch that was handed over and never released.
func (s *State) applyWaited(e Entry, cmd *hadv1.Command, w *hadv1.Waited) string {
	ev := w.GetEvidence()
	c := findClaim(s.open, ev.GetEpoch())
	switch {
	case w.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", w.GetTerm(), e.Term)
	case c == nil:
		return refuse("epoch %d is closed", ev.GetEpoch())
	case c.GetHandedTo() == 0:
		return refuse("epoch %d was not handed over: only an Acquire may close it by a wait", ev.GetEpoch())
	case ev.GetKind() != hadv1.Evidence_KIND_WAITED:
		return refuse("epoch %d can't be closed by %s here", ev.GetEpoch(), ev.GetKind())
	}
	if why := waitVoid(c, ev); why != "" {
		return why
	}
	if why := volumesUnsafe(c); why != "" {
		return why
	}
	s.record(e, cmd, s.close(c, ev))
	return ""
}

// applyFarewell takes what a guard says of its dead daemon's epoch, once. It
// closes the epoch only when it is of that very run: the guard has seen it
// die. A farewell that comes after the epoch was closed is history.
func (s *State) applyFarewell(e Entry, cmd *hadv1.Command, f *hadv1.Farewell) string {
	rel := f.GetReleased()
	reporter := rel.GetReporter()
	m := s.member(f.GetNodeId())
	switch {
	case m == nil || reporter.GetNodeId() != f.GetNodeId() || reporter.GetNode() != m.GetName():
		return refuse("%s with ID %s is not a member: its guard's word counts for nothing", reporter.GetNode(), f.GetNodeId())
	case rel.GetKind() != hadv1.Evidence_KIND_RELEASED:
		return refuse("a guard can't report %s", rel.GetKind())
	case rel.GetEpoch() > s.lastEpoch:
		// Taken, it would make every true farewell to come look like a repeat.
		return refuse("epoch %d was never opened; the last was %d", rel.GetEpoch(), s.lastEpoch)
	}
	key := streamKey{f.GetNodeId(), guardStream}
	if rel.GetEpoch() <= s.delivered[key] {
		return "" // another node has passed it on already
	}
	c := findClaim(s.open, rel.GetEpoch())
	if c != nil && !proto.Equal(c.GetInstance(), reporter) {
		return refuse("epoch %d belongs to another run of had on %s", rel.GetEpoch(), c.GetInstance().GetNode())
	}
	s.delivered[key] = rel.GetEpoch()
	if c != nil {
		s.closeClaim(rel.GetEpoch())
	}
	s.record(e, cmd, &hadv1.Event{
		Node: m.GetName(), Epoch: rel.GetEpoch(), At: f.GetAt(), Body: &hadv1.Event_Released{Released: rel},
	})
	return ""
}
