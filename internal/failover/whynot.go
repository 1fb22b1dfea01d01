package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// WhyNot holds every rule of ownership against a member. The leader knows them
// all; another node knows of itself alone.
func (c *Controller) WhyNot(node string) *hadv1.WhyNotResponse {
	in, _ := c.gather()
	h := hearing{in: in, node: node, status: c.Status(), own: c.Health(), shunned: c.backoff.shunned(node)}
	h.member = c.member(node)
	return h.hold()
}

// hearing is what WhyNot knows when it begins.
type hearing struct {
	in      Inputs
	node    string
	member  *hadv1.Member
	status  Status
	own     *hadv1.HealthResponse // of the node that answers
	shunned bool                  // leadership could not be handed to it lately

	out []*hadv1.Finding
}

func (h *hearing) self() string { return h.in.Instance.GetNode() }

func (h *hearing) add(l hadv1.Finding_Level, check, advice, format string, args ...any) {
	h.out = append(h.out, &hadv1.Finding{Check: check, Level: l, Detail: fmt.Sprintf(format, args...), Advice: advice})
}

func (h *hearing) ok(check, format string, args ...any) {
	h.add(hadv1.Finding_LEVEL_OK, check, "", format, args...)
}

func (h *hearing) warn(check, advice, format string, args ...any) {
	h.add(hadv1.Finding_LEVEL_WARN, check, advice, format, args...)
}

func (h *hearing) fail(check, advice, format string, args ...any) {
	h.add(hadv1.Finding_LEVEL_FAIL, check, advice, format, args...)
}

func (h *hearing) hold() *hadv1.WhyNotResponse {
	r := &hadv1.WhyNotResponse{Node: h.node}
	if c := h.in.View.Newest(); c != nil && c.GetEpoch() == h.in.Holding.Epoch && h.in.Holding.Phase == PhaseServing {
		r.Owner = c.GetInstance().GetNode()
	}
	r.Owns = r.Owner != "" && r.Owner == h.node
	h.policy()
	h.quorum()
	if h.member.GetWitness() {
		h.fail("role", "", "it is a witness: it votes and never owns")
	} else {
		h.steered(r.Owner)
		h.itself()
		if !r.Owns {
			h.turns()
			h.earlierOwners(r.Owner)
		}
	}
	slices.SortStableFunc(h.out, bySeverity)
	r.Findings = h.out
	r.Could = !slices.ContainsFunc(h.out, func(f *hadv1.Finding) bool { return f.GetLevel() == hadv1.Finding_LEVEL_FAIL })
	if r.Could && !r.Owns {
		r.Stays, r.Next = h.stays(r.Owner)
	}
	return r
}

func (h *hearing) policy() {
	switch p := h.in.View.Policy; {
	case p == nil:
		h.fail("policy", "hactl policy apply FILE", "there is no policy yet, so there is nothing to own")
	case h.in.Policy == nil:
		h.fail("policy", "upgrade had on "+h.self(), "%s can't read policy version %d", h.self(), p.GetVersion())
	case ownsNothing(h.in.Policy):
		h.fail("policy", "hactl policy apply FILE", "policy version %d names nothing to own", p.GetVersion())
	}
}

func (h *hearing) quorum() {
	switch l := h.in.Leadership; {
	case l.Leading && l.Ready:
		h.ok("quorum", "%s leads, so a majority of the nodes reach each other", h.self())
	case l.Leading:
		h.fail("quorum", "wait a moment", "%s has just been elected and reads the log", h.self())
	case l.Leader != "":
		h.warn("quorum", "", "%s leads and doesn't answer; this is what %s knows", l.Leader, h.self())
	default:
		h.fail("quorum", "start had on the other nodes, or mend the network between them", "no leader is known: without a majority of the nodes nobody may take over")
	}
}

// itself is what the node says of itself, and how well it is heard.
func (h *hearing) itself() {
	health, now, stale := h.own, h.in.Now, false
	if h.node != h.self() {
		p, known := h.status.Peers[h.node]
		switch {
		case !h.in.Leadership.Leading:
			h.fail("answers", "ask again when a leader is known", "only a leader asks the other nodes how they are")
			return
		case !known || p.Health == nil:
			h.fail("answers", h.reach(), "it has not answered %s since %s leads", h.self(), h.self())
			return
		case !h.status.Fresh[h.node]:
			stale = true
			h.fail("answers", h.reach(), "it has not answered for %s", now.Sub(p.At).Round(100*time.Millisecond))
		default:
			h.ok("answers", "it answered %s ago", now.Sub(p.At).Round(time.Millisecond))
		}
		health = p.Health
	}
	for _, why := range reasonsOf(health) {
		if why.GetCheck() == aboutDrain && h.in.View.Drained[h.node] != nil {
			continue // the log says it, too
		}
		said := ""
		if stale {
			said = "as it said last: "
		}
		h.add(why.GetLevel(), why.GetCheck(), why.GetAdvice(), "%s%s", said, why.GetDetail())
	}
	if stale {
		// The rest is as it was then, good or bad.
		return
	}
	if len(health.GetReasons()) == 0 && health.GetEligible() {
		h.ok("itself", "it says that it can own: interfaces, addresses, scripts, volumes, guard and clock are well there")
	}
	h.upToDate(health)
	for _, p := range health.GetProblems() {
		h.warn("itself", "", "%s", p)
	}
	if v := health.GetVersion(); v != h.own.GetVersion() {
		h.warn("version", "upgrade one of them", "it runs had %s, and %s %s", v, h.self(), h.own.GetVersion())
	}
	if d, mine := health.GetHooksDigest(), h.own.GetHooksDigest(); d != "" && mine != "" && d != mine {
		h.warn("scripts", "hactl hook list", "its hook folders are not those of %s: a takeover would do something else there", h.self())
	}
}

