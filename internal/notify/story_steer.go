package notify

import (
	"fmt"
	"strings"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// steered tells what people and checks have changed in who may own.
func (s *story) steered(e *hadv1.Event) (Item, bool) {
	switch b := e.GetBody().(type) {
	case *hadv1.Event_CheckChanged:
		return s.check(e, b.CheckChanged)
	case *hadv1.Event_Recovered:
		return recovered(b.Recovered), true
	case *hadv1.Event_Held:
		s.held = true
		return Item{
			Topic: policy.TopicHeld, Severity: Critical, Title: e.GetNode() + " is held as the owner",
			Text: fmt.Sprintf("Checks and scripts change the owner no more: %s. When it is mended: hactl resume.", b.Held.GetReason()),
		}, true
	case *hadv1.Event_Resumed:
		s.held = false
		return Item{
			Topic: policy.TopicHeld, Severity: Info, Title: "the owner is held no more",
			Text: "Checks and scripts change the owner again, resumed" + said(b.Resumed.GetBy(), b.Resumed.GetReason()),
		}, true
	case *hadv1.Event_Frozen:
		s.frozen = b.Frozen
		until := clockTime(b.Frozen.GetUntil().AsTime())
		return Item{
			Topic: policy.TopicFreeze, Severity: Info, Title: "ownership is frozen until " + until,
			Text: fmt.Sprintf("No owner changes by itself until %s, and one that dies is not succeeded. Frozen%s", until, said(b.Frozen.GetBy(), b.Frozen.GetReason())),
		}, true
	case *hadv1.Event_Unfrozen:
		s.frozen = nil
		it := Item{Topic: policy.TopicFreeze, Severity: Info, Title: "ownership is frozen no more"}
		it.Text = "The freeze was ended" + said(b.Unfrozen.GetBy(), b.Unfrozen.GetReason())
		if b.Unfrozen.GetExpired() {
			it.Text = "The freeze is over: its time has passed. Owners change by themselves again."
		}
		return it, true
	case *hadv1.Event_Drained:
		return Item{
			Topic: policy.TopicDrain, Severity: Info, Title: e.GetNode() + " is drained",
			Text: fmt.Sprintf("%s owns nothing before hactl undrain %s. Drained%s", e.GetNode(), e.GetNode(), said(b.Drained.GetBy(), b.Drained.GetReason())),
		}, true
	case *hadv1.Event_Undrained:
		return Item{
			Topic: policy.TopicDrain, Severity: Info, Title: e.GetNode() + " may own again",
			Text: fmt.Sprintf("%s may own again, undrained%s", e.GetNode(), said(b.Undrained.GetBy(), b.Undrained.GetReason())),
		}, true
	}
	return Item{}, false
}

// said is who has done something, and why, to the end of the sentence.
func said(by, reason string) string {
	if by != "" {
		by = " by " + by
	}
	if reason != "" {
		by += ": " + reason
	}
	return by + "."
}

// check tells of one that fails on the owner, and when it passes again there,
// whoever owns by then. What fails beside the owner changes nothing yet.
func (s *story) check(e *hadv1.Event, c *hadv1.CheckChange) (Item, bool) {
	key := e.GetNode() + " " + c.GetCheck()
	switch {
	case !c.GetFailing() && s.failing[key]:
		delete(s.failing, key)
		return Item{
			Topic: policy.TopicCheck, Severity: Info, Title: fmt.Sprintf("check %s passes again on %s", c.GetCheck(), e.GetNode()),
			Text: fmt.Sprintf("Check %s passes again on %s.", c.GetCheck(), e.GetNode()),
		}, true
	case !c.GetFailing() || c.GetEpoch() == 0:
		return Item{}, false
	}
	s.failing[key] = true
	it := Item{Topic: policy.TopicCheck, Severity: Warning, Title: fmt.Sprintf("check %s fails on %s", c.GetCheck(), e.GetNode())}
	it.Text = fmt.Sprintf("Check %s failed on %s, the owner", c.GetCheck(), e.GetNode())
	if n := c.GetTimes(); n > 1 {
		it.Text += fmt.Sprintf(", %d times in a row", n)
	}
	it.Text += said("", c.GetDetail())
	switch {
	case s.frozen != nil:
		it.Text += " It stays the owner: ownership is frozen."
	case s.held:
		it.Text += " It stays the owner until hactl resume."
	}
	return it, true
}

// sync tells of one that is held, once for each owner. A run that failed is
// told when others have failed after it: a notice says so.
func (s *story) sync(e *hadv1.Event, r *hadv1.SyncResult) (Item, bool) {
	key := matter{"sync", r.GetName(), e.GetNode()}
	switch r.GetOutcome() {
	case hadv1.SyncResult_OUTCOME_HELD:
		if s.holds[r.GetName()] == r.GetOwner() {
			return Item{}, false
		}
		s.holds[r.GetName()] = r.GetOwner()
		return Item{
			Topic: policy.TopicSync, Severity: Warning, Title: fmt.Sprintf("sync %s is held", r.GetName()),
			Text: fmt.Sprintf("Sync %s is held, and its copies grow old: %s.", r.GetName(), r.GetError()),
		}, true
	case hadv1.SyncResult_OUTCOME_COPIED:
		delete(s.holds, r.GetName())
		if !s.amiss[key] {
			return Item{}, false
		}
		delete(s.amiss, key)
		return Item{
			Topic: policy.TopicSync, Severity: Info, Title: fmt.Sprintf("sync %s copies again on %s", r.GetName(), e.GetNode()),
			Text: fmt.Sprintf("Sync %s has copied to %s again.", r.GetName(), e.GetNode()),
		}, true
	default:
		return Item{}, false
	}
}

// recovered tells that a cluster has gone on without its majority.
func recovered(r *hadv1.Recovered) Item {
	var lost []string
	for _, m := range r.GetLost() {
		lost = append(lost, m.GetName())
	}
	return Item{
		Topic: policy.TopicNode, Severity: Critical, Node: r.GetNode(), Title: "the cluster was recovered on " + r.GetNode() + " alone",
		Text: fmt.Sprintf("It goes on without %s, who were confirmed to be lost. What they agreed on last may be missing. Recovered%s", strings.Join(lost, ", "), said(r.GetBy(), r.GetReason())),
	}
}

func syncResumed(r *hadv1.SyncResume) Item {
	return Item{
		Topic: policy.TopicSync, Severity: Info, Title: fmt.Sprintf("sync %s is held no more", r.GetName()),
		Text: fmt.Sprintf("Sync %s copies from the present owner again, resumed%s", r.GetName(), said(r.GetBy(), r.GetReason())),
	}
}

// kept tells what a leader has seen for long of a node's syncs and tokens.
func (s *story) kept(r *hadv1.Notice) (it Item, ok bool) {
	key := matterOf(r.GetKind(), r.GetName(), r.GetNode())
	ends := r.GetKind() == hadv1.Notice_KIND_TOKEN_PLACED
	if s.amiss[key] != ends {
		return Item{}, false
	}
	it = Item{Severity: Warning, Node: r.GetNode()}
	since := clockTime(r.GetSince().AsTime())
	switch r.GetKind() {
	case hadv1.Notice_KIND_SYNC_FAILS:
		it.Topic, it.Title = policy.TopicSync, fmt.Sprintf("sync %s fails on %s", r.GetName(), r.GetNode())
		it.Text = fmt.Sprintf("Sync %s has failed on %s since %s%s Its copy grows old; hactl history has the output.", r.GetName(), r.GetNode(), since, said("", r.GetDetail()))
	case hadv1.Notice_KIND_TOKEN_AMISS:
		it.Topic, it.Title = policy.TopicToken, fmt.Sprintf("token %s is not in place on %s", r.GetName(), r.GetNode())
		it.Text = fmt.Sprintf("Reconnect token %s could not be put in place on %s since %s%s", r.GetName(), r.GetNode(), since, said("", r.GetDetail()))
	default:
		it.Topic, it.Severity, it.Title = policy.TopicToken, Info, fmt.Sprintf("token %s is in place on %s", r.GetName(), r.GetNode())
		it.Text = fmt.Sprintf("Reconnect token %s is in place on %s again.", r.GetName(), r.GetNode())
	}
	if ends {
		delete(s.amiss, key)
	} else {
		s.amiss[key] = true
	}
	return it, true
}

// matter is a sync or token of a node.
type matter struct{ what, name, node string }

func (m matter) String() string { return m.what + " " + m.name + " on " + m.node }

func matterOf(k hadv1.Notice_Kind, name, node string) matter {
	if k == hadv1.Notice_KIND_SYNC_FAILS {
		return matter{"sync", name, node}
	}
	return matter{"token", name, node}
}

// toldOf reports whether the story says that a sync or token is amiss.
func (s *story) toldOf(m matter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.amiss[m]
}

// tokensAmiss are those of a node of which the story says so.
func (s *story) tokensAmiss(node string) (all []matter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.amiss {
		if m.what == "token" && m.node == node {
			all = append(all, m)
		}
	}
	return all
}
