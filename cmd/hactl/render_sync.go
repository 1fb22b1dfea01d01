package main

import (
	"fmt"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// describeSync says what a run of a sync came to.
func describeSync(s *hadv1.SyncResult) (string, style) {
	text := fmt.Sprintf("sync %s ", s.GetName())
	from := ""
	if s.GetOwner() != "" {
		from = " from " + s.GetOwner()
	}
	took := ""
	if d := time.Duration(s.GetDurationNs()); d > 0 {
		took = " after " + span(d.Round(time.Millisecond))
	}
	switch s.GetOutcome() {
	case hadv1.SyncResult_OUTCOME_COPIED:
		return text + "has copied" + from + strings.Replace(took, "after", "in", 1), plain
	case hadv1.SyncResult_OUTCOME_FAILED:
		return text + "FAILED" + from + took + colon(s.GetError()), red
	case hadv1.SyncResult_OUTCOME_TIMED_OUT:
		return text + "TIMED OUT" + from + " and was killed" + took, red
	case hadv1.SyncResult_OUTCOME_STOPPED:
		return text + "was STOPPED" + from + took + ", so the copy is part old and part new" + colon(s.GetError()), yellow
	case hadv1.SyncResult_OUTCOME_HELD:
		return text + "is HELD" + colon(s.GetError()), yellow
	case hadv1.SyncResult_OUTCOME_UNSPECIFIED:
	}
	return text + word(s.GetOutcome()) + from + took + colon(s.GetError()), yellow
}

// syncFailed reports whether a run's output is worth a look.
func syncFailed(s *hadv1.SyncResult) bool {
	return s.GetOutcome() == hadv1.SyncResult_OUTCOME_FAILED || s.GetOutcome() == hadv1.SyncResult_OUTCOME_TIMED_OUT
}

// syncs lists how each sync of the policy is on a node.
func (p *page) syncs(indent string, n *hadv1.NodeStatus) {
	if !n.GetReachable() {
		return // what it said last is no answer
	}
	for _, y := range n.GetSyncs() {
		text, s := syncText(y)
		if text != "" {
			p.entry(indent+"~ ", s, text)
		}
	}
}

// syncText is how a sync is on a node; empty on the owner, which is copied from.
func syncText(y *hadv1.SyncStatus) (string, style) {
	age := "no copy yet"
	if y.GetCopied() {
		age = "copy " + span(millis(y.GetAgeMs()).Round(time.Second)) + " old"
	}
	s := plain
	if most := y.GetMaxAgeMs(); most > 0 && (!y.GetCopied() || y.GetAgeMs() > most) {
		s = yellow
		age += " (max_age " + span(millis(most)) + ")"
	}
	text := fmt.Sprintf("sync %s: %s", y.GetName(), age)
	switch y.GetState() {
	case hadv1.SyncStatus_STATE_OWNER:
		return "", plain
	case hadv1.SyncStatus_STATE_RUNNING:
		text += ", running for " + span(millis(y.GetRunningMs()).Round(time.Second))
	case hadv1.SyncStatus_STATE_FAILING:
		text, s = text+fmt.Sprintf(", FAILS (%s in a row)", plural(int(y.GetFailures()), "time", "times"))+colon(y.GetWhy()), red
	case hadv1.SyncStatus_STATE_HELD:
		text, s = text+", HELD", yellow
	case hadv1.SyncStatus_STATE_WAITING:
		if y.GetWhy() != "" {
			text += ", waits" + colon(y.GetWhy())
		} else if next := millis(y.GetNextMs()); next > 0 {
			text += ", next in " + span(next.Round(time.Second))
		}
	case hadv1.SyncStatus_STATE_UNSPECIFIED:
	}
	return text, s
}
