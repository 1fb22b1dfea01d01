package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// fact is one line of a causal chain.
type fact struct {
	at   time.Time
	took time.Duration // -1: it has no length
	node string
	text string
	bad  bool
	slim bool // of no interest when it took less than shortStep
}

func moment(e *hadv1.Event, text string) fact {
	return fact{at: e.GetAt().AsTime(), took: -1, node: e.GetNode(), text: text + late(e)}
}

// late says how long an event was on its way into the log, if that was long.
func late(e *hadv1.Event) string {
	if !e.GetAt().IsValid() || !e.GetRecordedAt().IsValid() {
		return ""
	}
	if d := e.GetRecordedAt().AsTime().Sub(e.GetAt().AsTime()); d > lateAfter {
		return " (the log heard of it " + span(d) + " later)"
	}
	return ""
}

// outcome says in a word what became of the epoch.
func (c *change) outcome() string {
	switch {
	case c.released != nil || c.closed != nil:
		if c.serving == nil {
			return "failed"
		}
		return "ended"
	case c.serving != nil:
		return "serving"
	case c.failed != nil:
		return "failed"
	}
	return "acquiring"
}

// fate says what became of the previous owner, in a word and in a sentence
// without a full stop.
func (c *change) fate() (kind, text string) {
	p := c.previous
	owner, r := p.owner(), p.released.GetReleased()
	if order := c.move().GetMoveOrdered(); order != nil {
		kind = "released"
		if c.handedOver() {
			kind = "handed_over"
		}
		if byItself(order) {
			return kind, fmt.Sprintf("%s handed over to %s by itself%s", owner, order.GetTarget(), colon(order.GetReason()))
		}
		return kind, fmt.Sprintf("%s was asked to hand over to %s%s%s", owner, order.GetTarget(), by(order.GetBy()), colon(order.GetReason()))
	}
	if w := c.silent(); w != nil {
		wait := fmt.Sprintf("its lease was waited out: %s after its last entry in the log it had ended, whatever had become of %s", span(time.Duration(w.GetWaitedNs()).Round(time.Millisecond)), owner)
		switch {
		case r == nil:
			return "silent", fmt.Sprintf("%s fell silent, and has said nothing of it since. So %s", owner, wait)
		case p.bySelf():
			return "silent", fmt.Sprintf("%s let go by itself, because %s. Nobody could hear of that in time, so %s", owner, r.GetCause(), wait)
		}
		return "silent", fmt.Sprintf("%s fell silent (its next run says: %s). So %s", owner, r.GetCause(), wait)
	}
	switch {
	case r == nil:
		return "unknown", fmt.Sprintf("how %s lost it is not in the log", owner)
	case r.GetKind() == hadv1.Evidence_KIND_REBOOTED:
		return "rebooted", fmt.Sprintf("%s has booted since: %s", owner, r.GetCause())
	case !r.GetForced():
		return "released", fmt.Sprintf("%s gave up in order: %s", owner, r.GetCause())
	case !p.bySelf():
		return "forced", fmt.Sprintf("%s was started again and gave back what its earlier run held: %s", owner, r.GetCause())
	}
	return "forced", fmt.Sprintf("%s lost it: %s", owner, r.GetCause())
}

// facts are the chain in the order of time, and the moment that its offsets
// count from: the first sign of the change.
func (c *change) facts() (all []fact, zero time.Time) {
	if c.previous != nil {
		all = c.ending()
	}
	if len(all) > 0 {
		zero = slices.MinFunc(all, byTime).at
	}
	for _, e := range c.vetoes {
		f := moment(e, "could not begin a turn"+colon(e.GetProgress().GetReason()))
		f.bad = true
		all = append(all, f)
	}
	for _, t := range c.between {
		text := "took a turn (epoch " + fmt.Sprint(t.epoch) + ") that came to nothing"
		text += colon(cmp.Or(t.failed.GetProgress().GetReason(), t.released.GetReleased().GetCause()))
		f := moment(t.acquired, text)
		f.bad = true
		all = append(all, f)
	}
	beginning := c.beginning()
	if zero.IsZero() && len(beginning) > 0 {
		zero = slices.MinFunc(beginning, byTime).at
	}
	all = append(all, beginning...)
	slices.SortStableFunc(all, byTime)
	return all, zero
}

func byTime(a, b fact) int { return a.at.Compare(b.at) }

