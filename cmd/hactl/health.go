package main

import (
	"fmt"
	"strings"

	hadv1 "had/proto/had/v1"
)

// level is how well the cluster is; the numbers are the exit codes of a
// monitoring plugin (Monitoring Plugins Development Guidelines, "Plugin
// Return Codes").
type level int

const (
	levelOK       level = 0
	levelWarning  level = 1
	levelCritical level = 2
	levelUnknown  level = 3
)

func (l level) String() string {
	return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[l]
}

func (l level) style() style {
	return [...]style{green, yellow, red, red}[l]
}

// verdict is a status in one sentence, with what keeps it from being fine.
type verdict struct {
	level    level
	headline string   // who owns what
	remarks  []string // at least one unless level is OK or the headline says it
}

// judge condenses a status. Only an ownership that a quorum has confirmed, of
// a kind this hactl knows, with every node well, is OK.
func judge(s *hadv1.StatusResponse) verdict {
	v := judgeOwnership(s)
	if v.level != levelUnknown && !s.GetFreshness().GetConfirmed() {
		v.level = levelUnknown
		v.headline += " as last known"
		v.remarks = append(v.remarks, "not confirmed by a quorum"+colon(s.GetFreshness().GetNote()))
	}
	remarks := append(steerRemarks(s), nodeRemarks(s)...)
	remarks = append(remarks, s.GetWarnings()...)
	if len(remarks) > 0 && v.level == levelOK {
		v.level = levelWarning
	}
	v.remarks = append(v.remarks, remarks...)
	return v
}

func judgeOwnership(s *hadv1.StatusResponse) verdict {
	o := s.GetOwnership()
	what := addressList(s)
	why := func(l level, headline string) verdict {
		v := verdict{level: l, headline: headline}
		if text := whyBriefly(s); text != "" {
			v.remarks = []string{text}
		}
		return v
	}
	switch o.GetState() {
	case hadv1.Ownership_STATE_OWNED:
		return verdict{level: levelOK, headline: o.GetOwner() + " owns " + what}
	case hadv1.Ownership_STATE_ACQUIRING:
		return why(levelWarning, o.GetOwner()+" is taking over "+what)
	case hadv1.Ownership_STATE_RELEASING:
		return why(levelWarning, o.GetOwner()+" is releasing "+what)
	case hadv1.Ownership_STATE_WAITING:
		headline := "NOBODY OWNS " + what + " yet"
		if wait := millis(o.GetWaitRemainingMs()); wait > 0 {
			headline += ": a successor may act in " + span(wait)
		}
		return why(levelCritical, headline)
	case hadv1.Ownership_STATE_UNOWNED:
		return why(levelCritical, "NOBODY OWNS "+what)
	case hadv1.Ownership_STATE_NO_POLICY:
		if s.GetPolicy() != nil {
			return why(levelWarning, "the policy names no address, so there is nothing to own")
		}
		return why(levelWarning, "no policy yet, so there is nothing to own")
	case hadv1.Ownership_STATE_UNKNOWN:
		return why(levelUnknown, "UNKNOWN who owns "+what)
	}
	return why(levelUnknown, fmt.Sprintf("UNKNOWN who owns %s (hactl doesn't know the state %q)", what, word(o.GetState())))
}

// whyBriefly is why nobody owns. When no node can, the service lists each
// one's reason after a colon; with the nodes that is said twice.
func whyBriefly(s *hadv1.StatusResponse) string {
	why := s.GetOwnership().GetWhy()
	if s.GetOwnership().GetState() != hadv1.Ownership_STATE_UNOWNED {
		return why
	}
	for _, n := range s.GetNodes() {
		if !n.GetWitness() && !n.GetEligible() && len(n.GetReasons()) > 0 {
			why, _, _ = strings.Cut(why, ": ")
		}
	}
	return why
}

// nodeRemarks says what is wrong with the nodes, one remark a node and kind.
func nodeRemarks(s *hadv1.StatusResponse) []string {
	var remarks []string
	for _, n := range s.GetNodes() {
		name := n.GetName()
		if unasked(s, n) {
			continue
		}
		if !n.GetReachable() {
			remarks = append(remarks, name+" is not reachable")
		} else if !n.GetWitness() && !n.GetEligible() && s.GetPolicy() != nil {
			remarks = append(remarks, name+" is not eligible"+colon(strings.Join(n.GetReasons(), "; ")))
		}
		if strayHolder(s, n) {
			remarks = append(remarks, name+" doesn't own but holds "+strings.Join(n.GetHolds(), ", "))
		}
		for _, p := range n.GetProblems() {
			remarks = append(remarks, name+": "+p)
		}
	}
	return remarks
}

// unasked reports whether the node that answered knows nothing of n: only a
// leader asks the others how they are.
func unasked(s *hadv1.StatusResponse, n *hadv1.NodeStatus) bool {
	return s.GetLeader() != s.GetAnsweredBy() && n.GetName() != s.GetAnsweredBy() && !n.GetReachable() && n.GetLastSeenMs() == 0
}

// strayHolder reports whether n has addresses in its kernel although another
// node owns them and no hand-over is under way.
func strayHolder(s *hadv1.StatusResponse, n *hadv1.NodeStatus) bool {
	return s.GetOwnership().GetState() == hadv1.Ownership_STATE_OWNED &&
		n.GetName() != s.GetOwnership().GetOwner() && len(n.GetHolds()) > 0
}

// addressList names the addresses: those of the epoch, else the policy's. At
// most three are spelled out. A policy may have a volume alone.
func addressList(s *hadv1.StatusResponse) string {
	var all []string
	for _, a := range s.GetOwnership().GetAddresses() {
		all = append(all, a.GetAddress())
	}
	if len(all) == 0 {
		for _, v := range s.GetPolicy().GetVips() {
			all = append(all, v.GetAddress())
		}
	}
	switch {
	case len(all) == 0 && len(s.GetPolicy().GetVolumes()) > 0:
		return "volume " + s.GetPolicy().GetVolumes()[0].GetName()
	case len(all) == 0:
		return "the addresses"
	case len(all) > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:2], ", "), len(all)-2)
	}
	return strings.Join(all, ", ")
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// pluginLine is the one line a monitoring plugin prints. A bar would begin
// performance data.
func pluginLine(s *hadv1.StatusResponse) string {
	v := judge(s)
	return strings.ReplaceAll(fmt.Sprintf("HAD %s - %s", v.level, summary(s, v)), "|", "/") + "\n"
}

// summary is a status in one line.
func summary(s *hadv1.StatusResponse, v verdict) string {
	reachable, asked := 0, true
	for _, n := range s.GetNodes() {
		if n.GetReachable() {
			reachable++
		}
		asked = asked && !unasked(s, n)
	}
	parts := []string{s.GetCluster() + ": " + v.headline}
	if asked {
		parts = append(parts, fmt.Sprintf("%d of %s reachable", reachable, plural(len(s.GetNodes()), "node", "nodes")))
	}
	for _, r := range v.remarks {
		parts = append(parts, strings.TrimSuffix(r, "."))
	}
	return clean(strings.Join(parts, "; "))
}
