package cluster

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// The members are part of the state: those of the birth, and what MemberAdd,
// MemberRemove and MemberSettle have made of them. A record says what shall be;
// the leader has raft's configuration follow (membership.go), one change at a
// time, and records when it has.

// MostMembers bounds a cluster, as had.hcl does: each more makes every commit
// wait for a larger majority.
const MostMembers = 7

// Settled reports whether a member votes and may own, or lead for long.
func Settled(m *hadv1.Member) bool {
	return m.GetStanding() == hadv1.Member_STANDING_UNSPECIFIED
}

// member returns the member with a node ID, nil for a stranger.
func (s *State) member(nodeID string) *hadv1.Member { return memberWith(s.roster, nodeID) }

func (s *State) memberNamed(name string) *hadv1.Member {
	for _, m := range s.roster.GetMembers() {
		if m.GetName() == name {
			return m
		}
	}
	return nil
}

func memberWith(r *hadv1.Roster, nodeID string) *hadv1.Member {
	for _, m := range r.GetMembers() {
		if m.GetNodeId() == nodeID {
			return m
		}
	}
	return nil
}

// bornRoster is who belongs to a cluster at its birth.
func bornRoster(b *hadv1.Birth) *hadv1.Roster { return &hadv1.Roster{Members: b.GetMembers()} }

func (s *State) applyMemberAdd(e Entry, cmd *hadv1.Command, a *hadv1.MemberAdd) string {
	is := a.GetMember()
	switch {
	case s.birth == nil:
		return refuse("the birth of the cluster isn't in the log yet: try again in a moment")
	case is.GetName() == "" || is.GetAddress() == "" || is.GetNodeId() == "":
		return refuse("a member needs a name, an address and a node ID")
	}
	for _, d := range s.roster.GetDeparted() {
		if d.GetNodeId() == is.GetNodeId() {
			return refuse("%s brings the data folder of %s, which was removed from this cluster and never comes back: stop its had, empty its data_dir, start it and add it again", is.GetName(), d.GetName())
		}
	}
	for _, m := range s.roster.GetMembers() {
		switch {
		case m.GetNodeId() == is.GetNodeId() && m.GetName() == is.GetName():
			if m.GetStanding() == hadv1.Member_STANDING_LEAVING {
				return refuse("%s is being removed: wait until it is gone, empty its data_dir and add it again", m.GetName())
			}
			return s.accept(m, a.GetTwoVoters()) // a retry
		case strings.EqualFold(m.GetName(), is.GetName()):
			return refuse("%s is a member already, with another data folder: to replace it, hactl node remove %s first", m.GetName(), m.GetName())
		case m.GetNodeId() == is.GetNodeId():
			return refuse("the data folder of %s is that of %s", is.GetName(), m.GetName())
		case m.GetAddress() == is.GetAddress():
			return refuse("%s has the address %s", m.GetName(), m.GetAddress())
		}
	}
	if n := len(s.roster.GetMembers()); n >= MostMembers {
		return refuse("the cluster has %d nodes, and more than %d are not allowed", n, MostMembers)
	}
	m := &hadv1.Member{
		Name: is.GetName(), Address: is.GetAddress(), Witness: is.GetWitness(), NodeId: is.GetNodeId(),
		Standing: hadv1.Member_STANDING_JOINING, Since: e.Index, At: cmd.GetAt(), TwoVoters: a.GetTwoVoters(),
	}
	s.roster = &hadv1.Roster{
		Index: e.Index, Departed: s.roster.GetDeparted(), Members: append(slices.Clone(s.roster.GetMembers()), m),
	}
	s.record(e, cmd, &hadv1.Event{Node: m.GetName(), Body: &hadv1.Event_MemberAdded{MemberAdded: a}})
	return ""
}

// accept notes that somebody who adds a node once more can live with two voters.
func (s *State) accept(m *hadv1.Member, twoVoters bool) string {
	if twoVoters && !m.GetTwoVoters() && m.GetStanding() == hadv1.Member_STANDING_JOINING {
		m = proto.CloneOf(m)
		m.TwoVoters = true
		s.replaceMember(m)
	}
	return ""
}

func (s *State) replaceMember(m *hadv1.Member) {
	members := slices.Clone(s.roster.GetMembers())
	i := slices.IndexFunc(members, func(o *hadv1.Member) bool { return o.GetNodeId() == m.GetNodeId() })
	members[i] = m
	s.roster = &hadv1.Roster{Index: s.applied, Departed: s.roster.GetDeparted(), Members: members}
}

