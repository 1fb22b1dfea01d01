package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/lab"
)

const (
	// patience bounds each single wait. keepalived's client needs most: after
	// a heal it may talk to the wrong host until its neighbour entry ages.
	patience = 60 * time.Second
	// glance is the time between two looks at what can only be polled.
	glance = 150 * time.Millisecond
)

// site is a running cluster of one subject.
type site struct {
	subject Subject
	product product
	lab     *lab.Lab
	vips    []netip.Addr
	// first has the process of each server that was started last, the rest of
	// a daemon being what that starts.
	first map[string]*lab.Process
	// spaces has the network namespace of each server; every process in it is
	// the product's.
	spaces map[string]uint64
	// volume and strip are what a cluster that owns a volume has more; nil: it
	// owns addresses alone.
	volume *lab.Volume
	strip  *lab.Strip
}

// newSite returns a cluster whose daemons are well and where one owns.
func (r *runner) newSite(ctx context.Context, s Subject, vips []netip.Addr) (*site, error) {
	return r.newSiteIn(ctx, s, lab.Config{VIPs: vips}, func(*site) error { return nil })
}

// newSiteIn is newSite in a lab of one's own, prepared before anything runs.
func (r *runner) newSiteIn(ctx context.Context, s Subject, cfg lab.Config, prepare func(c *site) error) (_ *site, err error) {
	cfg.Cluster, cfg.Detect = "bench", s.Interval
	l, err := lab.New(cfg)
	if err != nil {
		return nil, err
	}
	c := &site{
		subject: s, product: r.newProduct(s, l), lab: l, vips: cfg.VIPs,
		first: map[string]*lab.Process{}, spaces: map[string]uint64{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start a cluster of %s: %w", s.Title, err), c.close())
		}
	}()
	if err := prepare(c); err != nil {
		return nil, err
	}
	if err := c.product.configure(c.vips); err != nil {
		return nil, err
	}
	for _, h := range l.Servers() {
		if err := c.start(h); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s", patience))
	defer cancel()
	if err := c.product.begin(ctx); err != nil {
		return nil, err
	}
	_, err = c.settled(ctx)
	return c, err
}

// install gives a server a copy of a program. Servers that ran one file would
// share its pages, which no servers of one's own do, and none would seem to
// use the memory that each of them needs.
func install(h *lab.Host, program string) error {
	from, err := os.Open(program)
	if err != nil {
		return fmt.Errorf("install a program on %s: %w", h.Name, err)
	}
	defer from.Close()
	to, err := os.OpenFile(installed(h, program), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o700)
	if err != nil {
		return fmt.Errorf("install a program on %s: %w", h.Name, err)
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("install %s on %s: %w", program, h.Name, err)
	}
	return nil
}

// installed is where a server has its copy of a program.
func installed(h *lab.Host, program string) string {
	return filepath.Join(h.Dir(), filepath.Base(program))
}

// close ends the cluster.
func (c *site) close() error {
	var err error
	if c.strip != nil {
		err = c.strip.Close()
	}
	return errors.Join(err, c.lab.Close())
}

// start starts the daemon of a server, which is switched on if it is off.
func (c *site) start(h *lab.Host) error {
	if err := h.PowerOn(); err != nil {
		return err
	}
	p, err := h.Start(h.Log(), c.product.command(h)...)
	if err != nil {
		return err
	}
	c.first[h.Name] = p
	if c.spaces[h.Name] == 0 {
		if c.spaces[h.Name], err = netSpace(p.Pid()); err != nil {
			return err
		}
	}
	return nil
}

// processes returns all processes of the product on a server.
func (c *site) processes(h *lab.Host) ([]int, error) { return processesIn(c.spaces[h.Name]) }

// victims returns the processes to hit for a fault of the daemon, or of all
// that the product has on the server.
func (c *site) victims(h *lab.Host, everything bool) ([]int, error) {
	all, err := c.processes(h)
	if err != nil || everything {
		return all, err
	}
	return c.product.daemon(c.first[h.Name].Pid(), all), nil
}

// settled returns the owner once all is well: every daemon runs and is ready,
// and exactly one host has all addresses. A daemon that has ended is started
// again, as a supervisor would.
func (c *site) settled(ctx context.Context) (*lab.Host, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s", patience))
	defer cancel()
	var owner *lab.Host
	err := eventually(ctx, func() (err error) {
		for _, h := range c.lab.Servers() {
			select {
			case <-c.first[h.Name].Done():
				if err := c.start(h); err != nil {
					return err
				}
			default:
			}
		}
		if err := c.product.well(ctx); err != nil {
			return err
		}
		owner, err = c.holder(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait until %s is well: %w", c.subject.Title, err)
	}
	return owner, nil
}

// holder returns the one host that has all addresses now.
func (c *site) holder(ctx context.Context) (*lab.Host, error) {
	history, err := c.lab.Observer.History(ctx, c.vips[0])
	if err != nil {
		return nil, err
	}
	holders := history.Holders()
	if len(holders) != 1 {
		return nil, fmt.Errorf("%s is on %v", c.vips[0], holders)
	}
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	for _, vip := range c.vips[1:] {
		if err := c.lab.Observer.Await(ctx, vip, holders...); err != nil {
			return nil, err
		}
	}
	return c.lab.Host(holders[0]), nil
}

// others returns the names of all servers but one.
func (c *site) others(name string) []string {
	var names []string
	for _, h := range c.lab.Servers() {
		if h.Name != name {
			names = append(names, h.Name)
		}
	}
	return names
}

// signal sends a signal to processes; one that has ended since is none.
func signal(pids []int, sig unix.Signal) error {
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// kill ends processes as if at one instant: those that are several are stopped
// first, so that none can act on the death of another.
func kill(pids []int) error {
	if len(pids) > 1 {
		if err := signal(pids, unix.SIGSTOP); err != nil {
			return err
		}
	}
	return signal(pids, unix.SIGKILL)
}

// wait returns after a time, or with the reason why ctx ended before.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
