package simtest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// process is one run of the daemon on a host.
type process struct {
	*life
	instance *hadv1.Instance
	term     context.CancelFunc // SIGTERM
	cancel   context.CancelFunc // lets the goroutines of a dead process end
	ctx      context.Context    // until SIGTERM
	hard     context.Context    // until death
	asked    bool               // SIGTERM was sent; guarded by h.mu
	again    bool               // and it is to be started again when it has ended; guarded by h.mu

	transport *transport

	// Set once, under life.mu, when they can be asked.
	node       *cluster.Node
	controller *failover.Controller
}

func newProcess(h *host, instance *hadv1.Instance) *process {
	p := &process{life: newLife(h), instance: instance}
	p.hard, p.cancel = context.WithCancel(context.Background())
	p.ctx, p.term = context.WithCancel(p.hard)
	p.transport = newTransport(p)
	return p
}

func (p *process) die() {
	p.end()
	p.cancel()
	p.h.shelf.killOf(p.life)
}

// clock is the controller's clock.Source, and a seam: the lease's keeper reads
// the clock before it touches the kernel.
func (p *process) clock() clock.Instant {
	_ = p.pass() // a dead one's next seam ends it
	return p.h.now()
}

// view is the replicated state as this process has applied it.
func (p *process) view() cluster.View {
	v, _ := p.node.View()
	return v
}

// ready returns the controller once the process serves requests.
func (p *process) ready() (*failover.Controller, *cluster.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.controller, p.node
}

// run is the life of a daemon, in the order of internal/daemon: what an
// earlier run left goes before anybody is met, and that run's guard before
// that.
func (p *process) run() error {
	defer p.cancel()
	logger := p.logger()
	journal := p.h.journal.open(p)
	addresses := &addresses{p: p, told: map[netip.Addr]bool{}}
	guards := p.supervisor(logger)
	hooks := func(string, time.Duration) (failover.Hooks, error) {
		return &runner{p: p, journal: journal, guards: guards}, nil
	}
	farewell, err := p.settle()
	if err != nil {
		return err
	}
	recovery := failover.RecoverConfig{
		Cluster: p.h.w.birth.GetCluster(), Instance: p.instance, Journal: journal, Addresses: addresses,
		Farewell: farewell, Hooks: hooks, Kill: p.killScript, Logger: logger,
	}
	ring := failover.Config{
		Cluster: p.h.w.birth.GetCluster(), Instance: p.instance, Members: p.h.w.birth.GetMembers(), Timing: p.h.timing,
		Journal: journal, Addresses: addresses, Network: &lan{p: p},
		Hooks: hooks, CheckHook: func(*policy.Policy) (failover.HookFolders, error) { return failover.HookFolders{}, nil },
		Farewell: farewell, FarewellTaken: p.forgetFarewell,
		Peers: &peers{p: p}, Clock: p.clock, Logger: logger, Version: "simulated",
		Probe: p.probe,
	}
	if guards != nil {
		ring.Guard = guards
	}
	p.carry(&recovery, &ring, guards)
	if p.h.kernel.gate != nil {
		g := &openGate{gate: p.h.kernel.gate, by: p.life}
		recovery.Gate, ring.Gate = g, g
	}
	recovered, err := failover.Recover(p.ctx, recovery)
	if err != nil {
		return err
	}
	left := &leftovers{p: p, why: recovered.Unproven}
	ring.HostTrouble = left.trouble
	if err := p.pass(); err != nil {
		return err
	}
	node, err := cluster.Open(cluster.Config{
		Birth: p.h.w.birth, Instance: p.instance, Timing: p.h.timing, Storage: p.h.disk.open(p),
		Transport: p.transport, Peers: &peers{p: p}, Clock: p.h.now, Logger: logger,
	})
	if err != nil {
		return err
	}
	ring.Log = &seenLog{p: p, node: node}
	controller := failover.New(ring)
	p.mu.Lock()
	p.node, p.controller = node, controller
	p.mu.Unlock()

	tasks, stop := context.WithCancel(p.hard)
	defer stop()
	g, tasks := errgroup.WithContext(tasks)
	g.Go(func() error { return node.Run(tasks) })
	g.Go(func() error { return left.run(tasks, recovery, controller.Wake) })
	if guards != nil {
		g.Go(func() error { return guards.Run(tasks) })
		g.Go(func() error { return p.follow(tasks, guards, controller) })
	}
	g.Go(func() error {
		defer stop()
		return controller.Run(p.ctx, tasks)
	})
	return g.Wait()
}

func (p *process) killScript(_ context.Context, r hook.Running) (int, error) {
	if err := p.pass(); err != nil {
		return 0, err
	}
	return p.h.scripts.kill(r.ID), nil
}

// seenLog is the log as the controller uses it: each call passes the seam, and
// what was committed or refused is noted.
type seenLog struct {
	p    *process
	node *cluster.Node
}

