package main

import (
	"fmt"
	"time"
	"unicode/utf8"

	hadv1 "had/proto/had/v1"
)

// renderWhy tells a change on one screen: the answer first, then the chain, then
// how things stand. Without a change there was never an owner.
func renderWhy(c *change, now *hadv1.StatusResponse, v view) string {
	p := &page{view: v}
	if c == nil {
		p.entry("", bold, "There was no owner yet.")
	} else {
		p.change(c)
	}
	if now != nil {
		p.standing(c, now)
	}
	return p.b.String()
}

func (p *page) change(c *change) {
	p.entry("", bold, headline(c))
	if c.previous != nil {
		_, text := c.fate()
		p.entry("", plain, text+".")
	} else if cause := c.acquired.GetAcquired().GetCause(); cause != "" {
		p.entry("", plain, "The log has no owner before it: "+cause+".")
	}
	p.blank()
	p.chain(c)
	if c.previous == nil {
		return
	}
	p.blank()
	switch g, known := c.gap(); {
	case !known && len(c.acquired.GetAcquired().GetAddresses()) == 0:
	case !known:
		p.entry("", plain, "How long nobody had the addresses is not known: "+c.missing()+".")
	case g.most < 0:
		p.entry("", plain, fmt.Sprintf("Nobody had the addresses for less than the difference of the clocks (%s): %s.", span(g.most.Round(time.Millisecond)), g.how))
	case g.least == g.most:
		p.entry("", plain, fmt.Sprintf("Nobody had the addresses for %s (%s).", inTenths(g.most), g.how))
	default:
		p.entry("", plain, fmt.Sprintf("Nobody had the addresses for %s to %s (%s).", inTenths(g.least), inTenths(g.most), g.how))
	}
}

func headline(c *change) string {
	what := taken(c.acquired.GetAcquired())
	text := fmt.Sprintf("epoch %d, %s: %s ", c.epoch, c.owner(), map[string]string{
		"serving": "owns " + what, "ended": "owned " + what, "failed": "tried to own " + what + ", in vain", "acquiring": "is taking over " + what,
	}[c.outcome()])
	if c.previous != nil && c.previous.owner() != c.owner() {
		text += "after " + c.previous.owner()
	} else if c.previous != nil {
		text += "again"
	}
	return text
}

// missing says what isn't in the log for the gap to be known.
func (c *change) missing() string {
	if stepEnd(c.turnSteps(), "addresses_up").IsZero() {
		return c.owner() + " has not brought them up"
	}
	return "the log doesn't say when " + c.previous.owner() + " took them down"
}

// chain lists what happened when, on which node.
func (p *page) chain(c *change) {
	all, zero := c.facts()
	nodes := len("NODE")
	for _, f := range all {
		nodes = max(nodes, utf8.RuneCountInString(clean(f.node)))
	}
	line := func(at, took, node string) string {
		return fmt.Sprintf("%9s  %7s  %s  ", at, took, pad(clean(node), nodes))
	}
	p.entry(line("AT", "TOOK", "NODE"), plain, "")
	for _, f := range all {
		if f.slim && f.took < shortStep && !f.bad {
			continue
		}
		took, s := "", plain
		if f.took >= 0 {
			took = inTenths(f.took)
		}
		if f.bad {
			s = red
		}
		p.entry(line(offset(f.at.Sub(zero)), took, f.node), s, f.text)
	}
	p.entry("", faint, "AT counts from "+zero.In(p.zone).Format(toTheMilli)+".")
}

// inTenths is span for something measured: no more than a tenth of a millisecond.
func inTenths(d time.Duration) string { return span(d.Round(100 * time.Microsecond)) }

func offset(d time.Duration) string {
	if d > -10*time.Second && d < 10*time.Second {
		return fmt.Sprintf("%+d ms", d.Round(time.Millisecond).Milliseconds())
	}
	return "+" + span(d.Round(time.Millisecond))
}

// standing says how things are now, if that isn't what the change has led to.
func (p *page) standing(c *change, now *hadv1.StatusResponse) {
	o := now.GetOwnership()
	if o.GetState() == hadv1.Ownership_STATE_OWNED && c != nil && o.GetEpoch() == c.epoch {
		return
	}
	verdict := judge(now)
	p.blank()
	if c != nil && c.released != nil {
		p.entry("", plain, fmt.Sprintf("Since then %s let go%s.", c.owner(), colon(c.released.GetReleased().GetCause())))
	}
	p.entry("Now: ", verdict.level.style(), verdict.headline)
	if why := whyBriefly(now); why != "" {
		p.entry("     ", plain, why)
	}
	for _, n := range now.GetNodes() {
		if n.GetWitness() || n.GetEligible() || unasked(now, n) {
			continue
		}
		for _, r := range n.GetReasons() {
			p.entry("   - ", yellow, n.GetName()+": "+r)
		}
	}
	if !now.GetFreshness().GetConfirmed() {
		p.freshness(now)
	}
	if next := now.GetNext(); next != "" {
		p.b.WriteString(p.paint(bold, "Next: "+clean(next)) + "\n")
	}
}
