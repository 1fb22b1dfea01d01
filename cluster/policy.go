package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// LongestTrial bounds how long a policy may wait for its confirmation.
const LongestTrial = 24 * time.Hour

// What is kept of the policies that were in force: who applied the latest ones
// when and why, and of their texts as much as fits, the newest first. That of
// the version before the one in force is always kept: an undo needs it.
const (
	EarlierPolicies = 50
	earlierTexts    = 1 << 20 // bytes in all
)

func (s *State) applyPolicy(e Entry, cmd *hadv1.Command, p *hadv1.PolicyApply) string {
	within := time.Duration(p.GetConfirmWithinNs())
	switch current := s.policy.GetVersion(); {
	case p.GetExpectedVersion() != current:
		return refuse("the policy is at version %d, not %d: somebody applied one meanwhile; look at it and apply again", current, p.GetExpectedVersion())
	case s.trial != nil && p.GetKind() != hadv1.PolicyApply_KIND_ROLLBACK:
		return refuse("policy version %d waits for its confirmation: hactl policy confirm keeps it, hactl policy rollback undoes it", current)
	case p.GetKind() == hadv1.PolicyApply_KIND_UNDO:
		return refuse("an undo has a record of its own")
	case within < 0 || within > LongestTrial:
		return refuse("a confirmation within %v makes no sense: it takes above 0 and at most %v", within, LongestTrial)
	case within > 0 && s.policy == nil:
		return refuse("there is no policy yet that could come back if nobody confirms this one")
	case within > 0 && s.trial != nil:
		return refuse("policy version %d was never confirmed: nothing goes back to it, so what replaces it can't be on trial", current)
	case within > 0 && !p.GetConfirmUntil().IsValid():
		return refuse("the policy doesn't say until when it can be confirmed")
	}
	s.enact(e, cmd, p)
	if within > 0 {
		s.trial = &hadv1.PolicyTrial{Version: s.policy.GetVersion(), Index: e.Index, WithinNs: p.GetConfirmWithinNs(), Until: p.GetConfirmUntil()}
	}
	return ""
}

// enact puts a policy in force, for good.
func (s *State) enact(e Entry, cmd *hadv1.Command, p *hadv1.PolicyApply) {
	if s.policy != nil {
		s.earlier = boundPolicies(append(slices.Clone(s.earlier), s.policy))
	}
	sum := sha256.Sum256([]byte(p.GetText()))
	s.policy = &hadv1.Policy{
		Version: s.policy.GetVersion() + 1, Text: p.GetText(), Digest: hex.EncodeToString(sum[:]),
		At: cmd.GetAt(), By: p.GetBy(), Reason: p.GetReason(), Index: e.Index,
		Kind: p.GetKind(), OfVersion: p.GetOfVersion(), Size: uint32(len(p.GetText())), //nolint:gosec // at most 1 MiB
	}
	s.trial = nil
	// The new policy may mend what made a node fail.
	s.nodes, s.failing = map[string]*hadv1.NodeRecord{}, nil
	told := p
	if s.levelInForce() > level.First { // before, an older had may be about, whose history has it
		told = proto.CloneOf(p)
		told.Text = "" // the policies themselves have it
	}
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_PolicyApplied{PolicyApplied: told}})
}

// boundPolicies drops what the bounds leave no room for. all is the caller's own.
func boundPolicies(all []*hadv1.Policy) []*hadv1.Policy {
	all = all[max(0, len(all)-EarlierPolicies):]
	size := 0
	for i, p := range slices.Backward(all) {
		size += len(p.GetText())
		if size > earlierTexts && i < len(all)-1 && p.GetText() != "" {
			p = proto.CloneOf(p)
			p.Text = ""
			all[i] = p
		}
	}
	return all
}

func (s *State) applyPolicyConfirm(e Entry, cmd *hadv1.Command, c *hadv1.PolicyConfirm) string {
	switch {
	case s.policy.GetConfirmed() != nil && s.policy.GetVersion() == c.GetVersion():
		return "" // a retry
	case s.trial.GetVersion() != c.GetVersion() || s.trial == nil:
		return refuse("policy version %d waits for no confirmation; version %d is in force", c.GetVersion(), s.policy.GetVersion())
	}
	s.trial = nil
	s.policy = proto.CloneOf(s.policy)
	s.policy.Confirmed = c
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Body: &hadv1.Event_PolicyConfirmed{PolicyConfirmed: c}})
	return ""
}

// applyPolicyUndo ends a trial whose time is over by its proposer's clocks. There
// is none here, so that every node comes to the same answer.
func (s *State) applyPolicyUndo(e Entry, cmd *hadv1.Command, u *hadv1.PolicyUndo) string {
	if s.trial == nil || s.trial.GetVersion() != u.GetVersion() {
		return refuse("policy version %d waits for no confirmation", u.GetVersion())
	}
	before := s.earlier[len(s.earlier)-1] // there is one, or it would not be on trial
	s.enact(e, cmd, &hadv1.PolicyApply{
		ExpectedVersion: s.policy.GetVersion(), Text: before.GetText(), By: "had on " + cmd.GetProposer(),
		Reason: u.GetReason(), Kind: hadv1.PolicyApply_KIND_UNDO, OfVersion: before.GetVersion(),
	})
	return ""
}

// PolicyVersion returns a policy that is in force or kept, nil for another. Its
// text may be empty: kept no longer.
func (v View) PolicyVersion(version uint64) *hadv1.Policy {
	if version != 0 && v.Policy.GetVersion() == version {
		return v.Policy
	}
	for _, p := range v.EarlierPolicies {
		if p.GetVersion() == version {
			return p
		}
	}
	return nil
}
