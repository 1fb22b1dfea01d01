package cluster

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// Verdict is Apply's answer. A refused command changed nothing.
type Verdict struct {
	Index   uint64
	Refused string // why, for people; empty when accepted
}

func refuse(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// Apply makes the transition a command asks for, or refuses it. It is a pure
// function of the state, the entry's place and the command: every node comes
// to the same answer.
func (s *State) Apply(e Entry, cmd *hadv1.Command) Verdict {
	s.applied = e.Index
	v := Verdict{Index: e.Index}
	switch r := cmd.GetRecord().(type) {
	case *hadv1.Command_Birth:
		v.Refused = s.applyBirth(e, cmd, r.Birth)
	case *hadv1.Command_PolicyApply:
		v.Refused = s.applyPolicy(e, cmd, r.PolicyApply)
	case *hadv1.Command_PolicyConfirm:
		v.Refused = s.applyPolicyConfirm(e, cmd, r.PolicyConfirm)
	case *hadv1.Command_PolicyUndo:
		v.Refused = s.applyPolicyUndo(e, cmd, r.PolicyUndo)
	case *hadv1.Command_Extend:
		v.Refused = s.applyExtend(e, cmd, r.Extend)
	case *hadv1.Command_Acquire:
		v.Refused = s.applyAcquire(e, cmd, r.Acquire)
	case *hadv1.Command_LeaseRenew:
		v.Refused = s.applyRenew(e, r.LeaseRenew)
	case *hadv1.Command_Deliver:
		v.Refused = s.applyDeliver(e, cmd, r.Deliver)
	case *hadv1.Command_MoveOrder:
		v.Refused = s.applyMoveOrder(e, cmd, r.MoveOrder)
	case *hadv1.Command_MoveEnd:
		v.Refused = s.applyMoveEnd(e, cmd, r.MoveEnd)
	case *hadv1.Command_Waited:
		v.Refused = s.applyWaited(e, cmd, r.Waited)
	case *hadv1.Command_Farewell:
		v.Refused = s.applyFarewell(e, cmd, r.Farewell)
	case *hadv1.Command_Secured:
		v.Refused = s.applySecured(e, cmd, r.Secured)
	case *hadv1.Command_SyncResume:
		v.Refused = s.applySyncResume(e, cmd, r.SyncResume)
	case *hadv1.Command_TokenSet:
		v.Refused = s.applyTokenSet(e, cmd, r.TokenSet)
	case *hadv1.Command_TokenForget:
		v.Refused = s.applyTokenForget(e, cmd, r.TokenForget)
	case *hadv1.Command_NotifyClaim:
		v.Refused = s.applyNotifyClaim(e, cmd, r.NotifyClaim)
	case *hadv1.Command_NotifyMark:
		v.Refused = s.applyNotifyMark(e, cmd, r.NotifyMark)
	case *hadv1.Command_Freeze:
		v.Refused = s.applyFreeze(e, cmd, r.Freeze)
	case *hadv1.Command_Unfreeze:
		v.Refused = s.applyUnfreeze(e, cmd, r.Unfreeze)
	case *hadv1.Command_Drain:
		v.Refused = s.applyDrain(e, cmd, r.Drain)
	case *hadv1.Command_Undrain:
		v.Refused = s.applyUndrain(e, cmd, r.Undrain)
	case *hadv1.Command_Hold:
		v.Refused = s.applyHold(e, cmd, r.Hold)
	case *hadv1.Command_Resume:
		v.Refused = s.applyResume(e, cmd, r.Resume)
	case *hadv1.Command_MemberAdd:
		v.Refused = s.applyMemberAdd(e, cmd, r.MemberAdd)
	case *hadv1.Command_MemberRemove:
		v.Refused = s.applyMemberRemove(e, cmd, r.MemberRemove)
	case *hadv1.Command_MemberSettle:
		v.Refused = s.applyMemberSettle(e, cmd, r.MemberSettle)
	case *hadv1.Command_LevelRise:
		v.Refused = s.applyLevelRise(e, cmd, r.LevelRise)
	default:
		v.Refused = "this version of had doesn't know the record"
	}
	return v
}

func (s *State) applyBirth(e Entry, cmd *hadv1.Command, b *hadv1.Birth) string {
	if s.birth != nil {
		if proto.Equal(s.birth, b) {
			return "" // two leaders in a row may both have proposed it
		}
		return refuse("the cluster was born with ID %s; %s is another one", s.birth.GetClusterId(), b.GetClusterId())
	}
	s.birth, s.roster = b, bornRoster(b)
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_Birth{Birth: b}})
	return ""
}