func (s *State) applyMemberRemove(e Entry, cmd *hadv1.Command, r *hadv1.MemberRemove) string {
	m := s.memberNamed(r.GetName())
	switch {
	case m == nil:
		return refuse("%q is not a node of this cluster", r.GetName())
	case m.GetNodeId() != r.GetNodeId():
		return refuse("%s has been replaced meanwhile: look at hactl node list and ask again", m.GetName())
	case m.GetStanding() == hadv1.Member_STANDING_LEAVING:
		return "" // a retry
	}
	if why := s.irremovable(m, r.GetTwoVoters()); why != "" {
		return why
	}
	m = proto.CloneOf(m)
	m.Standing, m.Since, m.At = hadv1.Member_STANDING_LEAVING, e.Index, cmd.GetAt()
	s.replaceMember(m)
	s.record(e, cmd, &hadv1.Event{Node: m.GetName(), Body: &hadv1.Event_MemberRemoved{MemberRemoved: r}})
	return ""
}

// irremovable says why a member must stay; empty: it may go.
func (s *State) irremovable(m *hadv1.Member, twoVoters bool) string {
	for _, c := range s.open {
		switch {
		case c.GetInstance().GetNodeId() != m.GetNodeId():
		case c.GetEpoch() == s.lastEpoch && c.GetSecured() == nil:
			return refuse("%s owns (epoch %d): hactl move first", m.GetName(), c.GetEpoch())
		default:
			// Its evidence rests on its node ID, and nobody may own before it is in.
			return refuse("epoch %d of %s is still open: hactl status says what is missing", c.GetEpoch(), m.GetName())
		}
	}
	if o := s.move.GetOrder(); o.GetTarget() == m.GetName() {
		return refuse("a move to %s is under way (operation %s)", m.GetName(), o.GetOperation())
	}
	voters, owners := 0, 0
	for _, o := range s.roster.GetMembers() {
		if o.GetStanding() == hadv1.Member_STANDING_LEAVING {
			return refuse("%s is being removed: one change at a time", o.GetName())
		}
		if o == m || !Settled(o) {
			continue
		}
		voters++
		if !o.GetWitness() {
			owners++
		}
	}
	switch {
	case !Settled(m):
		return ""
	case owners == 0:
		return refuse("without %s no node is left that may own", m.GetName())
	case voters == 2 && !twoVoters:
		return refuse("two voters would be left, and stop when either dies: add another node first, remove a second one, or accept it with --two-voters=accept")
	}
	return ""
}

func (s *State) applyMemberSettle(e Entry, cmd *hadv1.Command, r *hadv1.MemberSettle) string {
	m := s.member(r.GetNodeId())
	leaving := m.GetStanding() == hadv1.Member_STANDING_LEAVING
	switch {
	case r.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
	case m == nil || Settled(m) || m.GetSince() != r.GetSince() || leaving != r.GetGone():
		return refuse("no change of %s that began at entry %d is under way", r.GetName(), r.GetSince())
	}
	if leaving {
		s.depart(e, cmd, m)
	} else {
		m = proto.CloneOf(m)
		m.Standing, m.Since, m.At, m.TwoVoters = hadv1.Member_STANDING_UNSPECIFIED, e.Index, cmd.GetAt(), false
		s.replaceMember(m)
	}
	s.record(e, cmd, &hadv1.Event{Node: m.GetName(), Body: &hadv1.Event_MemberSettled{MemberSettled: r}})
	return ""
}

// depart takes a member out, and all that the state remembers of its name: what
// bears the name next is another node. Epochs that it owned are closed, or it
// could not have been removed.
func (s *State) depart(e Entry, cmd *hadv1.Command, m *hadv1.Member) {
	s.roster = &hadv1.Roster{
		Index: e.Index,
		Members: slices.DeleteFunc(slices.Clone(s.roster.GetMembers()), func(o *hadv1.Member) bool {
			return o.GetNodeId() == m.GetNodeId()
		}),
		Departed: append(slices.Clone(s.roster.GetDeparted()), &hadv1.Departed{
			Name: m.GetName(), NodeId: m.GetNodeId(), Index: e.Index, At: cmd.GetAt(),
		}),
	}
	s.forgetNode(m.GetName())
}

// forgetNode forgets what only mattered while a node was a member.
func (s *State) forgetNode(name string) {
	delete(s.nodes, name)
	delete(s.drained, name)
	s.forgetFailing(name)
	if s.syncs != nil {
		is := proto.CloneOf(s.syncs)
		is.Copies = slices.DeleteFunc(is.Copies, func(c *hadv1.SyncCopy) bool { return c.GetNode() == name })
		s.syncs = is
	}
}