func (l *seenLog) Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	if err := l.p.pass(); err != nil {
		return cluster.Verdict{}, err
	}
	t := l.p.h.w.layout.tamper
	if t.propose != nil {
		return t.propose(ctx, l, cmd)
	}
	return l.propose(ctx, cmd)
}

func (l *seenLog) propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	v, err := l.node.Propose(ctx, cmd)
	l.p.h.w.checker.proposed(l.p, cmd, v, err)
	if passed := l.p.pass(); passed != nil {
		return cluster.Verdict{}, passed
	}
	return v, err
}

func (l *seenLog) Transfer(ctx context.Context, to string) error {
	if err := l.p.pass(); err != nil {
		return err
	}
	err := l.node.Transfer(ctx, to)
	l.p.h.w.checker.transferred(l.p.h.name, to, err)
	return errors.Join(err, l.p.pass())
}

func (l *seenLog) Confirm(ctx context.Context) error {
	if err := l.p.pass(); err != nil {
		return err
	}
	return errors.Join(l.node.Confirm(ctx), l.p.pass())
}

func (l *seenLog) Leadership() cluster.Leadership {
	if l.p.pass() != nil {
		return cluster.Leadership{}
	}
	return l.node.Leadership()
}

func (l *seenLog) LeadershipChanged() <-chan struct{} {
	_ = l.p.pass() // the caller's next call tells it
	return l.node.LeadershipChanged()
}

func (l *seenLog) View() (cluster.View, <-chan struct{}) {
	_ = l.p.pass()
	return l.node.View()
}

func (l *seenLog) LastLease() clock.Instant {
	if t := l.p.h.w.layout.tamper; t.lastLease != nil {
		return t.lastLease(l.node.LastLease())
	}
	return l.node.LastLease()
}

// lan is what a host knows of its network. Nobody answers a probe: silence
// proves nothing, and an answer would hide what the checker is to find.
type lan struct{ p *process }

func (*lan) Resolve(want []vip.Wanted) []vip.Resolved {
	out := make([]vip.Resolved, len(want))
	for i, w := range want {
		out[i].Address = vip.Address{Addr: w.Addr, Interface: "eth0"}
	}
	return out
}

func (l *lan) Carrier(string) (bool, error) { return l.p.h.kernel.carrier(), nil }

func (l *lan) HardwareAddrs() ([]net.HardwareAddr, error) {
	return []net.HardwareAddr{{2, 0, 0, 0, 0, l.p.h.name[0]}}, nil
}

func (l *lan) Conflicts(ctx context.Context, _ []vip.Address, window time.Duration, _ []net.HardwareAddr) ([]vip.Conflict, error) {
	if err := l.p.pass(); err != nil {
		return nil, err
	}
	return nil, errors.Join(wait(ctx, window, l.p.dead), l.p.pass())
}

// logger is a seam too: raft says what it does before it does it, so a stopped
// process stops there. Its lines go into the diary.
func (l *life) logger() hclog.Logger {
	return &logger{Logger: hclog.NewNullLogger(), p: l}
}

type logger struct {
	hclog.Logger
	p    *life
	name string
}

func (l *logger) Named(name string) hclog.Logger {
	return &logger{Logger: l.Logger, p: l.p, name: strings.TrimPrefix(l.name+"."+name, ".")}
}
func (l *logger) With(...any) hclog.Logger            { return l }
func (l *logger) ResetNamed(name string) hclog.Logger { return l.Named(name) }
func (l *logger) Trace(string, ...any)                {}
func (l *logger) Debug(string, ...any)                { _ = l.p.pass() }
func (l *logger) Info(msg string, args ...any)        { l.line(msg, args) }
func (l *logger) Warn(msg string, args ...any)        { l.line(msg, args) }
func (l *logger) Error(msg string, args ...any)       { l.line(msg, args) }

func (l *logger) line(msg string, args []any) {
	if l.p.pass() != nil {
		return
	}
	l.p.h.w.diary.logged("%s %s: %s %v", l.p.h.name, l.name, msg, args)
}

// tamper breaks a part of the cluster on purpose.
type tamper struct {
	expected  bool // violations are what the test is after, so they don't fail it
	propose   func(ctx context.Context, l *seenLog, cmd *hadv1.Command) (cluster.Verdict, error)
	lastLease func(honest clock.Instant) clock.Instant
	rate      func(node int) float64 // of a host's clock
	leakyGate bool                   // gates let everything through
	beforeSet func(p *process)       // runs when addresses are about to be set

	unproven   bool          // guards say that volumes are safe, and do nothing
	hasty      bool          // guards don't wait for the death of a mounter that they have killed
	lyingFence bool          // the fence device says that a host is off, and isn't
	lyingDisks bool          // disks say that they have driven a host out, and haven't
	forgetful  bool          // disks forget their reservations when the array loses its power
	blind      bool          // who takes a disk doesn't look whether it is mounted here
	sleepy     time.Duration // guards wake up so much too late
}

func (l *seenLog) LeaderGone(node string, certain bool) {
	if l.p.pass() == nil {
		l.node.LeaderGone(node, certain)
	}
}