func (h *hearing) reach() string {
	return fmt.Sprintf("is its host up, does had run there (systemctl status had), and can %s reach %s?", h.self(), h.member.GetAddress())
}

// upToDate is whether the node has applied what the others have.
func (h *hearing) upToDate(health *hadv1.HealthResponse) {
	applied, view := health.GetAppliedIndex(), h.in.View
	behind := uint64(0)
	if applied < view.Applied {
		behind = view.Applied - applied
	}
	switch v := health.GetPolicyVersion(); {
	case behind > MaxLag:
		h.fail("log", "wait until it has caught up; if it doesn't, look at its disk and network", "it is %d log entries behind: it would not know what was agreed on", behind)
	case view.Policy == nil:
	case v == view.Policy.GetVersion():
		h.ok("log", "it is up to date, with policy version %d", v)
	case applied < view.Policy.GetIndex():
		h.fail("log", "wait a moment", "it has not applied policy version %d yet", view.Policy.GetVersion())
	default:
		h.fail("log", "upgrade had on "+h.node, "it runs policy version %d, and %d is in force", v, view.Policy.GetVersion())
	}
}

// turns is what earlier turns of the node count.
func (h *hearing) turns() {
	r := h.in.View.Nodes[h.node]
	if n := r.GetFailures(); n > 0 {
		h.warn("turns", "hactl move --to "+h.node+" tries it again and forgets them", "turns given back in a row: %d (the last: %s), so nodes that have given back fewer come first", n, r.GetFailedReason())
	}
	if h.shunned {
		h.fail("turns", "wait 10 s", "leadership could not be handed to it, and isn't tried again at once")
	}
	if m := h.in.View.Move.GetOrder(); m != nil && m.GetTarget() != h.node {
		h.fail("move", "hactl history --follow", "a move to %s is under way", m.GetTarget())
	}
}

// earlierOwners are epochs that have to be over before another begins. That of the
// owner who serves isn't in the way: it lets go when it is asked.
func (h *hearing) earlierOwners(owner string) {
	for _, c := range h.in.View.Open {
		who := c.GetInstance().GetNode()
		if c.GetEpoch() == h.in.Holding.Epoch {
			if owner == "" {
				h.fail("turn", "hactl history --follow", "%s is in the middle of taking epoch %d on, or of giving it up", who, c.GetEpoch())
			}
			continue
		}
		if left := cluster.TakeoverAt(h.in.LastLease, []*hadv1.Claim{c}).Sub(h.in.Now); left > 0 && h.in.Leadership.Leading {
			h.fail("lease", "wait for it", "%s (epoch %d) has not said that it released; its lease and its addresses' lifetime are over in %s", who, c.GetEpoch(), left.Round(time.Millisecond))
		}
		if why := cluster.WhyNotSecured(c); why != "" {
			if tried := h.in.Fencing[c.GetEpoch()].Text; tried != "" {
				why += " (" + tried + ")"
			}
			h.fail("volumes", "", "%s", why)
		}
	}
}

// stays says why a node that could own doesn't, and the command that changes it.
func (h *hearing) stays(owner string) (why, next string) {
	if owner == "" {
		return h.status.Why, ""
	}
	next = "hactl move --to " + h.node
	if why, settled := h.leaves(owner); settled {
		return why, next
	}
	why = fmt.Sprintf("%s owns and is well. An owner that is well keeps it, whatever the policy prefers: to give it back is another interruption", owner)
	if b := h.status.Failback; b != "" {
		why = fmt.Sprintf("%s owns and is well, and by the policy it gives it back: %s", owner, b)
	}
	if f := h.in.View.Frozen; f != nil {
		return why + fmt.Sprintf(". Ownership is %s: if %s failed now, nobody would take over before that", FrozenBy(f), owner), next
	}
	all := candidates(h.in)
	if len(all) == 0 || !slices.Contains(all, h.node) {
		return why, next
	}
	if first := all[0]; first == h.node {
		return why + fmt.Sprintf(". If %s failed now, %s would be first%s", owner, h.node, h.because(all)), next
	}
	return why + fmt.Sprintf(". If %s failed now, %s would come before it%s", owner, all[0], h.because([]string{all[0], h.node})), next
}

// because says why the first of some nodes comes before the second.
func (h *hearing) because(all []string) string {
	if len(all) < 2 {
		return ": no other can own"
	}
	a, b := all[0], all[1]
	if unfit(h.in, a) != unfit(h.in, b) {
		return fmt.Sprintf(": more checks failed on %s when it last ran them", b)
	}
	switch fa, fb := h.in.View.Nodes[a].GetFailures(), h.in.View.Nodes[b].GetFailures(); {
	case fa != fb:
		return fmt.Sprintf(": %s has given back more turns than %s", b, a)
	case preference(h.in.Policy, a) != preference(h.in.Policy, b):
		return fmt.Sprintf(": the policy prefers %s", strings.Join(h.in.Policy.Prefer, ", then "))
	}
	return ", if it is elected: nodes that are equal go by who is, then by name"
}