func (s *State) applyAcquire(e Entry, cmd *hadv1.Command, a *hadv1.Acquire) string {
	if a.GetTerm() != e.Term {
		return refuse("it was proposed in term %d and logged in term %d", a.GetTerm(), e.Term)
	}
	m := s.member(a.GetInstance().GetNodeId())
	switch {
	case m == nil || m.GetName() != a.GetInstance().GetNode():
		return refuse("%s with ID %s is not a member", a.GetInstance().GetNode(), a.GetInstance().GetNodeId())
	case m.GetWitness():
		return refuse("%s is a witness and never owns", m.GetName())
	case !Settled(m):
		return refuse("%s is joining the cluster or leaving it, and owns nothing meanwhile", m.GetName())
	case s.policy == nil || a.GetPolicyVersion() != s.policy.GetVersion():
		return refuse("it was made for policy version %d, which is not in force", a.GetPolicyVersion())
	case !sensible(a.GetTerms()):
		return refuse("its terms make no sense: a lease of %v and an address lifetime of %v", time.Duration(a.GetTerms().GetTtlNs()), time.Duration(a.GetTerms().GetAddressLifetimeNs()))
	case !bearable(a.GetTerms()):
		return refuse("its terms make no sense: a release grace of %v, a watchdog of %v and a margin of %v", time.Duration(a.GetTerms().GetReleaseGraceNs()), time.Duration(a.GetTerms().GetWatchdogTimeoutNs()), time.Duration(a.GetTerms().GetVolumeMarginNs()))
	case a.GetMoveOperation() != "" && (s.move.GetOrder().GetOperation() != a.GetMoveOperation() || s.move.GetOrder().GetTarget() != m.GetName()):
		return refuse("no move to %s with operation %s is under way", m.GetName(), a.GetMoveOperation())
	}
	if why := volumesWrong(a, e.Index); why != "" {
		return why
	}
	for _, c := range s.open {
		if why := s.evidenceMissing(c, a); why != "" {
			return why
		}
	}

	a = withReservationKey(a, e.Index)
	var sub []*hadv1.Event
	for _, ev := range a.GetEvidence() {
		c := findClaim(s.open, ev.GetEpoch())
		switch {
		case c == nil:
		case ev.GetKind() == hadv1.Evidence_KIND_HANDED_OVER:
			s.handOver(c, e.Index)
		default:
			sub = append(sub, s.close(c, ev))
		}
	}
	if s.move != nil && s.move.GetOrder().GetOperation() != a.GetMoveOperation() {
		sub = append(sub, s.endMove(fmt.Sprintf("%s acquired instead", m.GetName())))
	}
	if o := s.move.GetOrder(); len(o.GetChecks()) > 0 && o.GetOperation() == a.GetMoveOperation() {
		s.countFailover(&hadv1.Failover{Index: e.Index, At: cmd.GetAt(), Node: s.lastOwner, Cause: o.GetReason()})
	}
	s.forgetMove()
	s.open = append(slices.Clone(s.open), &hadv1.Claim{
		Epoch: e.Index, Instance: a.GetInstance(), Terms: a.GetTerms(), Addresses: a.GetAddresses(),
		LastLeaseIndex: e.Index, PolicyVersion: a.GetPolicyVersion(), At: cmd.GetAt(), Cause: a.GetCause(),
		Volumes: a.GetVolumes(), Tokens: a.GetTokens(),
	})
	s.succeed(e.Index, m.GetName())
	s.lastEpoch, s.lastOwner = e.Index, m.GetName()
	sub = append(sub, &hadv1.Event{Node: m.GetName(), Epoch: e.Index, Body: &hadv1.Event_Acquired{Acquired: a}})
	s.record(e, cmd, sub...)
	return ""
}

// What an Acquire may promise is bounded: successors have to wait it out.
const (
	longestTerm  = int64(time.Minute)
	longestGrace = int64(10 * time.Minute) // services that stop, disks that finish, a slow watchdog
)

func sensible(t *hadv1.Terms) bool {
	return t.GetTtlNs() > 0 && t.GetTtlNs() <= longestTerm &&
		t.GetAddressLifetimeNs() > 0 && t.GetAddressLifetimeNs() <= longestTerm
}

// bearable is sensible for what came with volumes and is zero before.
func bearable(t *hadv1.Terms) bool {
	for _, d := range []int64{t.GetReleaseGraceNs(), t.GetWatchdogTimeoutNs(), t.GetVolumeMarginNs()} {
		if d < 0 || d > longestGrace {
			return false
		}
	}
	return true
}

