package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/api"
	"had/internal/check"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/guard"
	"had/internal/logs"
	"had/internal/notify"
	"had/internal/peer"
	"had/internal/policy"
	"had/internal/reconnect"
	"had/internal/telemetry"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// Config is what a daemon is started with.
type Config struct {
	File    *policy.NodeFile
	Version *hadv1.VersionResponse // node is filled in
	Logger  hclog.Logger
	Log     *logs.Log // where Logger writes, whose level may be changed; nil: it may not
	LogJSON bool      // Logger writes JSON; the guard's own lines then do, too
}

// Run is the whole life of a daemon. It ends in order when ctx ends: what is
// held is released, leadership handed on. When hard ends too, it takes
// everything down at once. A nil error means that it was asked to stop.
func Run(ctx, hard context.Context, cfg Config) (err error) {
	instance, err := newInstance(cfg.File.Node)
	if err != nil {
		return err
	}
	if err := checkPrivileges(cfg.File.Self().Witness); err != nil {
		return err
	}
	if !cfg.File.Self().Witness { // one may run without root's rights, and sees no content
		if err := hideMemory(); err != nil {
			return err
		}
	}
	if err := clock.Relax(); err != nil {
		cfg.Logger.Debug("had uses somewhat more CPU than it could", "error", err)
	}
	local, err := openLocal(cfg, instance)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.close()) }()
	release, err := takeWatchdog(cfg.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()

	// Before anybody is met: what an earlier run left in the kernel goes.
	recovered, err := local.recover(ctx)
	if err != nil {
		return err
	}
	tellSystemd(cfg.Logger, "STATUS=joining the cluster")
	endFeeding := background(context.WithoutCancel(hard), func(ctx context.Context) error { return keepAlive(ctx, cfg.Logger) })
	defer func() { err = errors.Join(err, endFeeding()) }()
	n, err := join(ctx, hard, cfg, local, newLeftovers(recovered, local.recoverAgain))
	if err != nil || n == nil {
		return err
	}
	return n.run(ctx, hard)
}

// node is a running member.
type node struct {
	cfg        Config
	local      *localState
	port       *peer.Port
	endPort    func() error
	raft       *cluster.Node
	controller *failover.Controller
	safeguards *safeguards
	leftovers  *leftovers
	preflight  *preflight
	watchdog   *watchdog
	neighbours *neighbours
	syncs      *syncs // nil: a witness has none
	tokens     *reconnect.Keeper
	watcher    *vip.Watcher
	peers      *api.Peers
	notifier   *notify.Notifier
	server     *api.Server
	socket     net.Listener

	telemetry    *telemetry.Server // nil: the node file asks for none
	endTelemetry func() error
}

// join opens the port and the socket, takes part in the birth if there has
// been none, and opens the log. It returns nil, nil when ctx ends meanwhile.
func join(ctx, hard context.Context, cfg Config, local *localState, left *leftovers) (_ *node, err error) {
	n := &node{cfg: cfg, local: local, leftovers: left}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.abandon())
		}
	}()
	if n.port, err = openPort(cfg, local.identity); err != nil {
		return nil, err
	}
	n.endPort = background(hard, n.port.Run)
	n.endTelemetry = n.tellMonitoring(hard)
	birth, err := n.meet(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, n.abandon()
		}
		return nil, err
	}
	if n.socket, err = listenLocal(cfg.File.Socket); err != nil {
		return nil, err
	}
	return n, n.open(birth)
}

