package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/hook"
	"had/internal/journal"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// localState is what a node has by itself: its identity, its memory and its
// kernel. `had release --local` works on it alone.
type localState struct {
	cfg       Config
	instance  *hadv1.Instance
	identity  *peer.Identity
	journal   *journal.Journal
	addresses *vip.Manager
	hooks     *hookRunners
}

// openLocal opens the data folder. The journal's lock keeps a second had away
// from it.
func openLocal(cfg Config, instance *hadv1.Instance) (*localState, error) {
	f := cfg.File
	var members []peer.Member
	for _, m := range f.Members {
		members = append(members, peer.Member{Name: m.Name, Address: m.Address, Witness: m.Witness})
	}
	identity, err := peer.OpenIdentity(f.DataDir, f.Cluster, f.Node, members)
	if err != nil {
		return nil, err
	}
	instance.NodeId = identity.NodeID()
	j, err := journal.Open(filepath.Join(f.DataDir, "journal.db"), identity.NodeID())
	if err != nil {
		return nil, err
	}
	addresses, err := vip.New(vip.Config{Lifetime: cluster.AddressLifetime, Now: clock.Now, Logger: cfg.Logger.Named("vip")})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return &localState{
		cfg: cfg, instance: instance, identity: identity, journal: j, addresses: addresses,
		hooks: &hookRunners{logger: cfg.Logger.Named("hook"), recorder: j},
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

// recover gives back what an earlier run of had left behind.
func (l *localState) recover(ctx context.Context) (failover.Recovered, error) {
	return failover.Recover(ctx, failover.RecoverConfig{
		Cluster: l.cfg.File.Cluster, Instance: l.instance, Journal: l.journal, Addresses: l.addresses,
		Hooks: l.hooks.runner, Kill: hook.KillOrphan, Logger: l.cfg.Logger,
	})
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
	return l.recover(ctx)
}

// hostNetwork is what vip knows of this host's networks.
type hostNetwork struct{ *vip.Manager }

func (hostNetwork) Resolve(addr netip.Addr, iface string) (vip.Address, error) {
	return vip.Resolve(addr, iface)
}
func (hostNetwork) Carrier(iface string) (bool, error)         { return vip.Carrier(iface) }
func (hostNetwork) HardwareAddrs() ([]net.HardwareAddr, error) { return vip.HardwareAddrs() }

var _ failover.Network = hostNetwork{}
