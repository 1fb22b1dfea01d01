package main

import (
	"fmt"
	"strings"

	hadv1 "had/proto/had/v1"
)

// mostAlike is how many effects of a kind are listed before they are counted: a
// policy may have a thousand addresses that stay.
const mostAlike = 8

// renderPlan lays a plan out: what differs, block by block, and what becomes of it.
func renderPlan(r *hadv1.PolicyPlanResponse, name string, v view) string {
	p := &page{view: v}
	switch {
	case r.GetUnchanged():
		p.entry("", plain, fmt.Sprintf("No changes: policy version %d is this text.", r.GetBase()))
		return p.b.String()
	case r.GetBase() == 0:
		p.entry("", bold, name+" would be the first policy:")
	default:
		p.entry("", bold, fmt.Sprintf("From policy version %d to %s:", r.GetBase(), name))
	}
	p.blank()
	p.changes(r.GetChanges())
	if len(r.GetChanges()) == 0 {
		p.entry("  ", plain, "only comments or layout differ: applying it makes a new version and changes nothing")
	}
	p.blank()
	head := "What happens:"
	if r.GetOwner() != "" {
		head = fmt.Sprintf("What happens on %s, which serves:", clean(r.GetOwner()))
	}
	p.entry("", bold, head)
	p.blank()
	p.effects(r.GetEffects())
	switch {
	case r.GetRestarts():
		p.blank()
		p.entry("", red, "Services restart.")
	case r.GetOwner() != "":
		p.blank()
		p.entry("", green, "No service restarts for what stays.")
	}
	if t := r.GetTrial(); t != nil {
		p.blank()
		p.entry("", yellow, fmt.Sprintf("Version %d waits for its confirmation: nothing can be applied before hactl policy confirm, hactl policy rollback or %s.", t.GetVersion(), p.stamp(t.GetUntil(), toTheSecond)))
	}
	return p.b.String()
}

func (p *page) changes(all []*hadv1.PolicyChange) {
	block, inBlock := "", hadv1.PolicyChange_KIND_UNSPECIFIED
	for _, ch := range all {
		sign, s := changeSign(ch.GetKind())
		switch {
		case ch.GetAttribute() == "" && ch.GetKind() == hadv1.PolicyChange_KIND_MOVED:
			p.line("  "+sign+" ", s, fmt.Sprintf("order of the %s blocks: %s → %s", ch.GetBlock(), ch.GetBefore(), ch.GetAfter()))
			continue
		case ch.GetAttribute() == "":
			p.line("  "+sign+" ", s, ch.GetBlock())
			block, inBlock = ch.GetBlock(), ch.GetKind()
			continue
		case ch.GetBlock() != block && ch.GetBlock() != "":
			p.line("  ~ ", yellow, ch.GetBlock())
			block, inBlock = ch.GetBlock(), hadv1.PolicyChange_KIND_CHANGED
		}
		indent := "      "
		if ch.GetBlock() == "" {
			indent = "  "
		}
		switch {
		case inBlock == ch.GetKind() && inBlock != hadv1.PolicyChange_KIND_CHANGED && ch.GetBlock() != "":
			p.line(indent, s, ch.GetAttribute()+" = "+ch.GetBefore()+ch.GetAfter())
		case ch.GetKind() == hadv1.PolicyChange_KIND_CHANGED:
			p.line(indent+sign+" ", s, fmt.Sprintf("%s = %s → %s", ch.GetAttribute(), ch.GetBefore(), ch.GetAfter()))
		default:
			p.line(indent+sign+" ", s, ch.GetAttribute()+" = "+ch.GetBefore()+ch.GetAfter())
		}
	}
}

// line is entry without wrapping: values are there to be compared.
func (p *page) line(label string, s style, text string) {
	p.b.WriteString(p.paint(s, label+clean(text)) + "\n")
}

func changeSign(k hadv1.PolicyChange_Kind) (string, style) {
	switch k {
	case hadv1.PolicyChange_KIND_ADDED:
		return "+", green
	case hadv1.PolicyChange_KIND_REMOVED:
		return "-", red
	case hadv1.PolicyChange_KIND_UNSPECIFIED, hadv1.PolicyChange_KIND_CHANGED, hadv1.PolicyChange_KIND_MOVED:
	}
	return "~", yellow
}

func (p *page) effects(all []*hadv1.PolicyEffect) {
	alike := map[string]int{}
	of := func(e *hadv1.PolicyEffect) string { return fmt.Sprint(e.GetKind()) + e.GetText() }
	for _, e := range all {
		alike[of(e)]++
	}
	listed := map[string]int{}
	for _, e := range all {
		if listed[of(e)]++; listed[of(e)] > mostAlike {
			continue
		}
		sign, s := effectSign(e.GetKind())
		text := e.GetText()
		if listed[of(e)] == mostAlike && alike[of(e)] > mostAlike {
			text = fmt.Sprintf("%s; and so for %d more", text, alike[of(e)]-mostAlike)
		}
		p.entry("  "+sign+" ", s, strings.TrimSpace(e.GetWhat()+" "+text))
	}
}

func effectSign(k hadv1.PolicyEffect_Kind) (string, style) {
	switch k {
	case hadv1.PolicyEffect_KIND_STAYS:
		return "=", plain
	case hadv1.PolicyEffect_KIND_ADDED:
		return "+", green
	case hadv1.PolicyEffect_KIND_DROPPED:
		return "-", red
	case hadv1.PolicyEffect_KIND_MOVES:
		return "!", red
	case hadv1.PolicyEffect_KIND_UNSPECIFIED, hadv1.PolicyEffect_KIND_CHANGED, hadv1.PolicyEffect_KIND_LATER:
	}
	return "~", yellow
}
