package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/gate"
	"had/internal/guard"
	"had/internal/hook"
	"had/internal/journal"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// localState is what a node has by itself: its identity, its memory and its
// kernel. `had release --local` works on it alone.
type localState struct {
	cfg       Config
	instance  *hadv1.Instance
	namespace string // of the network, as in /proc/PID/ns/net
	identity  *peer.Identity
	journal   *journal.Journal
	addresses *vip.Manager
	hooks     *hookRunners
	scripts   *scriptRecorder
	farewell  *hadv1.Farewell // what the earlier run's guard said; nil: nothing, or it is in the log
	secured   *hadv1.Secured  // what it said of the volumes before that, likewise
	inspector *inspector
	flusher   *inspector
	surveyor  *inspector // of tokens that aren't replicated: a server that doesn't answer holds up nothing else
}

// openLocal opens the data folder. The journal's lock keeps a second had away
// from it.
func openLocal(cfg Config, instance *hadv1.Instance) (*localState, error) {
	f := cfg.File
	identity, err := peer.OpenIdentity(f.DataDir, f.Cluster, f.Node, peerMembers(f))
	if err != nil {
		return nil, err
	}
	instance.NodeId = identity.NodeID()
	namespace, err := os.Readlink("/proc/self/ns/net") // network_namespaces(7)
	if err != nil {
		return nil, fmt.Errorf("tell in which network namespace this process is: %w", err)
	}
	j, err := journal.Open(filepath.Join(f.DataDir, "journal.db"), identity.NodeID())
	if err != nil {
		return nil, err
	}
	addresses, err := vip.New(vip.Config{Lifetime: cluster.AddressLifetime, Now: clock.Now})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	scripts := &scriptRecorder{Recorder: j, logger: cfg.Logger.Named("guard")}
	return &localState{
		cfg: cfg, instance: instance, namespace: namespace, identity: identity, journal: j, addresses: addresses, scripts: scripts,
		hooks:     &hookRunners{logger: cfg.Logger.Named("hook"), recorder: scripts, group: services{f.DataDir}.group},
		inspector: &inspector{exe: "/proc/self/exe"}, flusher: &inspector{exe: "/proc/self/exe"}, surveyor: &inspector{exe: "/proc/self/exe"},
	}, nil
}

func (l *localState) close() error {
	l.hooks.close()
	l.addresses.Close()
	if err := l.journal.Close(); err != nil {
		return fmt.Errorf("close the journal: %w", err)
	}
	return nil
}

// recover gives back what an earlier run of had left behind. That run's guard
// comes first: it may be doing the same.
func (l *localState) recover(ctx context.Context) (r failover.Recovered, err error) {
	if l.farewell, err = guard.Settle(ctx, l.cfg.File.DataDir); err != nil {
		return r, err
	}
	if l.secured, err = guard.KeptSecured(l.cfg.File.DataDir); err != nil {
		l.cfg.Logger.Warn("what the earlier run's guard said of its volumes is lost; should they not be unmounted yet, this run says when they are", "error", err)
	}
	cfg := l.recoverConfig()
	if g := l.earlierGate(); g != nil {
		defer g.Close()
		cfg.Gate = g
	}
	return failover.Recover(ctx, cfg)
}

// recoverAgain is recover for what could not be proven then. This run's own gate
// is in the kernel by now, and what was in the earlier one's is gone.
func (l *localState) recoverAgain(ctx context.Context) (failover.Recovered, error) {
	return failover.Recover(ctx, l.recoverConfig())
}

func (l *localState) recoverConfig() failover.RecoverConfig {
	return failover.RecoverConfig{
		Cluster: l.cfg.File.Cluster, Instance: l.instance, Namespace: l.namespace, Journal: l.journal, Addresses: l.addresses,
		Volumes: leftVolumes{inspector: l.inspector, secure: l.secureLeftovers}, Farewell: l.farewell,
		Hooks: l.hooks.runner, Kill: hook.KillOrphan, Logger: l.cfg.Logger,
	}
}

// flush implements failover.Flush in a child of its own: a look at the volumes that
// is under way must not hold it up.
func (l *localState) flush(ctx context.Context, volumes []storage.Volume) error {
	return answer(l.flusher.ask(ctx, inspection{Op: inspectFlush, Volumes: volumes}))
}

// secureLeftovers ends what hooks of earlier runs have left running and unmounts
// what those runs have left mounted, by force.
func (l *localState) secureLeftovers(ctx context.Context, volumes []storage.Volume) error {
	return guard.SecureLeftovers(ctx, guard.LeftoversConfig{DataDir: l.cfg.File.DataDir, Volumes: volumes})
}

// ReleaseLocal drops what this host holds without a running daemon. It fails
// while one runs.
func ReleaseLocal(ctx context.Context, cfg Config) (r failover.Recovered, err error) {
	instance, err := newInstance(cfg.File.Node)
	if err != nil {
		return r, err
	}
	l, err := openLocal(cfg, instance)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	t, err := l.journal.Tenure()
	if err != nil {
		return r, err
	}
	if t != nil && failover.Elsewhere(t, instance, l.namespace) {
		return r, fmt.Errorf("release epoch %d: had held it in the network namespace %s, and this command was run in %s: run it there; if that one is gone, so are the addresses", t.Epoch, t.Namespace, l.namespace)
	}
	if r, err = l.recover(ctx); err != nil {
		return r, err
	}
	if err := endSyncs(ctx, cfg.File.DataDir); err != nil {
		return r, err
	}
	if r.Unproven != "" {
		return r, errors.New(r.Unproven)
	}
	if c := l.gateConfig(); c.Name != "" {
		err = gate.Uninstall(c)
	}
	return r, err
}

// hostNetwork is what vip knows of this host's networks.
type hostNetwork struct{ *vip.Manager }

func (hostNetwork) Resolve(want []vip.Wanted) []vip.Resolved   { return vip.Resolve(want) }
func (hostNetwork) HardwareAddrs() ([]net.HardwareAddr, error) { return vip.HardwareAddrs() }

var _ failover.Network = hostNetwork{}
