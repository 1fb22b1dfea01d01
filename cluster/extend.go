package cluster

import (
	"slices"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// applyExtend lets the owner of an open epoch mount further volumes. A successor
// that has this entry asks for evidence about them, and every successor has it:
// the owner touches them only after the commit.
func (s *State) applyExtend(e Entry, cmd *hadv1.Command, x *hadv1.Extend) string {
	c := findClaim(s.open, x.GetEpoch())
	switch {
	case x.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", x.GetTerm(), e.Term)
	case c == nil:
		return refuse("epoch %d is closed", x.GetEpoch())
	case !proto.Equal(c.GetInstance(), x.GetInstance()):
		return refuse("epoch %d belongs to another run of had on %s", x.GetEpoch(), c.GetInstance().GetNode())
	case c.GetHandedTo() != 0:
		return refuse("epoch %d has been handed over to epoch %d", x.GetEpoch(), c.GetHandedTo())
	case c.GetSecured() != nil:
		return refuse("the volumes of epoch %d are given to its successor (%s): it is over", x.GetEpoch(), c.GetSecured().GetKind())
	case c.GetTerms().GetReservationKey() != 0:
		return refuse("the disks of epoch %d were reserved together: others need an epoch of their own", x.GetEpoch())
	case s.move != nil:
		return refuse("a move to %s is under way (operation %s): what it hands over stays as it is", s.move.GetOrder().GetTarget(), s.move.GetOrder().GetOperation())
	}
	volumes, terms := AllVolumes(c.GetVolumes(), x.GetVolumes()), x.GetTerms()
	if len(c.GetVolumes()) == 0 {
		terms = withoutVolumes(terms)
	}
	if !proto.Equal(terms, c.GetTerms()) {
		return refuse("epoch %d was opened with other terms: what they promise to a successor stays", x.GetEpoch())
	}
	if !bearable(x.GetTerms()) {
		return refuse("its terms make no sense")
	}
	if why := volumesWrong(&hadv1.Acquire{Volumes: volumes, Terms: x.GetTerms()}, x.GetEpoch()); why != "" {
		return why
	}
	c = proto.CloneOf(c)
	c.Volumes, c.Terms = volumes, x.GetTerms()
	s.replaceClaim(c)
	s.record(e, cmd, &hadv1.Event{Node: c.GetInstance().GetNode(), Epoch: x.GetEpoch(), Body: &hadv1.Event_Extended{Extended: x}})
	return ""
}

// AllVolumes are those of an epoch and those that it gets, each once.
func AllVolumes(had, more []*hadv1.HeldVolume) []*hadv1.HeldVolume {
	all := slices.Clone(had)
	for _, v := range more {
		if !slices.ContainsFunc(had, func(h *hadv1.HeldVolume) bool { return proto.Equal(h, v) }) {
			all = append(all, v)
		}
	}
	return all
}

// withoutVolumes are terms as an epoch without volumes has them.
func withoutVolumes(t *hadv1.Terms) *hadv1.Terms {
	t = proto.CloneOf(t)
	t.FenceMethods, t.WatchdogTimeoutNs, t.VolumeMarginNs = nil, 0, 0
	return t
}
