package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Bounds of what is told of one event, in characters.
const (
	maxTitle = 90
	maxText  = 700
)

// line makes one printable line of a text, shortened to most characters: it goes
// into mail headers, environments and terminals, and holds what scripts and
// devices have said.
func line(text string, most int) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))), " ")
	if r := []rune(text); len(r) > most {
		text = string(r[:most-1]) + "…"
	}
	return text
}

// clockTime is how times are written for people.
func clockTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// serving tells who owns. t has no acquire when the history no longer knows it.
func serving(e *hadv1.Event, p *hadv1.Progress, t turn) Item {
	addresses, volumes := p.GetAddresses(), t.acquire.GetVolumes()
	it := Item{Topic: policy.TopicOwner, Severity: Info}
	it.Title = e.GetNode() + " owns " + things(addresses, volumes, 1)
	it.Text = e.GetNode() + " owns " + things(addresses, volumes, 20)
	switch failed := t.acquire != nil && !t.planned; {
	case failed && t.from == e.GetNode():
		it.Severity = Warning
		it.Title += " again"
	case failed && t.from != "":
		it.Severity = Warning
		it.Title = fmt.Sprintf("%s took over %s from %s", e.GetNode(), things(addresses, volumes, 1), t.from)
		it.Text += ", taken over from " + t.from
	}
	if cause := t.acquire.GetCause(); cause != "" {
		it.Text += ": " + cause
	}
	it.Text += "."
	for _, s := range p.GetSteps() {
		if s.GetError() != "" {
			it.Severity = Warning
			it.Title = e.GetNode() + " owns, but a script failed"
			it.Text += fmt.Sprintf(" It carries on although %s failed: %s.", s.GetName(), s.GetError())
		}
	}
	return it
}

// things names what is owned, the first few of it.
func things(addresses []*hadv1.HeldAddress, volumes []*hadv1.HeldVolume, most int) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.GetAddress())
	}
	for _, v := range volumes {
		all = append(all, "volume "+v.GetName())
	}
	switch {
	case len(all) == 0:
		return "nothing"
	case len(all) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return strings.Join(all, ", ")
}

func forced(e *hadv1.Event, r *hadv1.Released) Item {
	it := Item{Topic: policy.TopicForced, Severity: Warning, Title: e.GetNode() + " was released by force"}
	it.Text = e.GetNode() + " was released by force"
	if r.GetKind() == hadv1.Evidence_KIND_REBOOTED {
		it.Title, it.Text = e.GetNode()+" has booted", e.GetNode()+" has booted: what it held is gone"
	}
	if r.GetCause() != "" {
		it.Text += ": " + r.GetCause()
	}
	it.Text += "."
	return it
}

// script tells of a hook that failed where nothing else tells of it: what Test
// and PreAcq say decides the turn, and is its reason.
func script(e *hadv1.Event, h *hadv1.HookResult) (Item, bool) {
	var how string
	switch h.GetOutcome() {
	case hadv1.HookResult_OUTCOME_EXITED:
		if h.GetExitCode() == 0 {
			return Item{}, false
		}
		how = fmt.Sprintf("exit code %d", h.GetExitCode())
	case hadv1.HookResult_OUTCOME_SIGNALED:
		how = "ended by " + h.GetSignal()
	case hadv1.HookResult_OUTCOME_TIMED_OUT:
		how = "it took too long and was killed"
	case hadv1.HookResult_OUTCOME_REFUSED:
		how = h.GetError()
	default: // it was stopped with its turn
		return Item{}, false
	}
	if stage := h.GetStage(); stage == "Test" || stage == "PreAcq" {
		return Item{}, false
	}
	// What it printed stays on the cluster: nobody knows what is in it.
	return Item{
		Topic: policy.TopicScript, Severity: Warning, Title: fmt.Sprintf("%s failed on %s", h.GetScript(), e.GetNode()),
		Text: fmt.Sprintf("%s for %s failed on %s: %s. What it printed is in hactl history.", h.GetScript(), h.GetVip(), e.GetNode(), how),
	}, true
}

func secured(e *hadv1.Event, r *hadv1.Secured) Item {
	it := Item{Topic: policy.TopicVolumes, Severity: Info, Title: "volumes of " + e.GetNode() + " are safe"}
	var how string
	switch r.GetKind() {
	case hadv1.Secured_KIND_GUARD:
		how = "its guard unmounted them"
	case hadv1.Secured_KIND_FENCED:
		how = "its host was switched off"
	case hadv1.Secured_KIND_WATCHDOG:
		how = "its watchdog has reset the host, or they were unmounted before that"
	case hadv1.Secured_KIND_RESERVED:
		how = "the disks refuse its writes"
	case hadv1.Secured_KIND_CONFIRMED:
		how = r.GetBy() + " has seen that it is off"
	case hadv1.Secured_KIND_LEASE:
		it.Severity, it.Title = Warning, "volumes of "+e.GetNode()+" count as safe"
		how = "nobody has seen it, but enough time has passed"
	default:
		how = "as a newer version of had says"
	}
	it.Text = fmt.Sprintf("The volumes of %s are safe from it: %s.", e.GetNode(), how)
	if r.GetDetail() != "" {
		it.Text += " (" + r.GetDetail() + ")"
	}
	return it
}

func policyApplied(p *hadv1.PolicyApply) Item {
	it := Item{Topic: policy.TopicPolicy, Severity: Info, Title: fmt.Sprintf("policy version %d applied", p.GetExpectedVersion()+1)}
	it.Text = fmt.Sprintf("Policy version %d was applied", p.GetExpectedVersion()+1)
	switch {
	case p.GetKind() == hadv1.PolicyApply_KIND_UNDO:
		it.Severity, it.Title = Warning, fmt.Sprintf("policy version %d was undone", p.GetExpectedVersion())
		it.Text = fmt.Sprintf("Policy version %d was undone, and version %d is the text of version %d", p.GetExpectedVersion(), p.GetExpectedVersion()+1, p.GetOfVersion())
	case p.GetKind() == hadv1.PolicyApply_KIND_ROLLBACK:
		it.Text += fmt.Sprintf(", which is the text of version %d,", p.GetOfVersion())
	case p.GetConfirmWithinNs() != 0:
		it.Text += fmt.Sprintf(", to be confirmed within %s,", time.Duration(p.GetConfirmWithinNs()))
	}
	if p.GetBy() != "" {
		it.Text += " by " + p.GetBy()
	}
	if p.GetReason() != "" {
		it.Text += ": " + p.GetReason()
	}
	it.Text += "."
	return it
}

func undelivered(m *hadv1.NotifyMark) (Item, bool) {
	if m.GetOutcome() != hadv1.NotifyMark_OUTCOME_GAVE_UP {
		return Item{}, false
	}
	return Item{
		Topic: policy.TopicUndelivered, Severity: Warning, Title: m.GetChannel() + " was given up on",
		Text: fmt.Sprintf("A message of %d events to %s was given up: %s. What it told is in hactl history.", m.GetEvents(), m.GetChannel(), m.GetWhy()),
	}, true
}