// background runs a task and returns the function that ends and joins it.
func background(ctx context.Context, task func(context.Context) error) func() error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- task(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

// meetPatience is longer than the meeting of nodes that all run.
const meetPatience = 2 * time.Second

// meet waits until all members have met once. Meanwhile the socket answers
// who is missing. If that takes longer than meetPatience the service counts as
// started: neither a host's boot nor whoever starts one node after the other may
// wait for the others.
func (n *node) meet(ctx context.Context) (peer.Birth, error) {
	g, meeting := errgroup.WithContext(ctx)
	meeting, met := context.WithCancel(meeting)
	defer met()
	var birth peer.Birth
	g.Go(func() (err error) {
		defer met()
		birth, err = n.port.Meet(meeting)
		return err
	})
	g.Go(func() error {
		socket, err := listenLocal(n.cfg.File.Socket)
		if err != nil {
			return err
		}
		return api.Serve(meeting, api.Newborn(n.cfg.File.Cluster, n.cfg.File.Node, n.cfg.Version, n.port.Waiting, n.port.Next), socket)
	})
	g.Go(func() error {
		timer := time.NewTimer(meetPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
			tellSystemd(n.cfg.Logger, "READY=1\nSTATUS=waits for all nodes to meet: hactl status")
		case <-meeting.Done():
		}
		return nil
	})
	return birth, g.Wait()
}

// open starts raft on the state on disk and builds what works on it.
func (n *node) open(birth peer.Birth) error {
	f, local := n.cfg.File, n.local
	members := birthRecord(birth)
	dir := filepath.Join(f.DataDir, birth.RaftFolder())
	if local.identity.RaftStarted() {
		if err := cluster.CheckStorage(dir); err != nil {
			return err
		}
	}
	raftLog := n.cfg.Logger.Named("raft").StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	storage, err := cluster.OpenStorage(dir, raftLog)
	if err != nil {
		return err
	}
	// Before raft may vote: from now on these files must not be missing.
	if err := local.identity.MarkRaftStarted(); err != nil {
		return errors.Join(err, storage.Close())
	}
	timing := cluster.TimingFor(f.Detect)
	n.peers = api.NewPeers(n.port.DialRPC)
	n.raft, err = cluster.Open(cluster.Config{
		Birth: members, Roster: rosterOf(local.identity), KeepRoster: keepRoster(local.identity), Instance: local.instance, Timing: timing, Storage: storage,
		Transport: cluster.NewTransport(f.Node, n.port, timing, n.cfg.Logger), Peers: n.peers,
		Clock: clock.Now, Logger: n.cfg.Logger, Version: n.cfg.Version.GetVersion(),
	})
	if err != nil {
		return errors.Join(err, storage.Close())
	}
	n.watcher = vip.NewWatcher(n.cfg.Logger.Named("kernel"))
	n.safeguards = arm(n.cfg, local, timing)
	if n.safeguards != nil {
		local.scripts.guardedBy(n.safeguards.guard)
	}
	mark := local.keyMark()
	n.preflight = newPreflight(f.Node, n.dataNodes, local.inspector, mark, clock.Now)
	ring := failover.Config{
		Cluster: f.Cluster, Instance: local.instance, Namespace: local.namespace, Members: n.raft.Roster().GetMembers(), Timing: timing,
		Log: n.raft, Journal: local.journal, Addresses: local.addresses, Network: hostNetwork{local.addresses},
		Hooks: local.hooks.runner, CheckHook: checkHooks, HostTrouble: n.trouble, Peers: n.peers,
		Probe:    check.Host(hostNetwork{local.addresses}.Carrier, newVolumeProbe("/proc/self/exe").works),
		Farewell: local.farewell, FarewellTaken: func() error { return guard.ForgetFarewell(f.DataDir) },
		Secured: local.secured, SecuredTaken: func() error { return guard.ForgetSecured(f.DataDir) },
		Services: services{f.DataDir}, Flush: local.flush, Off: switchOff, Answers: answers(n.members), CheckVolumes: n.checkVolumes, KeyMark: mark,
		Clock: clock.Now, Logger: n.cfg.Logger, Version: n.cfg.Version.GetVersion(),
	}
	n.watchdog = &watchdog{configured: f.Watchdog.Device != "", unproven: n.leftovers.trouble, logger: n.cfg.Logger}
	if n.safeguards != nil {
		n.watchdog.guard, ring.Watchdog = n.safeguards.guard, n.safeguards.guard.Armed
	}
	n.safeguards.into(&ring)
	if !f.Self().Witness {
		n.syncs = newSyncs(n.cfg, n.raft, func() *failover.Controller { return n.controller })
		ring.Mirror = n.syncs
	}
	n.tokens = reconnect.New(reconnect.Config{
		Cluster: f.Cluster, Instance: local.instance, Witness: f.Self().Witness, KeyFile: f.TokenKey, Log: n.raft,
		Policy: func() (*policy.Policy, error) { return n.controller.PolicyInForce() },
		Look:   local.places, Reload: runReload, Logger: n.cfg.Logger.Named("token"),
	})
	ring.Tokens = n.tokens
	n.controller = failover.New(ring)
	n.watchdog.policy = n.controller.PolicyInForce
	n.neighbours = &neighbours{socket: f.Socket, policy: n.controller.PolicyInForce}
	n.notifier = n.newNotifier()
	n.server = api.New(api.Config{
		Cluster: f.Cluster, Self: f.Node, Members: n.members, TwoVoters: f.TwoVotersAccepted, Newcomer: n.port.Newcomer, Node: n.raft, Controller: n.controller,
		Peers: n.peers, Tokens: n.tokens, TokenKey: f.TokenKey, Notifier: n.notifier,
		Timing: timing, Clock: clock.Now, Problems: n.problems, Certificates: n.certificates, Revoked: n.revoked, Taken: n.neighbours.taken, Version: n.cfg.Version,
		Inspect: n.inspect, Log: n.cfg.Log,
	})
	n.monitored()
	return nil
}

// trouble is why this host should not own at present.
func (n *node) trouble() []string { return append(clockTrouble(), n.hostTrouble()...) }

// hostTrouble is trouble that isn't the clock's.
func (n *node) hostTrouble() (out []string) {
	if p := n.raft.Problem(); p != "" {
		out = append(out, p)
	}
	if err := n.safeguards.trouble(); err != nil {
		out = append(out, err.Error())
	}
	if why := n.leftovers.trouble(); why != "" {
		out = append(out, why)
	}
	return out
}

// checkVolumes is why this node could not carry a policy's volumes.
func (n *node) checkVolumes(p *policy.Policy) []string {
	return append(n.preflight.CheckVolumes(p), n.watchdog.trouble(p)...)
}

// problems are what status should warn of on this node.
func (n *node) problems() []string {
	out := slices.Concat(n.port.Refusals(), n.local.identity.Disagreements(), n.port.TLSProblems(), n.safeguards.problems(), n.preflight.problems(), n.notifier.Problems(), n.telemetryProblems(), n.neighbours.problems())
	for _, p := range []string{n.local.journal.Problem(), n.raft.Problem()} {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

// run owns every task of the node. The ring stops first, for it needs all the
// others to release in order; then the rest. The guard comes last, whatever
// ends this run: one that isn't told that everything is given back would say
// that had died as owner.
func (n *node) run(ctx, hard context.Context) error {
	unguard := background(context.WithoutCancel(hard), n.safeguards.run)
	tasks, stop := context.WithCancel(hard)
	defer stop()
	g, tasks := errgroup.WithContext(tasks)
	g.Go(func() error { return n.raft.Run(tasks) })
	g.Go(func() error { return n.watcher.Run(tasks) })
	g.Go(func() error { return n.followKernel(tasks) })
	g.Go(func() error { return n.followCertificates(tasks) })
	g.Go(func() error { return n.followMembers(tasks) })
	g.Go(func() error { return n.leftovers.run(tasks) })
	g.Go(func() error { return n.preflight.run(tasks) })
	if n.syncs != nil {
		defer n.syncs.close()
		g.Go(func() error { return n.syncs.Run(tasks) })
	}
	g.Go(func() error { return n.watchdog.run(tasks) })
	g.Go(func() error { return n.tokens.Run(tasks) })
	g.Go(func() error { return n.neighbours.run(tasks) })
	g.Go(func() error { return n.notifier.Run(tasks, ctx) })
	g.Go(func() error { return n.herald().run(tasks) })
	g.Go(func() error { return api.Serve(tasks, n.server.Local(), n.socket) })
	g.Go(func() error { return api.Serve(tasks, n.server.Cluster(), n.port.RPCListener()) })
	g.Go(func() error { return api.Serve(tasks, n.server.Operators(), n.port.OperatorListener()) })
	g.Go(func() error {
		select {
		case err := <-n.port.Fatal():
			return err
		case <-tasks.Done():
			return nil
		}
	})
	g.Go(func() error {
		defer stop()
		return n.controller.Run(ctx, tasks)
	})
	tellSystemd(n.cfg.Logger, "READY=1\nSTATUS=member of "+n.cfg.File.Cluster)
	n.cfg.Logger.Info("had is running", "node", n.cfg.File.Node, "cluster", n.cfg.File.Cluster, "socket", n.cfg.File.Socket)
	err := g.Wait()
	tellSystemd(n.cfg.Logger, "STOPPING=1")
	return errors.Join(err, unguard(), n.safeguards.close(n.local.gateConfig()), n.peers.Close(), n.endTelemetry(), n.endPort())
}

// followKernel looks after the addresses when the kernel says that one, or a
// link, has changed.
func (n *node) followKernel(ctx context.Context) error {
	cleared, proven := n.safeguards.cleared(), n.leftovers.cleared
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.safeguards.changed():
			for _, lacking := range n.safeguards.guard.Shortfalls() {
				n.cfg.Logger.Info("the guard has to do without something on this host", "what", lacking)
			}
			n.controller.Wake()
		case <-cleared:
			cleared = nil
			n.controller.Wake()
		case <-proven:
			proven = nil
			n.controller.Wake()
		case e := <-n.watcher.Events():
			n.local.addresses.Changed()
			if e.Kind != vip.AddressAdded {
				n.controller.KernelChanged()
			}
		}
	}
}

// abandon ends what join has begun.
func (n *node) abandon() error {
	var errs []error
	if n.endPort != nil {
		errs = append(errs, n.endTelemetry(), n.endPort())
	}
	if n.socket == nil {
		return errors.Join(errs...)
	}
	if err := n.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, fmt.Errorf("close the socket: %w", err))
	}
	return errors.Join(errs...)
}

// stopLimit is how long a stop may take before it is cut short: less than
// systemd's TimeoutStopSec in our unit.
const stopLimit = 80 * time.Second

// WithStopLimit returns a context that ends stopLimit after ctx has, or when
// again ends: a second Ctrl-C.
func WithStopLimit(ctx, again context.Context) (context.Context, context.CancelFunc) {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(again, cancel)
	context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(stopLimit, cancel)
		context.AfterFunc(hard, func() { timer.Stop() })
	})
	return hard, cancel
}
