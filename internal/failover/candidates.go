package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"had/cluster"
	"had/internal/policy"
)

// candidates are the other nodes that could own now, best first: fewest checks
// that fail there, fewest failed turns, then the policy's order of preference, then by name.
func candidates(in Inputs) []string {
	var names []string
	for name, p := range in.Peers {
		if p.canOwn() {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return compareNodes(in, a, b) })
	return names
}

func compareNodes(in Inputs, a, b string) int {
	return cmp.Or(
		cmp.Compare(unfit(in, a), unfit(in, b)),
		cmp.Compare(in.View.Nodes[a].GetFailures(), in.View.Nodes[b].GetFailures()),
		cmp.Compare(preference(in.Policy, a), preference(in.Policy, b)),
		cmp.Compare(a, b),
	)
}

func preference(p *policy.Policy, node string) int {
	if p == nil {
		return 0
	}
	if i := slices.Index(p.Prefer, node); i >= 0 {
		return i
	}
	return len(p.Prefer)
}

// betterThan names a node that should have the turn rather than self: one where
// fewer checks fail, one that failed less often since its last success or, when there is time for
// it, one that the policy prefers.
func betterThan(in Inputs, self string) string {
	best := candidates(in)
	if len(best) == 0 || in.View.Move.GetOrder().GetTarget() == self {
		return ""
	}
	if c := cmp.Compare(unfit(in, best[0]), unfit(in, self)); c != 0 {
		if c < 0 {
			return best[0]
		}
		return ""
	}
	mine, theirs := in.View.Nodes[self].GetFailures(), in.View.Nodes[best[0]].GetFailures()
	if theirs < mine || unhurried(in) && theirs == mine && preference(in.Policy, best[0]) < preference(in.Policy, self) {
		return best[0]
	}
	return ""
}

// unhurried reports that handing leadership to a preferred node first makes
// nobody wait longer: there has never been an owner, or the last one has to be
// waited for anyway.
func unhurried(in Inputs) bool {
	return in.View.LastEpoch == 0 || len(in.View.Open) > 0 && cluster.TakeoverAt(in.LastLease, in.View.Open).Sub(in.Now) > time.Second
}

// hearLimit is how long a first owner waits for the word of a node that the
// policy prefers.
const hearLimit = 2 * time.Second

// targetLimit is how long a leader that was elected in the midst of a move waits for
// the word of its target. Nobody else knows how that is, and it is ready.
const targetLimit = 500 * time.Millisecond

// unheard names a node that the policy prefers to self and that has not said
// yet whether it could own under this policy. Only the first owner is worth
// the wait.
func unheard(in Inputs, self string) string {
	if in.View.LastEpoch != 0 || in.Policy == nil || !in.Now.Before(in.PolicySeen.Add(hearLimit)) {
		return ""
	}
	for _, name := range in.Policy.Prefer {
		if name == self {
			break
		}
		if p := in.Peers[name]; p.Fresh && !p.Witness && p.Applied < in.View.Policy.GetIndex() {
			return name
		}
	}
	return ""
}

// nobodyCan lists every node's reason, so that the one line answers the
// question.
func nobodyCan(in Inputs, own []string) string {
	return fmt.Sprintf("no node can own: %s: %s%s", in.Instance.GetNode(), own[0], othersCant(in))
}

// othersCant is "; NAME: REASON" for each other node that isn't a witness.
func othersCant(in Inputs) string {
	s := ""
	for _, name := range slices.Sorted(maps.Keys(in.Peers)) {
		if p := in.Peers[name]; !p.Witness {
			s += fmt.Sprintf("; %s: %s", name, reasonOf(p))
		}
	}
	return s
}

func reasonOf(p Peer) string {
	switch {
	case !p.Fresh:
		return "it doesn't answer"
	case len(p.Reasons) > 0:
		return p.Reasons[0]
	case !p.Eligible:
		return "it says that it can't own"
	}
	return "it could own"
}

func nothingToOwn(in Inputs) string {
	switch {
	case in.View.Policy == nil:
		return "there is no policy yet"
	case in.Policy != nil && ownsNothing(in.Policy):
		return "the policy names no address"
	}
	return ""
}

func ownsNothing(p *policy.Policy) bool { return len(p.VIPs) == 0 && len(p.Volumes) == 0 }
