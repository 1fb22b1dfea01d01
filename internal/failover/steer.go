package failover

import (
	"fmt"
	"slices"
	"time"

	"had/internal/check"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// What people, checks and the policy's wishes change in who owns. All of it may
// wait: whoever can't hold any longer gives up by the rules in decide.go.

// steered is what an owner does that serves and could go on; ok is false when
// that is nothing.
func steered(in Inputs) (plan Plan, ok bool) {
	v, self := in.View, in.Instance.GetNode()
	order := func(to, cause string, checks []string) (Plan, bool) {
		return do(Step{Kind: StepOrderMove, Epoch: in.Holding.Epoch, Target: to, Cause: cause, Checks: checks, Soft: true}), true
	}
	if thaws(in) {
		return do(Step{Kind: StepUnfreeze, Cause: "its time is over"}), true
	}
	if v.Move != nil {
		return Plan{}, false
	}
	if d := v.Drained[self]; d != nil {
		if to := willing(in); len(to) > 0 {
			return order(to[0], drainedBy(d), nil)
		}
	}
	switch {
	case v.Frozen != nil || v.Held != nil:
		return Plan{}, false
	case in.Holding.Kept && in.Flapping != "":
		return hold(in, "a script failed")
	}
	if len(in.Failing) > 0 {
		to := fit(in)
		switch {
		case len(to) == 0:
			return Plan{}, false // nobody is better
		case in.Flapping != "":
			return hold(in, in.Failing[0].String())
		}
		var names []string
		for _, r := range in.Failing {
			names = append(names, r.Check.Name)
		}
		return order(to[0], in.Failing[0].String(), names)
	}
	if in.FailBack != "" {
		return order(in.FailBack, fmt.Sprintf("failback to %s, which the policy prefers", in.FailBack), nil)
	}
	return Plan{}, false
}

// hold is the plan of an owner that stays although it would be left.
func hold(in Inputs, why string) (Plan, bool) {
	return do(Step{Kind: StepHold, Epoch: in.Holding.Epoch, Cause: fmt.Sprintf("%s: staying with %s although %s", in.Flapping, in.Instance.GetNode(), why)}), true
}

// thaws reports that a freeze is over and the log doesn't say so yet.
func thaws(in Inputs) bool { return in.View.Frozen != nil && in.FreezeOver }

// frozenOut says why a node that leads may not acquire; empty: it may. A freeze
// leaves the addresses to the last owner, and to whom a person gives them.
func frozenOut(in Inputs) string {
	self, last := in.Instance.GetNode(), in.View.LastOwner
	switch {
	case in.View.Frozen == nil, last == self, in.View.Move.GetOrder().GetTarget() == self:
		return ""
	case last == "":
		return FrozenBy(in.View.Frozen) + ": nobody may begin to own"
	}
	return fmt.Sprintf("%s: only %s, the last owner, may own", FrozenBy(in.View.Frozen), last)
}

// FrozenBy says who has frozen ownership, and until when.
func FrozenBy(f *hadv1.Frozen) string {
	return fmt.Sprintf("frozen by %s until %s", f.GetFreeze().GetBy(), f.GetFreeze().GetUntil().AsTime().UTC().Format("2006-01-02 15:04:05 UTC"))
}

func drainedBy(d *hadv1.Drain) string {
	text := "drained by " + d.GetBy()
	if d.GetReason() != "" {
		text += ": " + d.GetReason()
	}
	return text
}

// willing are the candidates that have not just said that they can't take over.
func willing(in Inputs) []string {
	return slices.DeleteFunc(candidates(in), func(node string) bool { return in.Declined[node] != "" })
}

// fit are those on which no check failed when they last said so, unless a later
// owner has passed it: where it fails on every node, the address must not wander.
func fit(in Inputs) []string {
	return slices.DeleteFunc(willing(in), func(node string) bool { return unfit(in, node) > 0 })
}

// unfit counts the checks that a node said last to be failing.
func unfit(in Inputs, node string) (n int) {
	for _, f := range in.View.Failing(node) {
		if !f.GetPassedSince() {
			n++
		}
	}
	return n
}

// preferredNow names the node to which a failback would go, if it could take
// over right now; empty: there is none. A node that lost the addresses to a check
// must have passed it itself.
func preferredNow(in Inputs) string {
	if in.Policy == nil {
		return ""
	}
	for _, name := range in.Policy.Prefer {
		p, known := in.Peers[name]
		switch {
		case name == in.Instance.GetNode():
			return ""
		case known && p.canOwn() && p.Applied+MaxLag >= in.View.Applied && in.Declined[name] == "" &&
			in.View.Nodes[name].GetFailures() == 0 && len(in.View.Failing(name)) == 0:
			return name
		}
	}
	return ""
}

// flapping says that the limits allow no further failover because of checks or
// scripts; empty: they do. The times are the wall clocks of those who proposed
// the records: nobody's safety rests on them.
func flapping(failovers []*hadv1.Failover, p *policy.Policy, now time.Time) string {
	if p == nil {
		return ""
	}
	l, n := p.Limits.OrDefault(), 0
	for _, f := range failovers {
		if f.GetAt().AsTime().After(now.Add(-l.Within)) {
			n++
		}
	}
	if n < l.MaxFailovers {
		return ""
	}
	return fmt.Sprintf("the limit of %s is reached", l)
}

// failing are the results that speak against an owner.
func failing(all []check.Result) (out []check.Result) {
	for _, r := range all {
		if r.State == check.Failing && r.Check.On != policy.OnStandby {
			out = append(out, r)
		}
	}
	return out
}

// unready says which of a policy's checks keep a node that doesn't own from
// taking over. One that has not begun to run hasn't passed. For a move at once it
// is enough that the latest look failed: where a check fails on every node, the
// owner is only the first to have counted.
func unready(p *policy.Policy, all []check.Result, atOnce bool) (out []string) {
	for _, c := range p.Checks {
		if c.On == policy.OnOwner {
			continue
		}
		r := check.Result{Check: c}
		if i := slices.IndexFunc(all, func(r check.Result) bool { return r.Of(c) }); i >= 0 {
			r = all[i]
		}
		if r.State != check.Passing || atOnce && !r.Good {
			out = append(out, r.String())
		}
	}
	return out
}

// kept reports that by the limits a script that fails after the addresses are up
// hands nothing over.
func (in Inputs) kept() bool { return in.View.Held != nil || in.Flapping != "" }
