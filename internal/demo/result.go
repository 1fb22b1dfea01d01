package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"had/internal/lab"
)

// result is what an act came to.
type result struct {
	brief      string // what happened to the owner
	deed       string // that began it
	from, to   string // the owners before and after
	start, end time.Time
	gaps       map[netip.Addr]lab.Gap
	seen       map[netip.Addr]lab.History
	events     []event // that the act added to the log, in its order
}

// measure collects what the client, the observer and the log have of an act.
func (c *Cluster) measure(ctx context.Context, r *result) error {
	r.end = time.Now()
	r.gaps, r.seen = map[netip.Addr]lab.Gap{}, map[netip.Addr]lab.History{}
	for _, vip := range c.lab.VIPs() {
		h, err := c.lab.Observer.History(ctx, vip)
		if err != nil {
			return err
		}
		r.seen[vip] = h
		gap, ok := c.clients[vip].Report().LongestGap(r.start, r.end)
		if !ok || gap.ToHost == "" {
			return fmt.Errorf("measure the gap of %s: the client saw no change", vip)
		}
		r.gaps[vip] = gap
	}
	return nil
}

// shared returns how long more than one host had the address in the act.
func (r result) shared(vip netip.Addr) time.Duration {
	var sum time.Duration
	for _, o := range r.seen[vip].Overlaps() {
		sum += within(o.From, o.To, r.start, r.end)
	}
	return sum
}

// sharedAny is shared of the address that was shared longest.
func (r result) sharedAny() time.Duration {
	var longest time.Duration
	for vip := range r.seen {
		longest = max(longest, r.shared(vip))
	}
	return longest
}

// vacant returns how long no host had the address in the act.
func (r result) vacant(vip netip.Addr) time.Duration {
	var sum time.Duration
	for _, v := range r.seen[vip].Vacancies() {
		sum += within(v.From, v.To, r.start, r.end)
	}
	return sum
}

// within returns how much of a span lies in another.
func within(from, to, start, end time.Time) time.Duration {
	if from.Before(start) {
		from = start
	}
	if to.After(end) {
		to = end
	}
	return max(0, to.Sub(from))
}

// lost returns when a host lost the address first in the act.
func (r result) lost(vip netip.Addr, host string) (time.Duration, bool) {
	for _, t := range r.seen[vip].Transitions {
		if !t.Held && t.Host == host && t.At.After(r.start) {
			return t.At.Sub(r.start), true
		}
	}
	return 0, false
}

// overlapError says in which time two hosts had an address; nil: in none,
// since the cluster was built.
func overlapError(seen map[netip.Addr]lab.History) error {
	var errs []error
	for vip, h := range seen {
		for _, o := range h.Overlaps() {
			errs = append(errs, fmt.Errorf("%s had %s at the same time, for %s", strings.Join(o.Hosts, " and "), vip, ms(inMs(o.To.Sub(o.From)))))
		}
	}
	return errors.Join(errs...)
}

// stalled reports whether it was rather the client that stood still: it asked
// less than half as often as it should have.
func stalled(g lab.Gap) bool {
	return g.Duration() > 10*time.Millisecond && time.Duration(g.Sent)*time.Millisecond < g.Duration()/2
}

// tell shows what an act came to.
func (c *Cluster) tell(ctx context.Context, r result, lesson string) error {
	v4, v6 := c.lab.VIPs()[0], c.lab.VIPs()[1]
	c.n.heading("Measured")
	gap := r.gaps[v4]
	text := fmt.Sprintf("no answer for %s (by IPv6 %s), then from %s", ms(inMs(gap.Duration())), ms(inMs(r.gaps[v6].Duration())), gap.ToHost)
	if stalled(gap) || stalled(r.gaps[v6]) {
		text += "; but the client itself stood still for part of it: this machine is busy"
	}
	c.n.fact("client", bold, text)
	verdict, s := fmt.Sprintf("%s in which two hosts had the address", ms(inMs(r.sharedAny()))), green
	if r.sharedAny() > 0 {
		s = red
	}
	c.n.fact("observer", s, verdict)
	c.n.fact("", plain, fmt.Sprintf("%s in which none had it", ms(inMs(r.vacant(v4)))))

	c.n.heading("Step by step")
	moments := append(logMoments(r.events), moment{at: r.start, who: "demo", what: r.deed})
	for _, vip := range c.lab.VIPs() {
		moments = append(moments, kernelMoments(r.seen[vip], r.start)...)
		moments = append(moments, clientMoments(r.gaps[vip], family(vip))...)
	}
	for _, m := range timeline(moments) {
		c.n.line(fmt.Sprintf("%9.1f ms  %-8s %s", inMs(m.at.Sub(r.start)), m.who, m.text()))
	}

	c.n.heading("What the log says")
	if err := c.show(ctx, c.lab.Servers()[0], "history", "--last", fmt.Sprint(len(r.events))); err != nil {
		return err
	}
	c.n.blank()
	c.n.para(lesson)
	return c.n.err
}

// summarize shows all acts side by side and fails when two hosts ever had an
// address at the same time.
func (c *Cluster) summarize(ctx context.Context, results []result) error {
	rows := [][]string{{"the owner was", "from -> to", "no answer (IPv4)", "(IPv6)", "two hosts had it"}}
	for i, r := range results {
		row := []string{fmt.Sprintf("%d  %s", i+1, r.brief), r.from + " -> " + r.to}
		for _, vip := range c.lab.VIPs() {
			row = append(row, ms(inMs(r.gaps[vip].Duration())))
		}
		rows = append(rows, append(row, ms(inMs(r.sharedAny()))))
	}
	c.n.table(rows, map[int]bool{2: true, 3: true, 4: true})
	events, err := c.agreed(ctx, "the history of all servers is the same", func([]event) bool { return true })
	if err != nil {
		return err
	}
	c.n.blank()
	c.n.para(fmt.Sprintf("All %d servers have the same history, %d events. What the numbers rest on: docs/protocol.md. To play with such a cluster: had dev.", len(c.lab.Servers()), len(events)))
	seen := map[netip.Addr]lab.History{}
	for _, vip := range c.lab.VIPs() {
		if seen[vip], err = c.lab.Observer.History(ctx, vip); err != nil {
			return err
		}
	}
	return overlapError(seen)
}
