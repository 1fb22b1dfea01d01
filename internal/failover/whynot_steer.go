package failover

import (
	"fmt"
	"slices"

	hadv1 "had/proto/had/v1"
)

// steered is what people, checks and the limits have said about who may own.
func (h *hearing) steered(owner string) {
	v := h.in.View
	if f := v.Frozen; f != nil {
		why := FrozenBy(f)
		if r := f.GetFreeze().GetReason(); r != "" {
			why += ": " + r
		}
		switch {
		case h.node == owner:
			h.warn("freeze", "hactl unfreeze", "%s. If it failed now, nobody would take over before that", why)
		case h.in.View.LastOwner == h.node:
			h.warn("freeze", "hactl unfreeze", "%s. It was the last owner, so it may own all the same", why)
		case owner != "":
			h.warn("freeze", "hactl unfreeze", "%s. It may take over by hactl move alone", why)
		case v.LastOwner == "":
			h.fail("freeze", "hactl unfreeze", "%s. Nobody may begin to own", why)
		default:
			h.fail("freeze", "hactl unfreeze", "%s. Only %s, the last owner, may own", why, v.LastOwner)
		}
	}
	switch held := v.Held; {
	case held != nil:
		h.warn("limits", "mend what fails, then: hactl resume", "held: %s", held.GetHold().GetReason())
	case h.in.Flapping != "":
		h.warn("limits", "hactl history shows the failovers", "%s: for now checks and scripts change the owner no more", h.in.Flapping)
	}
	if d := v.Drained[h.node]; d != nil {
		h.fail("drain", "hactl undrain "+h.node, "%s", drainedBy(d))
	}
	for _, f := range v.Failing(h.node) {
		c := f.GetChange()
		switch {
		case h.node == owner && c.GetEpoch() != v.Newest().GetEpoch():
			// It serves again since: what it says now counts.
		case h.saysSo(c.GetCheck()):
			// Then it is told below.
		case f.GetPassedSince():
			h.ok("check", "check %s failed on it when it last ran there (%s), and has passed on a later owner since", c.GetCheck(), c.GetDetail())
		default:
			h.warn("check", "mend what it looks at on "+h.node+"; hactl move --to "+h.node+" tries it", "check %s failed on it when it last ran there (%s), so nodes on which fewer fail come first", c.GetCheck(), c.GetDetail())
		}
	}
	if why := h.in.Declined[h.node]; why != "" {
		h.warn("asked", "it is asked again after a while", "it was asked to take over, and could not: %s", why)
	}
}

// saysSo reports whether the node itself says that a check doesn't pass, where it runs
// now.
func (h *hearing) saysSo(check string) bool {
	health := h.own
	if h.node != h.self() {
		health = h.status.Peers[h.node].Health
	}
	return slices.ContainsFunc(health.GetChecks(), func(c *hadv1.CheckStatus) bool {
		return c.GetName() == check && c.GetState() != hadv1.CheckStatus_STATE_PASSING
	})
}

// leaves says what becomes of an owner that doesn't want to own any more, which
// the node that answers knows of itself alone; settled is false when it does.
func (h *hearing) leaves(owner string) (why string, settled bool) {
	if owner != h.self() {
		return "", false
	}
	v := h.in.View
	if d := v.Drained[owner]; d != nil {
		return fmt.Sprintf("%s owns although it is %s; it hands over%s", owner, drainedBy(d), h.to(willing(h.in))), true
	}
	if len(h.in.Failing) == 0 {
		return "", false
	}
	why = fmt.Sprintf("%s owns although %s", owner, h.in.Failing[0])
	switch {
	case v.Frozen != nil:
		why += "; it keeps it, because ownership is " + FrozenBy(v.Frozen)
	case v.Held != nil:
		why += "; it keeps it until hactl resume, because " + v.Held.GetHold().GetReason()
	case h.in.Flapping != "":
		why += "; it keeps it, because " + h.in.Flapping
	default:
		why += "; it hands over" + h.to(fit(h.in))
	}
	return why, true
}

// to names who of some nodes is handed over to.
func (h *hearing) to(all []string) string {
	switch {
	case len(all) == 0:
		return " as soon as a node that is better can take over"
	case all[0] == h.node:
		return " to " + h.node + " now"
	}
	return fmt.Sprintf(" to %s now%s", all[0], h.because([]string{all[0], h.node}))
}
