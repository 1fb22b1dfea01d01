package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	hadv1 "had/proto/had/v1"
)

// renderStatus lays a status out to be read at a glance: who owns what first,
// the nodes next, what is wrong and what to do about it last.
func renderStatus(s *hadv1.StatusResponse, v view) string {
	p := &page{view: v}
	verdict := judge(s)
	p.steering(s)
	p.entry(clean(s.GetCluster())+": ", verdict.level.style(), verdict.headline)
	p.blank()
	p.ownership(s)
	p.blank()
	p.nodes(s)
	p.blank()
	for _, w := range s.GetWarnings() {
		p.entry("warning: ", yellow, w)
	}
	p.freshness(s)
	if next := s.GetNext(); next != "" {
		// Not wrapped: it is there to be copied.
		p.b.WriteString(p.paint(bold, "Next: "+clean(next)) + "\n")
	}
	return p.b.String()
}

func (p *page) ownership(s *hadv1.StatusResponse) {
	o := s.GetOwnership()
	if o.GetOwner() != "" {
		text := o.GetOwner()
		if o.GetSince().IsValid() {
			text += " since " + p.stamp(o.GetSince(), toTheSecond)
			if age := s.GetAt().AsTime().Sub(o.GetSince().AsTime()); age >= 0 {
				text += " (" + span(age.Round(time.Millisecond)) + ")"
			}
		}
		p.entry("owner    ", plain, text+colon(o.GetCause()))
	}
	if why := whyBriefly(s); why != "" {
		p.entry("why      ", yellow, why)
	}
	label := "address  "
	for _, a := range o.GetAddresses() {
		text := fmt.Sprintf("%s (%s)", a.GetAddress(), a.GetVip())
		if a.GetInterface() != "" {
			text += " on " + a.GetInterface()
		}
		p.entry(label, plain, text)
		label = "         "
	}
	if len(o.GetAddresses()) == 0 {
		for _, a := range s.GetPolicy().GetVips() {
			p.entry(label, plain, fmt.Sprintf("%s (%s)", a.GetAddress(), a.GetName()))
			label = "         "
		}
	}
	p.volumes(s)
	p.tokens(s)
	if s.GetFailback() != "" {
		p.entry("failback ", plain, strings.TrimPrefix(s.GetFailback(), "failback "))
	}
	if o.GetEpoch() != 0 {
		text := fmt.Sprintf("epoch %d", o.GetEpoch())
		if left := millis(o.GetLeaseRemainingMs()); left > 0 {
			text += ", " + span(left.Round(time.Millisecond)) + " left unless renewed"
		}
		if len(o.GetLayers()) > 0 {
			text += "; if had dies: " + strings.Join(layers(o.GetLayers()), ", ")
		}
		p.entry("lease    ", plain, text)
	}
	if s.GetLeader() != "" {
		p.entry("leader   ", plain, fmt.Sprintf("%s, term %d", s.GetLeader(), s.GetTerm()))
	} else {
		p.entry("leader   ", red, "none known")
	}
	if policy := s.GetPolicy(); policy == nil {
		p.entry("policy   ", yellow, "none yet")
	} else {
		text := fmt.Sprintf("version %d of %s", policy.GetVersion(), p.stamp(policy.GetAt(), toTheSecond))
		if policy.GetBy() != "" {
			text += " by " + policy.GetBy()
		}
		style := plain
		if t := policy.GetTrial(); t != nil {
			text, style = text+", undone at "+p.stamp(t.GetUntil(), toTheSecond)+" unless confirmed", yellow
		}
		p.entry("policy   ", style, text)
	}
	p.levels(s)
	p.notifications(s)
}

// levels is shown while an upgrade is under way: some node that answers reads
// less than another.
func (p *page) levels(s *hadv1.StatusResponse) {
	l := s.GetLevel()
	if slices.ContainsFunc(s.GetNodes(), func(n *hadv1.NodeStatus) bool {
		return n.GetRecordLevel() != 0 && n.GetRecordLevel() < l.GetKnown()
	}) {
		p.entry("records  ", yellow, fmt.Sprintf("level %d, and %d once every node reads it: %s", l.GetInForce(), l.GetKnown(), strings.Join(l.GetBehind(), "; ")))
	}
}

