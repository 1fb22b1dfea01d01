package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"had/internal/hook"
	"had/internal/lab"
)

// Cluster is a lab with running daemons, a policy in force, and a client for
// each virtual address.
type Cluster struct {
	cfg     Config
	n       *narrator
	lab     *lab.Lab
	places  places
	clients map[netip.Addr]*lab.Client
	// patience bounds every single wait. It is far beyond what any takes, and
	// grows with detect as they do.
	patience time.Duration
	timing   timing
}

// timing is what the demo reads of hactl's timing, to explain what it shows.
type timing struct {
	TTLMs             float64 `json:"ttl_ms"`
	AddressLifetimeMs float64 `json:"address_lifetime_ms"`
	TakeoverWaitMs    float64 `json:"takeover_wait_ms"`
}

// newCluster builds the hosts and their files; no daemon runs yet.
func newCluster(cfg Config, n *narrator) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster of network namespaces needs root: run it with sudo")
	}
	l, err := lab.New(lab.Config{HadBinary: cfg.Had, Dir: cfg.Dir, Detect: cfg.Detect, Web: site})
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, n: n, lab: l, clients: map[netip.Addr]*lab.Client{},
		patience: 30*time.Second + 20*cfg.Detect,
	}
	if c.places, err = furnish(l); err == nil {
		// The daemons would refuse the scripts; here it is clear what to do.
		err = hook.CheckTrusted(c.places.hooks)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return c, nil
}

// start runs the daemons until one of them owns the addresses of the policy
// and the client gets its answers.
func (c *Cluster) start(ctx context.Context) error {
	for _, h := range c.lab.Servers() {
		if err := h.StartDaemon(); err != nil {
			return err
		}
	}
	first := c.lab.Servers()[0]
	if err := c.whileAlive(ctx, func(ctx context.Context) error {
		_, err := c.awaitStatus(ctx, first, "the cluster is born and has a leader", func(s status) bool {
			return s.Freshness.Confirmed
		})
		return err
	}); err != nil {
		return err
	}
	if err := c.query(ctx, first, func(doc json.RawMessage) error { return json.Unmarshal(doc, &c.timing) }, "timing"); err != nil {
		return err
	}
	if err := c.show(ctx, first, "policy", "apply", c.places.policy, "--yes"); err != nil {
		return err
	}
	for _, vip := range c.lab.VIPs() {
		client, err := c.lab.Client.Measure(lab.ClientConfig{Target: vip})
		if err != nil {
			return err
		}
		c.clients[vip] = client
	}
	_, err := c.steady(ctx)
	return err
}

// whileAlive runs f, but ends it when a daemon ends, which no daemon should.
func (c *Cluster) whileAlive(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel(nil)
	for _, h := range c.lab.Servers() {
		daemon := h.Daemon()
		watchers.Go(func() {
			select {
			case <-daemon.Done():
				cancel(fmt.Errorf("the daemon of %s ended: %s", h.Name, lastLines(h.Log(), 6)))
			case <-ctx.Done():
			}
		})
	}
	return f(ctx)
}

// lastLines returns the end of a text file, for an error message.
func lastLines(path string, count int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return "\n" + string(bytes.Join(lines[max(0, len(lines)-count):], []byte("\n")))
}

// steady waits until the cluster is as it should be: one server owns and holds
// the addresses, every server answers and could take over, everything is in
// the log, and the client gets its answers. It returns the owner.
func (c *Cluster) steady(ctx context.Context) (*lab.Host, error) {
	return c.steadyBy(ctx, c.lab.Servers()[0])
}

// steadyBy is steady as one server sees it.
func (c *Cluster) steadyBy(ctx context.Context, asked *lab.Host) (*lab.Host, error) {
	s, err := c.awaitStatus(ctx, asked, "one server owns and all are well", func(s status) bool {
		return s.owned("") && s.whole()
	})
	if err != nil {
		return nil, err
	}
	owner := c.lab.Host(s.Ownership.Owner)
	return owner, c.answering(ctx, owner.Name, time.Now())
}

// answering waits until the client hears the owner, by each address, later
// than the given time.
func (c *Cluster) answering(ctx context.Context, owner string, after time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("waited %s for it", c.patience))
	defer cancel()
	for _, vip := range c.lab.VIPs() {
		if _, err := c.clients[vip].AwaitAnswer(ctx, after, c.others(owner)...); err != nil {
			return err
		}
	}
	return nil
}

// others returns the names of all servers but one.
func (c *Cluster) others(name string) []string {
	var names []string
	for _, h := range c.lab.Servers() {
		if h.Name != name {
			names = append(names, h.Name)
		}
	}
	return names
}

// witness returns a server other than the given one, to ask while that one is
// down.
func (c *Cluster) witness(down *lab.Host) *lab.Host {
	return c.lab.Host(c.others(down.Name)[0])
}

// end closes the lab and says what became of it. The reason is why it ends:
// an interruption is no failure, so it is passed on as it is.
func (c *Cluster) end(ctx context.Context, reason error) error {
	if ctx.Err() != nil {
		reason = context.Cause(ctx)
	} else if c.n.err != nil {
		reason = fmt.Errorf("tell what happens: %w", c.n.err)
	} else if reason != nil && c.cfg.Dir == "" {
		reason = fmt.Errorf("%w\n(to keep the logs of the daemons, run it again with --dir DIR)", reason)
	}
	err := c.lab.Close()
	if err == nil {
		text := "Cleaned up: the namespaces, every process in them and " + c.lab.Dir() + " are gone."
		if c.cfg.Dir != "" {
			text = "Cleaned up: the namespaces and every process in them are gone. " + c.lab.Dir() + " is kept."
		}
		c.n.blank()
		c.n.para(text)
	}
	return errors.Join(reason, err)
}
