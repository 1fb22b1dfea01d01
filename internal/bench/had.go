package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"had/internal/lab"
)

// had is our daemon, with a policy that has nothing but addresses, and a volume
// where that is what is measured.
type had struct {
	lab           *lab.Lab
	binary, hactl string
	more          string // of the policy
}

func (p *had) policy() string { return filepath.Join(p.lab.Dir(), "policy.hcl") }

func (p *had) configure(vips []netip.Addr) error {
	var b strings.Builder
	for i, vip := range vips {
		fmt.Fprintf(&b, "vip \"v%d\" {\n  address   = %q\n  interface = \"eth0\"\n}\n", i, vip)
	}
	b.WriteString(p.more)
	if err := os.WriteFile(p.policy(), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	for _, h := range p.lab.Servers() {
		if err := install(h, p.binary); err != nil {
			return err
		}
	}
	return nil
}

func (p *had) command(h *lab.Host) []string {
	return []string{installed(h, p.binary), "run", "--config", h.Config()}
}

// begin applies the policy as soon as the cluster is born.
func (p *had) begin(ctx context.Context) error {
	first := p.lab.Servers()[0]
	return eventually(ctx, func() error {
		s, err := p.status(ctx, first)
		switch {
		case err != nil:
			return err
		case !s.Freshness.Confirmed:
			return errors.New("the cluster has no leader yet")
		}
		_, err = p.run(ctx, first, "policy", "apply", p.policy())
		return err
	})
}

// status is what is read of hactl's.
type status struct {
	Freshness struct {
		Confirmed bool `json:"confirmed"`
	} `json:"freshness"`
	Ownership struct {
		State string `json:"state"`
		Why   string `json:"why"`
	} `json:"ownership"`
	Nodes []struct {
		Name           string   `json:"name"`
		Reachable      bool     `json:"reachable"`
		Eligible       bool     `json:"eligible"`
		Reasons        []string `json:"reasons"`
		PendingReports int      `json:"pending_reports"`
	} `json:"nodes"`
}

func (p *had) status(ctx context.Context, on *lab.Host) (s status, err error) {
	out, err := p.run(ctx, on, "status", "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("read the status of %s: %w", on.Name, err)
	}
	return s, nil
}

// proven returns when a node said after an instant that it, or its guard, had ended by
// force what it held and seen that it was gone; zero: it didn't.
func (p *had) proven(ctx context.Context, node string, after time.Time) (time.Time, error) {
	out, err := p.run(ctx, p.lab.Servers()[0], "history", "--last", "200", "-o", "json")
	if err != nil {
		return time.Time{}, err
	}
	for in := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct {
			At       time.Time `json:"at"`
			Node     string    `json:"node"`
			Released *struct {
				Forced bool `json:"forced"`
			} `json:"released"`
			Secured *struct {
				At   time.Time `json:"at"`
				Kind string    `json:"kind"`
				By   string    `json:"by"`
			} `json:"secured"`
		}
		err := in.Decode(&e)
		if errors.Is(err, io.EOF) {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("read the history: %w", err)
		}
		switch {
		case e.Secured != nil && e.Secured.By == node && e.Secured.At.After(after):
			return e.Secured.At, nil
		case e.Released != nil && e.Released.Forced && e.Node == node && e.At.After(after):
			return e.At, nil
		}
	}
}

// run runs hactl against the daemon of a server.
func (p *had) run(ctx context.Context, on *lab.Host, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.hactl, args...)
	cmd.Env = append(os.Environ(), "HACTL_SOCKET="+on.Socket())
	// The terminal's Ctrl-C is for the run, which then ends its commands.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("hactl %s on %s: %w: %s", args[0], on.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// well asks one server: the leader's word on all of them reaches it.
func (p *had) well(ctx context.Context) error {
	h := p.lab.Servers()[0]
	s, err := p.status(ctx, h)
	switch {
	case err != nil:
		return err
	case !s.Freshness.Confirmed || s.Ownership.State != "owned":
		return fmt.Errorf("%s says that ownership is %s %s", h.Name, s.Ownership.State, s.Ownership.Why)
	}
	for _, n := range s.Nodes {
		if !n.Reachable || !n.Eligible || n.PendingReports > 0 {
			return fmt.Errorf("%s says of %s: reachable %t, eligible %t %v, %d reports to deliver", h.Name, n.Name, n.Reachable, n.Eligible, n.Reasons, n.PendingReports)
		}
	}
	return nil
}

func (p *had) move(ctx context.Context, owner *lab.Host) error {
	servers := p.lab.Servers()
	i := slices.Index(servers, owner)
	to := servers[(i+1)%len(servers)]
	_, err := p.run(ctx, to, "move", "--to", to.Name, "--reason", "a benchmark")
	return err
}

// daemon is the first process; its helpers are there to outlive it.
func (p *had) daemon(first int, _ []int) []int { return []int{first} }

// eventually tries again until it succeeds or ctx ends, and then returns the
// latest reason why not. What fails because ctx has ended is no reason, unless
// it is the only one.
func eventually(ctx context.Context, try func() error) error {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	var reason error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || reason == nil {
			reason = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), reason)
		}
	}
}