func (s *State) applyRenew(e Entry, r *hadv1.LeaseRenew) string {
	c := findClaim(s.open, r.GetEpoch())
	switch {
	case r.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
	case c == nil:
		return refuse("epoch %d is closed", r.GetEpoch())
	case !proto.Equal(c.GetInstance(), r.GetInstance()):
		return refuse("epoch %d belongs to another run of had on %s", r.GetEpoch(), c.GetInstance().GetNode())
	case c.GetHandedTo() != 0:
		return refuse("epoch %d has been handed over to epoch %d", r.GetEpoch(), c.GetHandedTo())
	case c.GetSecured() != nil:
		return refuse("the volumes of epoch %d are given to its successor (%s): it is over", r.GetEpoch(), c.GetSecured().GetKind())
	}
	c = proto.CloneOf(c)
	c.LastLeaseIndex = e.Index
	s.replaceClaim(c)
	return ""
}

func (s *State) applyMoveOrder(e Entry, cmd *hadv1.Command, o *hadv1.MoveOrder) string {
	target := s.memberNamed(o.GetTarget())
	claim := findClaim(s.open, o.GetFromEpoch())
	switch {
	case s.move != nil && s.move.GetOrder().GetOperation() == o.GetOperation():
		return "" // a retry
	case s.lastMove.GetOrder().GetOperation() == o.GetOperation() && s.lastMove != nil:
		return refuse("the move with operation %s has ended already", o.GetOperation())
	case s.move != nil:
		return refuse("a move to %s is under way (operation %s)", s.move.GetOrder().GetTarget(), s.move.GetOrder().GetOperation())
	case target == nil:
		return refuse("%q is not a node of this cluster", o.GetTarget())
	case target.GetWitness():
		return refuse("%s is a witness and never owns", o.GetTarget())
	case !Settled(target):
		return refuse("%s is joining the cluster or leaving it, and owns nothing meanwhile", o.GetTarget())
	case s.drained[o.GetTarget()] != nil:
		return refuse("%s is drained by %s: hactl undrain %s", o.GetTarget(), s.drained[o.GetTarget()].GetBy(), o.GetTarget())
	case claim == nil || claim.GetEpoch() != s.lastEpoch:
		return refuse("epoch %d is over: the owner has changed meanwhile; look at the status and ask again", o.GetFromEpoch())
	case claim.GetInstance().GetNode() == o.GetTarget():
		return refuse("%s owns already", o.GetTarget())
	}
	s.move = &hadv1.Move{Order: o, Index: e.Index}
	if len(o.GetChecks()) == 0 { // a person wants it tried again now
		delete(s.nodes, o.GetTarget())
		s.forgetFailing(o.GetTarget())
	}
	s.record(e, cmd, &hadv1.Event{Node: o.GetTarget(), Epoch: o.GetFromEpoch(), Body: &hadv1.Event_MoveOrdered{MoveOrdered: o}})
	return ""
}

func (s *State) applyMoveEnd(e Entry, cmd *hadv1.Command, m *hadv1.MoveEnd) string {
	if s.move.GetOrder().GetOperation() != m.GetOperation() || s.move == nil {
		return refuse("no move with operation %s is under way", m.GetOperation())
	}
	ev := s.endMove(m.GetWhy())
	s.forgetMove()
	s.record(e, cmd, ev)
	return ""
}

// forgetMove notes that the move under way, if any, has ended.
func (s *State) forgetMove() {
	if s.move != nil {
		s.move, s.lastMove = nil, s.move
	}
}

func (s *State) endMove(why string) *hadv1.Event {
	o := s.move.GetOrder()
	return &hadv1.Event{Node: o.GetTarget(), Epoch: o.GetFromEpoch(), Body: &hadv1.Event_MoveEnded{
		MoveEnded: &hadv1.MoveEnd{Operation: o.GetOperation(), Why: why},
	}}
}

// record appends the events of one entry to the history.
func (s *State) record(e Entry, cmd *hadv1.Command, events ...*hadv1.Event) {
	for i, ev := range events {
		ev.Index, ev.Term, ev.Sub = e.Index, e.Term, uint32(i) //nolint:gosec // a handful of events an entry
		ev.RecordedAt = cmd.GetAt()
		if ev.At == nil {
			ev.At = cmd.GetAt()
		}
	}
	s.history = append(s.history, events...)
	if over := len(s.history) - HistoryLimit; over > 0 {
		s.cutOff(s.history[:over])
		s.history = slices.Clone(s.history[over:])
		s.dropped += uint64(over) //nolint:gosec // over > 0
	}
}
