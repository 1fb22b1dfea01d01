package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"had/internal/lab"
)

// where says where everything is and what to try.
func (p *console) where(ctx context.Context, _ []string) error {
	n := p.n
	vips := p.lab.VIPs()
	owner, err := p.owner(ctx)
	if err != nil {
		return err
	}
	rows := [][]string{{"server", "address", "pid of had", "log"}}
	for _, h := range p.lab.Servers() {
		pid := "-"
		if h.Running() {
			pid = fmt.Sprint(h.Daemon().Pid())
		}
		rows = append(rows, []string{h.Name, h.V4.String(), pid, h.Log()})
	}
	n.blank()
	n.table(rows, nil)
	n.blank()
	n.fact("addresses", plain, fmt.Sprintf("%s and %s, now on %s", vips[0], vips[1], cmp.Or(owner, "no server")))
	n.fact("policy", plain, p.places.policy)
	n.fact("hooks", plain, filepath.Join(p.places.hooks, vips[0].String()))
	n.blank()
	n.para("In another terminal, as root:")
	n.blank()
	n.line("  export PATH=" + filepath.Dir(p.cfg.Hactl) + ":$PATH HACTL_SOCKET=" + p.running().Socket())
	n.line("  hactl watch")
	n.line("  hactl move --reason \"first try\"")
	n.line("  hactl history --follow")
	n.line("  hactl policy show")
	if h, err := p.server(ctx, owner); err == nil && h.Running() {
		n.line(fmt.Sprintf("  nsenter --net --target %d ip address   # as %s sees it", h.Daemon().Pid(), h.Name))
		n.line(fmt.Sprintf("  kill -9 %d   # crash had on %s, the owner", h.Daemon().Pid(), h.Name))
	}
	n.blank()
	return p.help(ctx, nil)
}

func (p *console) help(context.Context, []string) error {
	p.n.para("Here, with the name of a server or \"owner\" for NAME (Ctrl-C ends it all):")
	p.n.blank()
	for _, v := range verbs() {
		p.n.line(fmt.Sprintf("  %-18s  %s", v.usage, v.what))
	}
	p.n.blank()
	return nil
}

// owner returns who has the first address in its kernel; "" for nobody.
func (p *console) owner(ctx context.Context) (string, error) {
	h, err := p.lab.Observer.History(ctx, p.lab.VIPs()[0])
	return strings.Join(h.Holders(), ", "), err
}

// server finds a server by the name that was typed; "owner" is whoever owns.
func (p *console) server(ctx context.Context, name string) (*lab.Host, error) {
	if name == "owner" {
		var err error
		if name, err = p.owner(ctx); err != nil {
			return nil, err
		}
		if name == "" {
			return nil, errors.New("no server has the addresses now")
		}
	}
	var names []string
	for _, h := range p.lab.Servers() {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, fmt.Errorf("there is no server %q: they are %s", name, strings.Join(names, ", "))
}

// onServer makes a command of what is done to one server, and says done.
func (p *console) onServer(ctx context.Context, name, done string, do func(*lab.Host) error) error {
	h, err := p.server(ctx, name)
	if err != nil {
		return err
	}
	if err := do(h); err != nil {
		return err
	}
	p.n.fact(h.Name, plain, done)
	return nil
}

func (p *console) kill(ctx context.Context, args []string) error {
	return p.onServer(ctx, args[0], "had is killed; its host runs on", func(h *lab.Host) error { return endDaemon(ctx, h, syscall.SIGKILL) })
}

func (p *console) stop(ctx context.Context, args []string) error {
	return p.onServer(ctx, args[0], "had has stopped", func(h *lab.Host) error { return endDaemon(ctx, h, syscall.SIGTERM) })
}

// endDaemon sends a signal and waits until the daemon is gone, so that it can
// be started again.
func endDaemon(ctx context.Context, h *lab.Host, signal syscall.Signal) error {
	if err := h.Kill(signal); err != nil {
		return err
	}
	select {
	case <-h.Daemon().Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *console) startOne(ctx context.Context, args []string) error {
	return p.onServer(ctx, args[0], "had is started", (*lab.Host).StartDaemon)
}

func (p *console) cutOff(ctx context.Context, args []string) error {
	return p.onServer(ctx, args[0], "cut off from everybody, until heal", func(h *lab.Host) error { return p.lab.Isolate(h.Name) })
}

func (p *console) split(context.Context, []string) error {
	p.n.fact("network", plain, "the servers are cut from each other, until heal")
	return p.lab.SplitServers()
}

func (p *console) heal(context.Context, []string) error {
	p.n.fact("network", plain, "no cuts; links that are down stay down")
	return p.lab.Heal()
}

func (p *console) link(ctx context.Context, args []string) error {
	states := map[string]func(string) error{"up": p.lab.LinkUp, "down": p.lab.LinkDown}
	set, ok := states[args[1]]
	if !ok {
		return fmt.Errorf("usage: link NAME up|down")
	}
	return p.onServer(ctx, args[0], "the link is "+args[1], func(h *lab.Host) error { return set(h.Name) })
}

// hactlLine runs hactl against a server whose daemon runs.
func (p *console) hactlLine(ctx context.Context, args []string) error {
	return p.show(ctx, p.running(), args...)
}

// running returns a server whose daemon runs; the first if none does.
func (p *console) running() *lab.Host {
	servers := p.lab.Servers()
	return servers[max(0, slices.IndexFunc(servers, (*lab.Host).Running))]
}

// showClient shows what the client sees now and the gaps it had.
func (p *console) showClient(ctx context.Context, _ []string) error {
	now := time.Now()
	for _, vip := range p.lab.VIPs() {
		p.n.fact("client", plain, "GET "+urlOf(vip)+": "+page(ctx, p.lab.Client, urlOf(vip)))
		shown := 0
		for _, g := range p.clients[vip].Report().Gaps() {
			if g.End.Before(p.since) || g.FromHost == "" {
				continue
			}
			if g.FromHost == g.ToHost && g.Duration() < worthTelling {
				continue
			}
			shown++
			p.n.fact("", plain, fmt.Sprintf("%s: %s", g.Start.Format("15:04:05.000"), gapText(g)))
		}
		if shown == 0 {
			p.n.fact("", faint, fmt.Sprintf("no gap in the last %s", now.Sub(p.since).Round(time.Second)))
		}
		h, err := p.lab.Observer.History(ctx, vip)
		if err != nil {
			return err
		}
		r := result{start: h.Start, end: h.End, seen: map[netip.Addr]lab.History{vip: h}}
		p.n.fact("observer", plain, fmt.Sprintf("%s in which two hosts had %s, since the start", ms(inMs(r.shared(vip))), vip))
	}
	p.since = now
	return nil
}

// worthTelling is the shortest silence of one host that is shown: a busy
// machine has shorter ones all the time.
const worthTelling = 50 * time.Millisecond

func gapText(g lab.Gap) string {
	to := g.ToHost
	if to == "" {
		return fmt.Sprintf("no answer since, for %s; before, %s answered", ms(inMs(g.Duration())), g.FromHost)
	}
	if to == g.FromHost {
		return fmt.Sprintf("no answer for %s, %s before and after", ms(inMs(g.Duration())), to)
	}
	return fmt.Sprintf("no answer for %s, %s then %s", ms(inMs(g.Duration())), g.FromHost, to)
}
