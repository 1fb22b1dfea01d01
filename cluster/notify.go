package cluster

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

const (
	// MaxChannels is how many notification channels the state keeps.
	MaxChannels = 64
	// maxChannelName bounds a channel's name, in bytes.
	maxChannelName = 128
	// NotifyRecent is how many times of settled messages a channel keeps.
	NotifyRecent = 5
)

// Channel returns how far a notification channel is, nil for one that nobody
// has begun with.
func (v View) Channel(name string) *hadv1.NotifyChannel { return findChannel(v.Notify, name) }

func findChannel(all []*hadv1.NotifyChannel, name string) *hadv1.NotifyChannel {
	if i, ok := placeOf(all, name); ok {
		return all[i]
	}
	return nil
}

func placeOf(all []*hadv1.NotifyChannel, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(c *hadv1.NotifyChannel, name string) int { return cmp.Compare(c.GetChannel(), name) })
}

// applyNotifyClaim opens a message of a channel, or moves the channel past what
// is none of its business. Two leaders can't open one each: both name where the
// channel stood when they looked.
func (s *State) applyNotifyClaim(e Entry, cmd *hadv1.Command, r *hadv1.NotifyClaim) string {
	name := r.GetChannel()
	c := findChannel(s.notify, name)
	switch {
	case r.GetTerm() != e.Term:
		return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
	case s.member(r.GetInstance().GetNodeId()) == nil:
		return refuse("%s with ID %s is not a member", r.GetInstance().GetNode(), r.GetInstance().GetNodeId())
	case name == "" || len(name) > maxChannelName || strings.ContainsFunc(name, unprintable):
		return refuse("%q can't be a channel's name", name)
	case c == nil && len(s.notify) >= MaxChannels:
		return refuse("there are %d channels already", len(s.notify))
	case c.GetClaim() != nil:
		return refuse("a message of %s is under way (entry %d)", name, c.GetClaimIndex())
	case c != nil && c.GetSent() != r.GetAfter():
		return refuse("%s stands at entry %d, not %d", name, c.GetSent(), r.GetAfter())
	case r.GetThrough() < r.GetAfter() || r.GetThrough() == r.GetAfter() && !r.GetNothing():
		return refuse("nothing lies between entry %d and entry %d", r.GetAfter(), r.GetThrough())
	case r.GetThrough() >= e.Index:
		return refuse("entry %d is not in the log yet", r.GetThrough())
	}
	if c == nil {
		c = &hadv1.NotifyChannel{Channel: name, Sent: r.GetAfter()}
	}
	c = proto.CloneOf(c)
	if r.GetNothing() {
		c.Sent = r.GetThrough()
	} else {
		c.Claim, c.ClaimIndex, c.ClaimedAt = r, e.Index, cmd.GetAt()
		c.CutClaimed, c.Cut = c.GetCut(), 0
	}
	s.putChannel(c)
	return ""
}

func unprintable(r rune) bool { return r <= ' ' || r >= 0x7f }

// applyNotifyMark settles a message, or forgets a channel. A mark may come from
// whoever sent the message, long after another node has begun to lead: it names
// its claim, so it counts once.
func (s *State) applyNotifyMark(e Entry, cmd *hadv1.Command, r *hadv1.NotifyMark) string {
	c := findChannel(s.notify, r.GetChannel())
	if c == nil {
		return refuse("there is no channel %q", r.GetChannel())
	}
	switch r.GetOutcome() {
	case hadv1.NotifyMark_OUTCOME_SENT, hadv1.NotifyMark_OUTCOME_GAVE_UP:
		if c.GetClaim() == nil || c.GetClaimIndex() != r.GetClaim() {
			return refuse("no message of %s with the claim %d is under way", r.GetChannel(), r.GetClaim())
		}
		c = proto.CloneOf(c)
		c.Sent = c.GetClaim().GetThrough()
		c.Claim, c.ClaimIndex, c.ClaimedAt, c.CutClaimed = nil, 0, nil, 0
		at := cmd.GetAt()
		if at == nil {
			at = new(timestamppb.Timestamp) // a list can't hold nil
		}
		c.Recent = append(c.Recent, at)
		c.Recent = c.Recent[max(0, len(c.Recent)-NotifyRecent):]
		s.putChannel(c)
	case hadv1.NotifyMark_OUTCOME_CLOSED:
		if r.GetTerm() != e.Term {
			return refuse("it was proposed in term %d and logged in term %d", r.GetTerm(), e.Term)
		}
		i, _ := placeOf(s.notify, r.GetChannel())
		s.notify = slices.Delete(slices.Clone(s.notify), i, i+1)
	default:
		return refuse("this version of had doesn't know the outcome %s", r.GetOutcome())
	}
	s.record(e, cmd, &hadv1.Event{Node: r.GetBy(), Body: &hadv1.Event_Notified{Notified: r}})
	return ""
}

// putChannel puts in a new or changed channel, which the state owns from now on.
func (s *State) putChannel(c *hadv1.NotifyChannel) {
	i, known := placeOf(s.notify, c.GetChannel())
	s.notify = slices.Clone(s.notify)
	if known {
		s.notify[i] = c
		return
	}
	s.notify = slices.Insert(s.notify, i, c)
}

// cutOff counts, for each channel, events that it has not been told of and that
// leave the history.
func (s *State) cutOff(gone []*hadv1.Event) {
	for _, c := range s.notify {
		var claimed, later uint64
		for _, ev := range gone {
			switch at := ev.GetIndex(); {
			case at <= c.GetSent():
			case c.GetClaim() != nil && at <= c.GetClaim().GetThrough():
				claimed++
			default:
				later++
			}
		}
		if claimed+later == 0 {
			continue
		}
		c = proto.CloneOf(c)
		c.CutClaimed += claimed
		c.Cut += later
		s.putChannel(c)
	}
}