// ending is what the log has of how the previous owner lost it.
func (c *change) ending() (all []fact) {
	p := c.previous
	if w := c.silent(); w != nil {
		all = append(all, fact{at: c.lastLease(), took: -1, node: p.owner(), text: fmt.Sprintf("its last lease entry (%d): nothing came after it", w.GetLeaseIndex())})
	}
	for _, e := range p.moves {
		if o := e.GetMoveOrdered(); o != nil {
			text := fmt.Sprintf("a move to %s is asked for%s%s", o.GetTarget(), by(o.GetBy()), colon(o.GetReason()))
			if byItself(o) {
				text = fmt.Sprintf("it moves to %s by itself%s", o.GetTarget(), colon(o.GetReason()))
			}
			f := moment(e, text)
			f.node = p.owner()
			if c.move() == e {
				all = append(all, f)
			}
		} else if e.GetIndex() >= c.epoch {
			all = append(all, moment(e, "the move is over"+colon(e.GetMoveEnded().GetWhy())))
		}
	}
	for _, e := range c.reasons() {
		text, s := describeSteer(e)
		f := moment(e, text)
		f.bad = s == red
		all = append(all, f)
	}
	for _, e := range p.evidence {
		text, s := describe(e, view{}) // evidence tells no times
		f := moment(e, text)
		f.bad = s == red
		all = append(all, f)
	}
	r := p.released.GetReleased()
	hooks := slices.DeleteFunc(slices.Clone(p.hooks), func(e *hadv1.Event) bool {
		return !strings.HasSuffix(e.GetHook().GetStage(), "Rel")
	})
	all = append(all, stepFacts(p.owner(), r.GetSteps(), hooks)...)
	if p.released != nil {
		text := "released" + colon(r.GetCause())
		if r.GetForced() {
			text = "let go by force" + colon(r.GetCause())
		}
		all = append(all, moment(p.released, text))
	}
	return append(all, looseHooks(p.owner(), r.GetSteps(), hooks)...)
}

// beginning is what the log has of how the new owner took over.
func (c *change) beginning() (all []fact) {
	owner := c.owner()
	hooks := slices.Concat(c.tests, c.hooks)
	hooks = slices.DeleteFunc(hooks, func(e *hadv1.Event) bool {
		s := e.GetHook().GetStage()
		return s == "PreRel" || s == "PostRel" || s == "Test" && e.GetNode() != owner
	})
	turn := stepFacts(owner, c.turnSteps(), hooks)
	for i, s := range c.turnSteps() {
		if s.GetName() == "acquire_lease" {
			turn[i].text += c.elected()
		}
	}
	all = append(all, c.waiting(turn)...)
	all = append(all, turn...)
	all = append(all, looseHooks(owner, c.turnSteps(), hooks)...)
	switch {
	case c.failed != nil && c.serving == nil:
		f := moment(c.failed, "gave the turn back"+colon(c.failed.GetProgress().GetReason()))
		f.bad = true
		all = append(all, f)
	case c.serving != nil:
		all = append(all, moment(c.serving, "serving"))
	case c.acquired != nil:
		all = append(all, moment(c.acquired, fmt.Sprintf("opened epoch %d; nothing more is in the log yet", c.epoch)))
	}
	return all
}

// waiting is that the turn was prepared while the previous owner's lease had still
// to end.
func (c *change) waiting(turn []fact) []fact {
	if c.silent() == nil || c.acquired == nil || len(turn) == 0 || c.previous.closed.GetIndex() != c.epoch {
		return nil
	}
	from, to := slices.MinFunc(turn, byTime).at, c.acquired.GetAt().AsTime()
	if to.Sub(from) < shortStep {
		return nil
	}
	return []fact{{at: from, took: to.Sub(from), node: c.owner(), text: fmt.Sprintf("prepares, and waits for %s's lease to end", c.previous.owner())}}
}

// elected says in which term the new owner leads, when it did not before. When it
// was elected is not in the log: a candidate prepares its turn meanwhile.
func (c *change) elected() string {
	before := c.previous
	if before == nil || before.acquired == nil || c.acquired == nil || before.acquired.GetTerm() == c.acquired.GetTerm() {
		return ""
	}
	return fmt.Sprintf(", as leader of term %d", c.acquired.GetTerm())
}

// stages are the scripts that run in a step.
func stages(step string) string {
	switch step {
	case "test":
		return "Test"
	case "pre_acq":
		return "PreAcq"
	case "post_acq":
		return "PostAcq"
	case "pre_rel":
		return "PreRel"
	case "post_rel":
		return "PostRel"
	}
	return ""
}

