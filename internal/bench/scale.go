package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"had/internal/lab"
)

// The families of addresses.
const (
	ipv4 = "IPv4"
	ipv6 = "IPv6"
)

// renewing is how long the cost of holding addresses is measured.
const renewing = 5 * time.Second

// triggers are the faults, by key, after which many addresses are taken over.
func triggers() []string { return []string{"stop", "crash"} }

// counts are the numbers of addresses that are taken over at once.
func counts() []int { return []int{1, 100, 1000} }

// manyVIPs returns addresses on nobody's network but reachable over eth0; the
// first is the one that every subject has.
func manyVIPs(family string, count int) []netip.Addr {
	if family == ipv6 {
		vips := make([]netip.Addr, count)
		for i := range vips {
			ip := lab.DefaultVIPs()[1].As16()
			binary.BigEndian.PutUint16(ip[10:], 1)
			binary.BigEndian.PutUint32(ip[12:], uint32(i+1))
			vips[i] = netip.AddrFrom16(ip)
		}
		return vips
	}
	vips := []netip.Addr{lab.DefaultVIPs()[0]}
	for i := 1; i < count; i++ {
		vips = append(vips, netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}))
	}
	return vips
}

// scale measures takeovers of many addresses: for each number and family the
// subjects take turns. What can't be measured of one is noted in the report,
// and the others go on without it.
func (r *runner) scale(ctx context.Context) error {
	for _, count := range counts() {
		for _, family := range []string{ipv4, ipv6} {
			if err := r.scaleOne(ctx, family, count); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeovers is how many are measured for each number, family, trigger and subject.
func (r *runner) takeovers() int { return max(3, r.cfg.Trials/4) }

// scaled reports whether all of scaleOne has been measured; otherwise it forgets
// what there is of it.
func (r *runner) scaled(family string, count int) bool {
	missing := 0
	for _, s := range r.subjects {
		if s.Scaled {
			missing += r.takeovers() * len(triggers())
		}
	}
	for _, m := range r.report.Scale {
		if m.Family == family && m.Count == count {
			missing--
		}
	}
	if missing <= 0 {
		return true
	}
	r.report.Scale = slices.DeleteFunc(r.report.Scale, func(m Many) bool { return m.Family == family && m.Count == count })
	r.report.Steady = slices.DeleteFunc(r.report.Steady, func(s Renewal) bool { return s.Family == family && s.Count == count })
	return false
}

func (r *runner) scaleOne(ctx context.Context, family string, count int) (err error) {
	if r.scaled(family, count) {
		return nil
	}
	var sites []*site
	defer func() {
		for _, c := range sites {
			err = closing(err, c)
		}
	}()
	what := fmt.Sprintf("%d %s", count, family)
	var able []*site // those of sites with which nothing went wrong
	for _, s := range r.subjects {
		if !s.Scaled {
			continue
		}
		c, err := r.newSite(ctx, s, manyVIPs(family, count))
		if err != nil {
			if err := r.note(ctx, partScale, what, err); err != nil {
				return err
			}
			continue
		}
		sites, able = append(sites, c), append(able, c)
	}
	// turn lets each site that is able measure something.
	turn := func(measure func(c *site) error) error {
		var left []*site
		for _, c := range able {
			err := measure(c)
			if err == nil {
				left = append(left, c)
			} else if err := r.note(ctx, partScale, what+", "+c.subject.Title, err); err != nil {
				return err
			}
		}
		able = left
		return r.save()
	}
	err = turn(func(c *site) error {
		cost, err := c.renewal(ctx, family)
		if err == nil {
			r.report.Steady = append(r.report.Steady, cost)
			r.say("%-9s  %-34s held for %.1f ms of CPU a second, %.1f packets a second", what, c.subject.Title, cost.CPU, cost.Packets)
		}
		return err
	})
	for range r.takeovers() {
		for _, trigger := range triggers() {
			err = errors.Join(err, turn(func(c *site) error {
				m, err := c.many(ctx, family, trigger)
				if err == nil {
					r.report.Scale = append(r.report.Scale, m)
					r.say("%-9s  %-34s %-5s all there after %.1f ms, first to last %.1f ms", what, c.subject.Title, trigger, m.All, m.All-m.First)
				}
				return err
			}))
		}
		if err != nil {
			return err
		}
	}
	return err
}

// renewal measures an owner that does nothing but hold its addresses.
func (c *site) renewal(ctx context.Context, family string) (Renewal, error) {
	owner, err := c.settled(ctx)
	if err == nil {
		err = wait(ctx, calm)
	}
	if err != nil {
		return Renewal{}, err
	}
	from, to, err := c.measure(ctx, owner, renewing)
	if err != nil {
		return Renewal{}, err
	}
	seconds := to.at.Sub(from.at).Seconds()
	return Renewal{
		Subject: c.subject.Key, Family: family, Count: len(c.vips), Seconds: seconds,
		CPU:     ms(to.cpu-from.cpu) / seconds,
		Packets: float64(to.sent-from.sent+to.received-from.received) / seconds,
	}, nil
}

// many strikes the owner and measures when its successor's kernel has the
// addresses.
func (c *site) many(ctx context.Context, family, trigger string) (Many, error) {
	m := Many{Subject: c.subject.Key, Family: family, Count: len(c.vips), Trigger: trigger}
	owner, err := c.settled(ctx)
	if err == nil {
		err = wait(ctx, calm)
	}
	if err != nil {
		return m, err
	}
	f := faultOf(trigger)
	struck := time.Now()
	if _, err := f.strike(ctx, c, owner); err != nil {
		return m, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, takeover, fmt.Errorf("waited %s", takeover))
	defer cancel()
	err = eventually(ctx, func() error {
		first, last, err := c.present(ctx, owner.Name, struck)
		m.First, m.All = ms(first.Sub(struck)), ms(last.Sub(struck))
		return err
	})
	return m, err
}

// present returns when hosts other than the former owner got the first and the
// last of the addresses; an error while one is missing.
func (c *site) present(ctx context.Context, former string, struck time.Time) (first, last time.Time, err error) {
	// From the last address on, the one that is most likely to be missing.
	for _, vip := range slices.Backward(c.vips) {
		h, err := c.lab.Observer.History(ctx, vip)
		if err != nil {
			return first, last, err
		}
		at, ok := acquired(h, former, struck)
		if !ok {
			return first, last, fmt.Errorf("%s is on %v", vip, h.Holders())
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return first, last, nil
}

// acquired returns when the address came to a host other than the former
// owner.
func acquired(h lab.History, former string, after time.Time) (time.Time, bool) {
	for _, t := range h.Transitions {
		if t.Held && t.Host != former && t.At.After(after) {
			return t.At, true
		}
	}
	return time.Time{}, false
}
