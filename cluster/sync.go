package cluster

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// A sync copies from the owner to the other nodes. Right after the owner has
// changed, the node that has just lost the turn may be the one with the newest
// data, and a copy from the new owner would destroy them. So a sync is held
// unless the new owner has completed one from the owner before it, until a person
// says whose data to keep.
//
// The log knows no blocks of the policy, only names: what it keeps is who owned
// before the present owner, from which epoch on, and of which epochs each node
// has a whole copy. Whether a sync is held follows from that, on every node and
// at any time; a report of a copy that comes late still counts.

// succeed notes that a node has opened an epoch. While no other node has, its
// epochs are one turn: its data are its own.
func (s *State) succeed(epoch uint64, owner string) {
	was := s.syncs
	if was != nil && s.lastOwner == owner {
		return
	}
	is := &hadv1.SyncState{Since: epoch}
	switch s.lastOwner {
	case "":
	case owner: // the log is of a version that didn't keep this
		is.Since = s.lastEpoch
	default:
		is.Previous, is.PreviousOwner = cmp.Or(was.GetSince(), s.lastEpoch), s.lastOwner
	}
	for _, c := range was.GetCopies() {
		if is.Previous != 0 && c.GetEpoch() >= is.Previous {
			is.Copies = append(is.Copies, c)
		}
	}
	s.syncs = is
}

// applySyncResult keeps the newest epoch of which a node has a whole copy.
func (s *State) applySyncResult(node string, r *hadv1.SyncResult) {
	if r.GetOutcome() != hadv1.SyncResult_OUTCOME_COPIED || s.syncs == nil {
		return
	}
	known := r.GetEpoch() >= s.syncs.GetPrevious() && r.GetEpoch() <= s.lastEpoch
	if !known || node == s.lastOwner && r.GetEpoch() >= s.syncs.GetSince() {
		return // nor does an owner copy from itself
	}
	is := proto.CloneOf(s.syncs)
	c := &hadv1.SyncCopy{Name: r.GetName(), Node: node, Epoch: r.GetEpoch()}
	i, found := slices.BinarySearchFunc(is.GetCopies(), c, func(a, b *hadv1.SyncCopy) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	switch {
	case !found:
		is.Copies = slices.Insert(is.Copies, i, c)
	case is.Copies[i].GetEpoch() < c.GetEpoch():
		is.Copies[i] = c
	default:
		return
	}
	s.syncs = is
}

func (s *State) applySyncResume(e Entry, cmd *hadv1.Command, r *hadv1.SyncResume) string {
	switch {
	case r.GetEpoch() != s.lastEpoch:
		return refuse("the owner has changed: epoch %d is not the newest, %d is; look at the status and say it again", r.GetEpoch(), s.lastEpoch)
	case slices.Contains(s.syncs.GetResumed(), r.GetName()):
		return "" // a retry
	case s.View().SyncHeld(r.GetName()) == "":
		return refuse("sync %s is not held", r.GetName())
	}
	is := proto.CloneOf(s.syncs)
	i, _ := slices.BinarySearch(is.GetResumed(), r.GetName())
	is.Resumed = slices.Insert(is.Resumed, i, r.GetName())
	s.syncs = is
	s.record(e, cmd, &hadv1.Event{Node: s.lastOwner, Epoch: r.GetEpoch(), Body: &hadv1.Event_SyncResumed{SyncResumed: r}})
	return ""
}

// SyncHeld says why a sync must not run until an operator resumes it, as a whole
// sentence; empty when it may.
func (v View) SyncHeld(name string) string {
	s := v.Syncs
	if s.GetPrevious() == 0 || slices.Contains(s.GetResumed(), name) {
		return ""
	}
	if e := v.SyncCopied(name, v.LastOwner); e >= s.GetPrevious() && e < s.GetSince() {
		return ""
	}
	return fmt.Sprintf("%s took over from %s without having completed this sync from it: to copy from %s now could overwrite the newest data", v.LastOwner, s.GetPreviousOwner(), v.LastOwner)
}

// SyncCopied returns the newest epoch of which a node is known to have a whole
// copy; 0: none of the present owner's nor of the one's before it.
func (v View) SyncCopied(name, node string) uint64 {
	for _, c := range v.Syncs.GetCopies() {
		if c.GetName() == name && c.GetNode() == node {
			return c.GetEpoch()
		}
	}
	return 0
}
