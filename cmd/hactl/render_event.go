package main

import (
	"fmt"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// Columns of a line of history; longer names push the rest to the right.
const (
	nodeColumn  = 8
	epochColumn = 7
)

// outputLines is how many of the last lines a failed hook wrote are shown.
const outputLines = 10

// lateAfter is how long a report may take to the log before both times are
// shown.
const lateAfter = time.Second

// renderEvent writes one event: a line, and below it, indented, what a failed
// hook wrote last. layout is how times are written.
func renderEvent(e *hadv1.Event, v view, layout string) string {
	var b strings.Builder
	epoch := "-"
	if e.GetEpoch() != 0 {
		epoch = fmt.Sprintf("#%d", e.GetEpoch())
	}
	text, s := describe(e, v)
	when := v.stamp(e.GetAt(), layout)
	fmt.Fprintf(&b, "%s  %s  %s  %s", when, pad(clean(e.GetNode()), nodeColumn), pad(epoch, epochColumn), v.paint(s, clean(text)))
	if late := e.GetRecordedAt().AsTime().Sub(e.GetAt().AsTime()); e.GetAt().IsValid() && e.GetRecordedAt().IsValid() && late > lateAfter {
		fmt.Fprintf(&b, " [reached the log %s later, at %s]", span(late), v.stamp(e.GetRecordedAt(), timeOfDay))
	}
	b.WriteByte('\n')
	var output []byte
	if h := e.GetHook(); h != nil && hookFailed(h) {
		output = h.GetOutputTail()
	}
	if s := e.GetSync(); s != nil && syncFailed(s) {
		output = s.GetOutputTail()
	}
	for _, line := range lastLines(output) {
		b.WriteString(strings.TrimRight(strings.Repeat(" ", len(when)+2)+"| "+line, " ") + "\n")
	}
	return b.String()
}

// lastLines is the end of what a program wrote.
func lastLines(output []byte) []string {
	lines := cleanBlock(string(output))
	return lines[max(0, len(lines)-outputLines):]
}

// describe says what an event tells.
func describe(e *hadv1.Event, v view) (string, style) {
	switch body := e.GetBody().(type) {
	case *hadv1.Event_Birth:
		return describeBirth(body.Birth), plain
	case *hadv1.Event_Recovered:
		return describeRecovered(body.Recovered), yellow
	case *hadv1.Event_PolicyApplied:
		return describePolicy(body.PolicyApplied, v)
	case *hadv1.Event_PolicyConfirmed:
		p := body.PolicyConfirmed
		return fmt.Sprintf("policy version %d confirmed%s%s", p.GetVersion(), by(p.GetBy()), colon(p.GetReason())), plain
	case *hadv1.Event_Extended:
		return describeExtended(body.Extended), plain
	case *hadv1.Event_Acquired:
		return "acquired " + taken(body.Acquired) + colon(body.Acquired.GetCause()), bold
	case *hadv1.Event_Progress:
		return describeProgress(body.Progress)
	case *hadv1.Event_Released:
		return describeReleased(body.Released)
	case *hadv1.Event_Hook:
		return describeHook(body.Hook)
	case *hadv1.Event_MoveOrdered:
		m := body.MoveOrdered
		return fmt.Sprintf("move to %s asked for%s%s (operation %s)", m.GetTarget(), by(m.GetBy()), colon(m.GetReason()), m.GetOperation()), plain
	case *hadv1.Event_MoveEnded:
		return fmt.Sprintf("move ended without a hand-over%s (operation %s)", colon(body.MoveEnded.GetWhy()), body.MoveEnded.GetOperation()), yellow
	case *hadv1.Event_Closed:
		return describeEvidence(body.Closed), plain
	case *hadv1.Event_Secured:
		return describeSecured(body.Secured)
	case *hadv1.Event_FenceTry:
		return describeFenceTry(body.FenceTry)
	case *hadv1.Event_Sync:
		return describeSync(body.Sync)
	case *hadv1.Event_SyncResumed:
		return fmt.Sprintf("sync %s resumed%s: the data of %s are the ones to keep%s", body.SyncResumed.GetName(), by(body.SyncResumed.GetBy()), e.GetNode(), colon(body.SyncResumed.GetReason())), plain
	case *hadv1.Event_TokenChanged:
		return describeTokenChanged(body.TokenChanged), plain
	case *hadv1.Event_Notified:
		return describeNotified(body.Notified)
	case *hadv1.Event_LevelRisen:
		return describeLevel(body.LevelRisen), bold
	case *hadv1.Event_Notice:
		return describeNotice(body.Notice, v)
	}
	if text, ok := describeMember(e); ok {
		return text, plain
	}
	return describeSteer(e)
}

// describeMember tells of changes of the members.
func describeMember(e *hadv1.Event) (string, bool) {
	switch body := e.GetBody().(type) {
	case *hadv1.Event_MemberAdded:
		a := body.MemberAdded
		as := ""
		if a.GetMember().GetWitness() {
			as = " as a witness"
		}
		return fmt.Sprintf("%s %s is added%s%s, without a vote yet%s", e.GetNode(), a.GetMember().GetAddress(), as, by(a.GetBy()), colon(a.GetReason())), true
	case *hadv1.Event_MemberRemoved:
		return fmt.Sprintf("%s is to leave%s%s", e.GetNode(), by(body.MemberRemoved.GetBy()), colon(body.MemberRemoved.GetReason())), true
	case *hadv1.Event_MemberSettled:
		if body.MemberSettled.GetGone() {
			return e.GetNode() + " is no member any more", true
		}
		return e.GetNode() + " is a member and votes", true
	}
	return "", false
}

func describeLevel(r *hadv1.LevelRise) string {
	var members []string
	for _, m := range r.GetMembers() {
		members = append(members, strings.TrimSpace(m.GetNode()+" "+m.GetVersion()))
	}
	return fmt.Sprintf("the log may have records of level %d%s, and no older had can join%s; all nodes: %s", r.GetLevel(), by(r.GetBy()), colon(r.GetReason()), strings.Join(members, ", "))
}

func describeBirth(b *hadv1.Birth) string {
	var members []string
	for _, m := range b.GetMembers() {
		text := m.GetName() + " " + m.GetAddress()
		if m.GetWitness() {
			text += " (witness)"
		}
		members = append(members, text)
	}
	return fmt.Sprintf("cluster %s was born: %s", b.GetCluster(), strings.Join(members, ", "))
}

func describeRecovered(r *hadv1.Recovered) string {
	var lost []string
	for _, m := range r.GetLost() {
		lost = append(lost, m.GetName())
	}
	return fmt.Sprintf("RECOVERED on %s alone, without %s: generation %d of the cluster begins above entry %d, confirmed%s%s",
		r.GetNode(), strings.Join(lost, ", "), r.GetGeneration(), r.GetLastIndex(), by(r.GetBy()), colon(r.GetReason()))
}

func describeProgress(p *hadv1.Progress) (string, style) {
	rest := colon(p.GetReason()) + steps(p.GetSteps(), p.GetReason())
	switch p.GetOutcome() {
	case hadv1.Progress_OUTCOME_SERVING:
		return "serving" + rest, green
	case hadv1.Progress_OUTCOME_FAILED:
		return "FAILED, gave the turn back" + rest, red
	case hadv1.Progress_OUTCOME_VETOED:
		return "VETOED" + rest, red
	}
	return "progress " + word(p.GetOutcome()) + rest, yellow
}

func describeReleased(r *hadv1.Released) (string, style) {
	rest := colon(r.GetCause()) + steps(r.GetSteps(), "")
	if r.GetKind() == hadv1.Evidence_KIND_REBOOTED {
		rest = " by a reboot" + rest
	}
	if r.GetForced() {
		return "FORCED release" + rest, yellow
	}
	return "released" + rest, plain
}

func describeHook(h *hadv1.HookResult) (string, style) {
	text := fmt.Sprintf("hook %s %s ", h.GetVip(), h.GetScript())
	if h.GetForced() {
		text = "forced " + text
	}
	switch h.GetOutcome() {
	case hadv1.HookResult_OUTCOME_EXITED:
		if h.GetExitCode() == 0 {
			text += "ok"
		} else {
			text += fmt.Sprintf("FAILED, exit code %d", h.GetExitCode())
		}
	case hadv1.HookResult_OUTCOME_SIGNALED:
		text += "FAILED, killed by " + h.GetSignal()
	case hadv1.HookResult_OUTCOME_TIMED_OUT:
		text += "TIMED OUT and was killed"
	case hadv1.HookResult_OUTCOME_CANCELED:
		text += "was stopped"
	case hadv1.HookResult_OUTCOME_REFUSED:
		return text + "was REFUSED" + colon(h.GetError()), red
	case hadv1.HookResult_OUTCOME_UNKNOWN:
		text += "was INTERRUPTED: had ended while it ran"
	default:
		text += word(h.GetOutcome())
	}
	if d := time.Duration(h.GetDurationNs()); d > 0 {
		text += " after " + span(d.Round(100*time.Microsecond))
	}
	text += colon(h.GetError())
	if hookFailed(h) {
		return text, red
	}
	return text, plain
}

func hookFailed(h *hadv1.HookResult) bool {
	return h.GetOutcome() != hadv1.HookResult_OUTCOME_EXITED || h.GetExitCode() != 0
}

func describeEvidence(e *hadv1.Evidence) string {
	text := fmt.Sprintf("epoch %d closed by its successor: ", e.GetEpoch())
	switch e.GetKind() {
	case hadv1.Evidence_KIND_RELEASED:
		return text + "its owner released everything"
	case hadv1.Evidence_KIND_WAITED:
		return text + fmt.Sprintf("its lease (last entry %d) was waited out, %s", e.GetLeaseIndex(), span(time.Duration(e.GetWaitedNs()).Round(time.Millisecond)))
	case hadv1.Evidence_KIND_REBOOTED:
		return text + "its owner has booted since"
	case hadv1.Evidence_KIND_UNSPECIFIED, hadv1.Evidence_KIND_HANDED_OVER: // those close nothing
	}
	return text + word(e.GetKind())
}

// describeSecured says how it became known that an owner can't write to its
// volumes any more. Time alone is the one kind that nobody has seen.
func describeSecured(r *hadv1.Secured) (string, style) {
	text, s := "its volumes are safe: ", plain
	switch r.GetKind() {
	case hadv1.Secured_KIND_GUARD:
		text += "its guard unmounted them while had didn't"
	case hadv1.Secured_KIND_FENCED:
		text += "the host was switched off" + by(r.GetBy())
	case hadv1.Secured_KIND_WATCHDOG:
		text += "its watchdog has reset the host, unless they were unmounted before that; waited " + span(time.Duration(r.GetWaitedNs()).Round(time.Millisecond))
	case hadv1.Secured_KIND_RESERVED:
		text += "the disks refuse its writes since its reservation was preempted" + by(r.GetBy())
	case hadv1.Secured_KIND_CONFIRMED:
		text += "confirmed to be off" + by(r.GetBy())
	case hadv1.Secured_KIND_LEASE:
		text, s = "its volumes count as safe: nobody has seen it, but "+span(time.Duration(r.GetWaitedNs()).Round(time.Millisecond))+" have passed since the last lease", yellow
	default:
		text += word(r.GetKind())
	}
	return text + colon(r.GetDetail()), s
}

func describeFenceTry(t *hadv1.FenceTry) (string, style) {
	took := " after " + span(time.Duration(t.GetDurationNs()).Round(100*time.Microsecond))
	if t.GetMethod() == "reservation" {
		if t.GetError() != "" {
			return fmt.Sprintf("the disks were NOT taken from %s (%s)%s%s", t.GetNode(), t.GetMethod(), took, colon(t.GetError())), red
		}
		return fmt.Sprintf("the disks were taken from %s (%s)%s", t.GetNode(), t.GetMethod(), took), plain
	}
	if t.GetError() != "" {
		return fmt.Sprintf("%s was NOT seen to be off (%s)%s%s", t.GetNode(), t.GetMethod(), took, colon(t.GetError())), red
	}
	return fmt.Sprintf("%s was switched off and seen to be off (%s)%s", t.GetNode(), t.GetMethod(), took), plain
}

// shortStep is how long a step must have taken to be worth a line's space.
const shortStep = time.Millisecond

// steps lists how long each part took: " (pre_acq 12 ms, addresses_up 3 ms)".
// Parts that failed are listed however short they were, with the error unless
// that is the reason said before; JSON has them all.
func steps(all []*hadv1.Step, said string) string {
	var parts []string
	for _, s := range all {
		if time.Duration(s.GetDurationNs()) < shortStep && s.GetError() == "" {
			continue
		}
		text := s.GetName() + " " + span(time.Duration(s.GetDurationNs()).Round(100*time.Microsecond))
		if s.GetError() != "" {
			text += " FAILED"
		}
		if s.GetError() != said {
			text += colon(s.GetError())
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func heldAddresses(held []*hadv1.HeldAddress) string {
	var all []string
	for _, a := range held {
		all = append(all, a.GetAddress())
	}
	if len(all) == 0 {
		return "the addresses"
	}
	return strings.Join(all, ", ")
}

// taken names what an epoch is about.
func taken(a *hadv1.Acquire) string {
	var volumes []string
	for _, v := range a.GetVolumes() {
		volumes = append(volumes, v.GetName())
	}
	text := strings.Join(volumes, ", ")
	switch {
	case len(volumes) == 0:
		return heldAddresses(a.GetAddresses())
	case len(volumes) == 1:
		text = "volume " + text
	default:
		text = "volumes " + text
	}
	if len(a.GetAddresses()) == 0 {
		return text
	}
	return heldAddresses(a.GetAddresses()) + " and " + text
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return " by " + who
}
