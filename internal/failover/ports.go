package failover

import (
	"context"
	"net"
	"net/netip"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/journal"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// Log is the replicated log as this node sees it. cluster.Node is one.
type Log interface {
	Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error)
	Transfer(ctx context.Context, to string) error
	Leadership() cluster.Leadership
	LeadershipChanged() <-chan struct{}
	View() (cluster.View, <-chan struct{})
	LastLease() clock.Instant
	// Confirm returns nil when a majority has followed this node as its leader since
	// the call.
	Confirm(ctx context.Context) error
	// LeaderGone tells that a node's daemon is said to have died: a leader
	// need not be waited for. It is certain if it was the run that may lead now.
	LeaderGone(node string, certain bool)
}

// Addresses are the virtual addresses in this host's kernel. vip.Manager is
// one.
type Addresses interface {
	Set(ctx context.Context, want []vip.Address, deadline func() clock.Instant) (vip.Change, error)
	Remove(ctx context.Context, gone []vip.Address) error
	Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error)
	Announce(ctx context.Context, held []vip.Address) error
}

// Gate is the filter in this host's kernel that closes the addresses' packet
// path when the lease ends, whatever has become of had. gate.Gate is one.
type Gate interface {
	Admit(epoch uint64, addrs []netip.Addr) error
	Extend(epoch uint64, until clock.Instant) error
	Shut(epoch uint64)
	Forget(epoch uint64, addrs []netip.Addr) error
	Problem() error // why it is not to be relied on; nil: it is
}

// Guard is the process that takes the addresses down when had can't, and makes
// the volumes safe. guard.Supervisor is one.
type Guard interface {
	// Hold tells it all that may be there for an epoch.
	Hold(ctx context.Context, epoch uint64, addrs []vip.Address, volumes []storage.Volume) error
	Extend(epoch uint64, until clock.Instant) bool
	Drop(ctx context.Context, epoch uint64) error
	Alive() error
}

// Volumes are the file systems of an epoch, in the hands of the guard: it alone
// mounts and unmounts them, and mounts nothing of an epoch that it has ended.
// guard.Supervisor is one.
type Volumes interface {
	// Mount mounts a volume that Hold named. clearMMP: it is known that no other
	// host has the file system, so its own protection need not look.
	Mount(ctx context.Context, epoch uint64, name string, clearMMP bool) error
	// Unmount unmounts it in order; an error names what keeps it busy.
	Unmount(ctx context.Context, epoch uint64, name string) error
	// Secure ends all of the epoch's volumes by force. After nil nothing of this
	// host can write to one of them, and the guard mounts none for this epoch.
	Secure(ctx context.Context, epoch uint64) error
}

// Services are the processes that hook scripts leave running, which is what a
// script is for that starts a service.
type Services interface {
	// End ends those of an epoch, gently first, and returns what it had to end.
	// After nil none of them runs.
	End(ctx context.Context, epoch uint64) (ended []string, err error)
}

// Tokens are what clients need to come back to the next owner.
// reconnect.Keeper is one.
type Tokens interface {
	// Place puts a policy's tokens in place for an epoch, and from then on, until
	// leased ends, takes what its services change.
	Place(ctx, leased context.Context, epoch uint64, p *policy.Policy) error
	// Flush takes what the epoch's services have changed until now.
	Flush(ctx context.Context, epoch uint64) error
	// Trouble says why this node could not put them in place. It doesn't wait.
	Trouble(p *policy.Policy) []string
	// Health is what this node has of them; nil when the policy has none.
	Health(p *policy.Policy) (h *hadv1.TokenHealth, problems []string)
}

// Flush brings what was written to volumes to their disks, while they are in use.
// It returns when ctx ends, whatever the disks do.
type Flush func(ctx context.Context, volumes []storage.Volume) error

// Network is what this host knows of its networks.
type Network interface {
	Resolve(want []vip.Wanted) []vip.Resolved
	Carrier(iface string) (bool, error)
	HardwareAddrs() ([]net.HardwareAddr, error)
	Conflicts(ctx context.Context, want []vip.Address, window time.Duration, known []net.HardwareAddr) ([]vip.Conflict, error)
}

// Hooks runs the scripts of one stage for one address. hook.Runner is one.
type Hooks interface {
	Stage(ctx context.Context, run hook.Run) ([]hook.Result, error)
}

// HookRunners returns the runner for a hooks folder.
type HookRunners func(dir string, timeout time.Duration) (Hooks, error)

// HookFolders is what a look at a policy's hook folders finds.
type HookFolders struct {
	Digest   string   // of all of them; the same on nodes with the same scripts
	Warnings []string // what a person should look at, whole sentences
}

// Journal is this node's durable memory. journal.Journal is one.
type Journal interface {
	Reporter
	TenureRecord
	Outbox
}

// Reporter takes what this node does and sees.
type Reporter interface {
	Append(ctx context.Context, r *hadv1.Report) (uint64, error)
	Release(ctx context.Context, r *hadv1.Report, forced bool) error
}

// TenureRecord is what this node may hold in its kernel, for a run that has to
// clean up after this one.
type TenureRecord interface {
	SetTenure(t *journal.Tenure) error
	Tenure() (*journal.Tenure, error)
	ClearTenure() error
}

// Outbox is the reports that are not in the log yet.
type Outbox interface {
	Pending(limit int) []*hadv1.Report
	Ack(seq uint64) error
	PendingCount() int
	Changed() <-chan struct{}
}

// Peers are the other nodes, asked over the cluster port.
type Peers interface {
	Health(ctx context.Context, node string) (*hadv1.HealthResponse, error)
	Prepare(ctx context.Context, node string, req *hadv1.PrepareRequest) (*hadv1.PrepareResponse, error)
	Propose(ctx context.Context, node string, cmd *hadv1.Command) (*hadv1.ProposeResponse, error)
	HandOver(ctx context.Context, node string, req *hadv1.HandOverRequest) (*hadv1.HandOverResponse, error)
}
