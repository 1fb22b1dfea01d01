package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"had/internal/lab"
)

// hactl prepares the operator's command as run on a server.
func (c *Cluster) hactl(ctx context.Context, on *lab.Host, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.cfg.Hactl, args...)
	cmd.Env = append(os.Environ(), "HACTL_SOCKET="+on.Socket())
	// The terminal's Ctrl-C is for the demo, which then ends its commands.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// show runs hactl and shows the command with everything it prints.
func (c *Cluster) show(ctx context.Context, on *lab.Host, args ...string) error {
	var out bytes.Buffer
	cmd := c.hactl(ctx, on, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	c.n.command(on.Name, commandLine(args), out.String())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", commandLine(args), err)
	}
	return c.n.err
}

func commandLine(args []string) string {
	words := []string{"hactl"}
	for _, a := range args {
		if strings.ContainsAny(a, " \"'$\\") {
			a = fmt.Sprintf("%q", a)
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// query runs hactl for its answer in JSON and hands each document to take.
func (c *Cluster) query(ctx context.Context, on *lab.Host, take func(json.RawMessage) error, args ...string) error {
	args = append(args, "-o", "json")
	var stdout, stderr bytes.Buffer
	cmd := c.hactl(ctx, on, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s on %s: %w: %s", commandLine(args), on.Name, err, strings.TrimSpace(stderr.String()))
	}
	for dec := json.NewDecoder(&stdout); ; {
		var doc json.RawMessage
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the JSON of %s: %w", commandLine(args), err)
		}
		if err := take(doc); err != nil {
			return fmt.Errorf("read the JSON of %s: %w", commandLine(args), err)
		}
	}
}

// status is what the demo reads of hactl's status.
type status struct {
	Freshness struct {
		Confirmed bool `json:"confirmed"`
	} `json:"freshness"`
	Ownership struct {
		State string `json:"state"`
		Owner string `json:"owner"`
		Why   string `json:"why"`
	} `json:"ownership"`
	Nodes []struct {
		Name           string   `json:"name"`
		Reachable      bool     `json:"reachable"`
		Eligible       bool     `json:"eligible"`
		Reasons        []string `json:"reasons"`
		PendingReports int      `json:"pending_reports"`
	} `json:"nodes"`
	Error string `json:"error"` // no status: the daemon doesn't answer
}

// owned reports whether a node other than the excepted one serves, beyond
// doubt.
func (s status) owned(except string) bool {
	o := s.Ownership
	return s.Freshness.Confirmed && o.State == "owned" && o.Owner != except
}

// whole reports whether every node answers, could take over, and has told
// everything.
func (s status) whole() bool {
	for _, n := range s.Nodes {
		if !n.Reachable || !n.Eligible || n.PendingReports > 0 {
			return false
		}
	}
	return len(s.Nodes) > 0
}

// missing says in words what keeps the cluster from being whole; "" when
// nothing is known.
func (s status) missing() string {
	var parts []string
	if s.Error != "" {
		parts = append(parts, s.Error)
	}
	if s.Ownership.State != "owned" && s.Ownership.State != "" {
		parts = append(parts, strings.TrimSpace("ownership is "+s.Ownership.State+" "+s.Ownership.Why))
	}
	for _, n := range s.Nodes {
		switch {
		case !n.Reachable:
			parts = append(parts, n.Name+" doesn't answer")
		case !n.Eligible:
			parts = append(parts, n.Name+" can't own: "+strings.Join(n.Reasons, ", "))
		case n.PendingReports > 0:
			parts = append(parts, n.Name+" has reports that aren't in the log yet")
		}
	}
	return strings.Join(parts, "; ")
}

// awaitStatus follows `hactl watch` on a server until ok says so.
func (c *Cluster) awaitStatus(ctx context.Context, on *lab.Host, what string, ok func(status) bool) (s status, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("not after %s", c.patience))
	defer cancel()
	for {
		err := c.watch(ctx, on, func(next status) bool {
			s = next
			return ok(next)
		})
		if err == nil {
			return s, nil
		}
		// The daemon that has just been started isn't there yet.
		again := time.NewTimer(50 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			why := ""
			if text := cmp.Or(s.missing(), err.Error()); text != "" {
				why = fmt.Sprintf(" (%s says: %s)", on.Name, text)
			}
			return s, fmt.Errorf("wait until %s: %w%s", what, context.Cause(ctx), why)
		}
	}
}

// watch runs `hactl watch` and returns nil as soon as ok says so. The error is
// what it complained of, which is nothing when ctx ended it.
func (c *Cluster) watch(ctx context.Context, on *lab.Host, ok func(status) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	cmd := c.hactl(ctx, on, "watch", "-o", "json", "--timeout", c.patience.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return fmt.Errorf("start hactl: %w", err)
	}
	lines := json.NewDecoder(out)
	for {
		var s status
		if err = lines.Decode(&s); err != nil || ok(s) {
			break
		}
	}
	cancel() // it would go on for ever
	_ = cmd.Wait()
	if err != nil {
		return errors.New(strings.TrimSpace(stderr.String()))
	}
	return nil
}

// event is what the demo reads of an event of the history.
type event struct {
	Index    uint64    `json:"index"`
	Sub      uint32    `json:"sub"`
	At       time.Time `json:"at"`
	Node     string    `json:"node"`
	Epoch    uint64    `json:"epoch"`
	Acquired *struct{} `json:"acquired"`
	Closed   *struct {
		Epoch    uint64  `json:"epoch"`
		Kind     string  `json:"kind"`
		WaitedMs float64 `json:"waited_ms"`
	} `json:"closed"`
	Progress *stepped `json:"progress"`
	Released *stepped `json:"released"`
	Hook     *struct {
		Stage string `json:"stage"`
	} `json:"hook"`
}

type stepped struct {
	Forced bool   `json:"forced"`
	Steps  []step `json:"steps"`
}

type step struct {
	Name       string    `json:"name"`
	Started    time.Time `json:"started"`
	DurationMs float64   `json:"duration_ms"`
}

// events returns everything in the log as one server has it, in its order.
func (c *Cluster) events(ctx context.Context, on *lab.Host) (events []event, err error) {
	err = c.query(ctx, on, func(doc json.RawMessage) error {
		var e event
		err := json.Unmarshal(doc, &e)
		events = append(events, e)
		return err
	}, "history", "--last", "0")
	return events, err
}

// agreed returns the history once it is the same on every server and ok says
// that it is complete.
func (c *Cluster) agreed(ctx context.Context, what string, ok func([]event) bool) ([]event, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("not after %s", c.patience))
	defer cancel()
	for {
		events, differs, err := c.compare(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("wait until %s: %w", what, err)
		case differs == "" && ok(events):
			return events, nil
		}
		// A follower learns of a commit a little later than its leader.
		again := time.NewTimer(50 * time.Millisecond)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, fmt.Errorf("wait until %s: %w: %s", what, context.Cause(ctx), cmp.Or(differs, "something is missing in it"))
		}
	}
}

// compare returns the history, or in words how two servers differ in it.
func (c *Cluster) compare(ctx context.Context) (events []event, differs string, err error) {
	servers := c.lab.Servers()
	for i, h := range servers {
		next, err := c.events(ctx, h)
		if err != nil {
			return nil, "", err
		}
		if i > 0 && !slices.EqualFunc(events, next, event.same) {
			return nil, fmt.Sprintf("%s has %d events, %s has %d or others", servers[i-1].Name, len(events), h.Name, len(next)), nil
		}
		events = next
	}
	return events, "", nil
}

// added returns the events that came to the log after the earlier ones.
func added(before, after []event) []event {
	if len(before) == 0 {
		return after
	}
	last := before[len(before)-1]
	i := slices.IndexFunc(after, func(e event) bool {
		return e.Index > last.Index || e.Index == last.Index && e.Sub > last.Sub
	})
	if i < 0 {
		return nil
	}
	return after[i:]
}

// same reports whether two servers mean the same event.
func (e event) same(other event) bool {
	return e.Index == other.Index && e.Sub == other.Sub && e.Node == other.Node && e.At.Equal(other.At)
}