// stepText says in words what a step does; one that this hactl doesn't know is
// called by its name.
func stepText(name string) string {
	words := map[string]string{
		"resolve_interfaces": "found the interfaces", "probe": "asked the network: does somebody else answer?",
		"acquire_lease": "wrote its ownership into the log", "record_tenure": "noted in its journal what it may hold",
		"arm": "armed guard and gate", "old_owner_lets_go": "asked the old owner to let go",
		"addresses_up": "addresses up and announced", "addresses_down": "addresses down",
		"tokens":       "put the reconnect tokens in place",
		"volumes_free": "made sure that nobody else has the volumes", "flush_volumes": "wrote the volumes' data to their disks",
		"end_services": "ended services that scripts had left running", "secure_volumes": "made sure that nothing here can write to the volumes",
		"volumes_secured": "made sure that nothing here can write to the volumes", "scripts_killed": "ended scripts that still ran",
		"services_killed": "ended services that still ran",
	}
	if w := words[name]; w != "" {
		return w
	}
	if s := stages(name); s != "" {
		return s + " scripts"
	}
	for prefix, verb := range map[string]string{"mount_": "mounted ", "unmount_": "unmounted "} {
		if volume, ok := strings.CutPrefix(name, prefix); ok {
			return verb + volume
		}
	}
	return strings.ReplaceAll(name, "_", " ")
}

// stepFacts are a node's steps, those that ran scripts with their results.
func stepFacts(node string, all []*hadv1.Step, hooks []*hadv1.Event) (out []fact) {
	for i, s := range all {
		text := stepText(s.GetName())
		scripts, failed := scriptsOf(hooks, stages(s.GetName()), s.GetStarted().AsTime(), time.Duration(s.GetDurationNs()))
		f := fact{at: s.GetStarted().AsTime(), took: time.Duration(s.GetDurationNs()), node: node, slim: !strings.HasPrefix(s.GetName(), "addresses_")}
		if scripts != "" {
			text += ": " + scripts
		}
		switch again := slices.ContainsFunc(all[i+1:], func(o *hadv1.Step) bool { return o.GetName() == s.GetName() && o.GetError() == "" }); {
		case again && s.GetError() != "":
			what, _, _ := strings.Cut(s.GetError(), ": ")
			text, f.slim = text+" "+what+"; asked again later", false
		case s.GetError() != "":
			f.bad = true
			if !failed {
				text += " FAILED" + colon(s.GetError())
			}
		}
		f.bad, f.text = f.bad || failed, text
		out = append(out, f)
	}
	return out
}

// looseHooks are the scripts that no step in the log has run: those after a
// release, and those of an owner that was asked to hand over.
func looseHooks(node string, all []*hadv1.Step, hooks []*hadv1.Event) (out []fact) {
	ran := map[string]bool{}
	for _, s := range all {
		ran[stages(s.GetName())] = true
	}
	for _, stage := range []string{"PreRel", "PostRel", "PreAcq", "PostAcq"} {
		if ran[stage] {
			continue
		}
		var from, to time.Time
		forced := ""
		for _, e := range hooks {
			h := e.GetHook()
			if h.GetStage() != stage || e.GetNode() != node {
				continue
			}
			at := hookStart(e)
			if from.IsZero() || at.Before(from) {
				from = at
			}
			if end := at.Add(time.Duration(h.GetDurationNs())); end.After(to) {
				to = end
			}
			if h.GetForced() {
				forced = "forced "
			}
		}
		if from.IsZero() {
			continue
		}
		scripts, failed := scriptsOf(hooks, stage, from, to.Sub(from)+time.Millisecond)
		out = append(out, fact{at: from, took: to.Sub(from), node: node, text: forced + stage + " scripts" + colon(scripts), bad: failed})
	}
	return out
}

// scriptsOf sums up the scripts of a stage that ran in a time; each that failed is
// named.
func scriptsOf(hooks []*hadv1.Event, stage string, from time.Time, length time.Duration) (text string, failed bool) {
	if stage == "" {
		return "", false
	}
	good, slowest := 0, (*hadv1.HookResult)(nil)
	var bad []string
	for _, e := range hooks {
		h := e.GetHook()
		at := hookStart(e)
		if h.GetStage() != stage || at.Before(from) || at.After(from.Add(length)) {
			continue
		}
		if hookFailed(h) {
			what, _ := describeHook(h)
			bad = append(bad, strings.TrimPrefix(strings.TrimPrefix(what, "forced "), "hook "))
			continue
		}
		good++
		if slowest == nil || h.GetDurationNs() > slowest.GetDurationNs() {
			slowest = h
		}
	}
	var parts []string
	if good == 1 {
		parts = append(parts, slowest.GetScript()+" ok")
	} else if good > 1 {
		parts = append(parts, fmt.Sprintf("%d ok, slowest %s %s", good, slowest.GetScript(), span(time.Duration(slowest.GetDurationNs()).Round(100*time.Microsecond))))
	}
	return strings.Join(append(parts, bad...), "; "), len(bad) > 0
}