// volumes lists what is mounted with the addresses, and how a silent owner is
// kept from it.
func (p *page) volumes(s *hadv1.StatusResponse) {
	all := s.GetOwnership().GetVolumes()
	if len(all) == 0 {
		all = s.GetPolicy().GetVolumes()
	}
	label := "volume   "
	for _, h := range all {
		p.entry(label, plain, volumeText(h))
		label = "         "
	}
	methods := s.GetPolicy().GetFenceMethods()
	if len(methods) == 0 || len(all) == 0 {
		return
	}
	text := strings.Join(methods, ", ")
	if slices.Contains(methods, "lease") {
		text += " (best effort: nobody sees whether a silent owner still writes)"
	}
	p.entry("fence    ", plain, text)
}

func (p *page) nodes(s *hadv1.StatusResponse) {
	names, roles := len("NODE"), len("ROLE")
	for _, n := range s.GetNodes() {
		names = max(names, utf8.RuneCountInString(clean(n.GetName())))
		roles = max(roles, len(nodeRole(n)))
	}
	p.entry(pad("NODE", names)+"  "+pad("ROLE", roles)+"  ", plain, "HEALTH")
	for _, n := range s.GetNodes() {
		style := plain
		if !n.GetReachable() && !unasked(s, n) {
			style = red
		}
		p.entry(pad(clean(n.GetName()), names)+"  "+pad(nodeRole(n), roles)+"  ", style, nodeHealth(s, n))
		indent := strings.Repeat(" ", names+2)
		if !n.GetWitness() && !n.GetEligible() {
			for _, r := range n.GetReasons() {
				p.entry(indent+"- ", yellow, r)
			}
		}
		if strayHolder(s, n) {
			p.entry(indent+"! ", red, "holds "+strings.Join(n.GetHolds(), ", ")+" although it doesn't own")
		}
		p.syncs(indent, n)
		for _, problem := range n.GetProblems() {
			p.entry(indent+"! ", red, problem)
		}
	}
}

func nodeRole(n *hadv1.NodeStatus) string {
	var roles []string
	if n.GetOwner() {
		roles = append(roles, "owner")
	}
	if n.GetLeader() {
		roles = append(roles, "leader")
	}
	if n.GetWitness() {
		roles = append(roles, "witness")
	}
	if len(roles) == 0 {
		return "-"
	}
	return strings.Join(roles, ", ")
}

func nodeHealth(s *hadv1.StatusResponse, n *hadv1.NodeStatus) string {
	var parts []string
	switch seen := millis(n.GetLastSeenMs()); {
	case n.GetReachable():
		parts = append(parts, "reachable")
	case seen > 0:
		parts = append(parts, "NOT REACHABLE, last seen "+span(seen)+" ago")
	case unasked(s, n):
		parts = append(parts, "not known")
	default:
		parts = append(parts, "NOT REACHABLE")
	}
	switch {
	case n.GetWitness():
		parts = append(parts, "never owns")
	case !n.GetReachable() || s.GetPolicy() == nil:
		// What it said last, or about nothing, is no answer.
	case n.GetEligible():
		parts = append(parts, "eligible")
	default:
		parts = append(parts, "not eligible")
	}
	if text := checkCount(n); text != "" && n.GetReachable() {
		parts = append(parts, text)
	}
	if len(n.GetHolds()) > 0 && !strayHolder(s, n) {
		parts = append(parts, "holds "+strings.Join(n.GetHolds(), ", "))
	}
	if reports := n.GetPendingReports(); reports > 0 {
		parts = append(parts, plural(int(reports), "report", "reports")+" not yet in the log")
	}
	if v, want := n.GetPolicyVersion(), s.GetPolicy().GetVersion(); v != 0 && v != want && n.GetReachable() {
		parts = append(parts, fmt.Sprintf("still runs policy version %d", v))
	}
	return strings.Join(parts, ", ")
}

func (p *page) freshness(s *hadv1.StatusResponse) {
	f := s.GetFreshness()
	label := fmt.Sprintf("seen by %s at %s: ", s.GetAnsweredBy(), p.stamp(s.GetAt(), toTheSecond))
	if f.GetConfirmed() {
		p.entry("", faint, label+"confirmed by quorum "+span(millis(f.GetAgeMs()))+" ago")
		return
	}
	note := f.GetNote()
	if note == s.GetOwnership().GetWhy() {
		note = "" // said already
	}
	p.entry("", red, label+"not confirmed"+colon(note))
}

// layers says what ends the lease when had can't.
func layers(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		switch n {
		case "lifetime":
			out[i] = "addresses expire"
		case "guard":
			out[i] = "the guard takes them down"
		case "gate":
			out[i] = "the kernel drops their packets"
		default: // of a newer had
			out[i] = n
		}
	}
	return out
}
