package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"had/internal/lab"
)

// idling is how long the cost of doing nothing is measured.
const idling = time.Minute

// measure reads what a server's daemon has used at both ends of a time.
func (c *site) measure(ctx context.Context, h *lab.Host, d time.Duration) (from, to usage, err error) {
	before, err := c.processes(h)
	if err != nil {
		return from, to, err
	}
	if from, err = readUsage(before); err != nil {
		return from, to, err
	}
	if err := wait(ctx, d); err != nil {
		return from, to, err
	}
	after, err := c.processes(h)
	if err != nil {
		return from, to, err
	}
	if !slices.Equal(before, after) {
		return from, to, fmt.Errorf("measure %s on %s: its processes were %v and are now %v", c.subject.Title, h.Name, before, after)
	}
	to, err = readUsage(after)
	return from, to, err
}

// idle measures every server of a site over the same minute.
func (r *runner) idle(ctx context.Context, c *site) error {
	r.say("idle    measuring every daemon for %s", idling)
	owner, err := c.settled(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var costs []Cost
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range c.lab.Servers() {
		g.Go(func() error {
			from, to, err := c.measure(ctx, h, idling)
			if err != nil {
				return err
			}
			cost := costOf(c.subject.Key, "standby", from, to)
			if h == owner {
				cost.Role = "owner"
			}
			mu.Lock()
			defer mu.Unlock()
			costs = append(costs, cost)
			r.say("idle    %-34s %-7s %s", c.subject.Title, cost.Role, cost)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("measure what idling costs: %w", err)
	}
	r.report.Idle = append(r.report.Idle, costs...)
	return r.save()
}

func costOf(subject, role string, from, to usage) Cost {
	seconds := to.at.Sub(from.at).Seconds()
	return Cost{
		Subject: subject, Role: role, Seconds: seconds, Processes: to.processes,
		CPU: ms(to.cpu-from.cpu) * 60 / seconds,
		RSS: to.rss, PSS: to.pss,
		Written: float64(to.written-from.written) / seconds,
		Sent:    float64(to.sent-from.sent) / seconds, Received: float64(to.received-from.received) / seconds,
	}
}

func (c Cost) String() string {
	return fmt.Sprintf("%.0f ms of CPU a minute, %.1f MB (PSS), %.0f bytes a second to the disk, %.1f packets a second",
		c.CPU, megabytes(c.PSS), c.Written, c.Sent+c.Received)
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }
