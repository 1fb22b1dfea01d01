package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"had/internal/lab"
)

const (
	// takeover bounds the wait for another host to answer.
	takeover = 20 * time.Second
	// hold is how long a fault lasts after that.
	hold = time.Second
	// calm is how long a cluster is watched at least after a fault is mended.
	calm = time.Second
	// asking is the time between two requests of the client: what it adds to a
	// gap must be small beside the shortest ones, of some milliseconds.
	asking = 500 * time.Microsecond
	// spread is the time within which the moment of a fault is chosen; it is
	// no shorter than the longest period of any subject.
	spread = time.Second
)

// watch is what looks at a cluster during a trial.
type watch struct {
	site    *site
	clients map[netip.Addr]*lab.Client
	prober  *lab.Prober
}

// watch starts a client and the judge of answers, and returns when the owner
// has answered for every address.
func (c *site) watch(ctx context.Context, owner *lab.Host) (_ *watch, err error) {
	w := &watch{site: c, clients: map[netip.Addr]*lab.Client{}}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if w.prober, err = c.lab.Probe(time.Millisecond); err != nil {
		return nil, err
	}
	for _, vip := range c.vips {
		if w.clients[vip], err = c.lab.Client.Measure(lab.ClientConfig{Target: vip, Every: asking}); err != nil {
			delete(w.clients, vip)
			return nil, err
		}
	}
	return w, w.answered(ctx, time.Now(), patience, c.others(owner.Name)...)
}

// answered returns when the client has, later than a time, an answer for every
// address from a host that is not excepted.
func (w *watch) answered(ctx context.Context, after time.Time, within time.Duration, except ...string) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for _, vip := range w.site.vips {
		if _, err := w.clients[vip].AwaitAnswer(ctx, after, except...); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the clients and the judge; what they saw stays readable.
func (w *watch) stop() {
	for _, client := range w.clients {
		client.Stop()
	}
	if w.prober != nil {
		w.prober.Close()
	}
}

// trial strikes a cluster that is well at a random moment, mends it once
// another server has taken over, and watches until all is well again.
func (c *site) trial(ctx context.Context, f fault) (t Trial, err error) {
	owner, err := c.settled(ctx)
	if err != nil {
		return t, err
	}
	if f.prepare != nil {
		if err := f.prepare(ctx, c, owner); err != nil {
			return t, err
		}
	}
	w, err := c.watch(ctx, owner)
	if err != nil {
		return t, err
	}
	defer w.stop()
	if err := wait(ctx, rand.N(spread)); err != nil {
		return t, err
	}
	t = Trial{Subject: c.subject.Key, Fault: f.key, Owner: owner.Name}

	struck := time.Now()
	t.struck = struck
	mend, err := f.strike(ctx, c, owner)
	if err != nil {
		return t, err
	}
	if err := w.answered(ctx, struck, takeover, owner.Name); ctx.Err() != nil {
		return t, context.Cause(ctx)
	} else if err == nil {
		t.Successor = w.answerer()
	}
	if err := wait(ctx, hold); err != nil {
		return t, err
	}
	mended := time.Now()
	if mend != nil {
		if err := mend(); err != nil {
			return t, err
		}
	}
	t.LastedMs = ms(mended.Sub(struck))
	unwell := w.healed(ctx, mended)
	if ctx.Err() != nil {
		return t, context.Cause(ctx)
	}
	if unwell != nil {
		t.Rebuilt = unwell.Error()
	}
	w.stop()
	return t, w.judge(ctx, &t, struck, mended)
}

// answerer returns who answered the client last for the first address.
func (w *watch) answerer() string {
	runs := w.clients[w.site.vips[0]].Report().Runs
	if len(runs) == 0 {
		return ""
	}
	return runs[len(runs)-1].Host
}

// healed returns when all is well and the client is answered by the owner, not
// before the calm is over.
func (w *watch) healed(ctx context.Context, mended time.Time) error {
	if _, err := w.site.settled(ctx); err != nil {
		return err
	}
	if err := wait(ctx, time.Until(mended.Add(max(calm, 3*w.site.subject.Interval)))); err != nil {
		return err
	}
	owner, err := w.site.settled(ctx)
	if err != nil {
		return err
	}
	return w.answered(ctx, time.Now(), patience, w.site.others(owner.Name)...)
}

// judge fills in what was seen of each address.
func (w *watch) judge(ctx context.Context, t *Trial, struck, mended time.Time) error {
	var errs []error
	for _, vip := range w.site.vips {
		seen := &t.V4
		if vip.Is6() {
			seen = &t.V6
		}
		report := w.clients[vip].Report()
		if gap, ok := report.LongestGap(struck, mended); ok {
			seen.Gap = ms(gap.Duration())
			t.Stalled = t.Stalled || clientStalled(gap)
		}
		if gap, ok := report.LongestGap(mended, report.End); ok {
			seen.HealGap = ms(gap.Duration())
		}
		answers, err := w.prober.History(vip)
		errs = append(errs, err)
		for _, o := range answers.Overlaps() {
			seen.Both += ms(o.To.Sub(o.From))
			seen.Times++
		}
		lists, err := w.site.lab.Observer.History(ctx, vip)
		errs = append(errs, err)
		for _, o := range lists.Overlaps() {
			if o.To.After(struck) {
				seen.Listed += ms(o.To.Sub(o.From))
			}
		}
	}
	return errors.Join(errs...)
}

// clientStalled reports whether the client stood still for long before a gap,
// which may have been that much longer, or in it: then it asked less than half as
// often as it should.
func clientStalled(g lab.Gap) bool {
	const long = 10 * time.Millisecond
	return g.Unasked > long || g.Duration() > long && time.Duration(g.Sent)*asking < g.Duration()/2
}
