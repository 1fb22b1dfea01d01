package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/journal"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// executor runs the steps of a plan, one at a time. Every effect is of an
// epoch that has been committed, except the Test scripts and the probe for
// foreign holders, which change nothing.
type executor struct {
	cluster  string
	instance *hadv1.Instance
	timing   cluster.Timing
	log      Log
	journal  Journal
	network  Network
	hooks    HookRunners
	keeper   *keeper
	holder   *holder
	courier  *courier
	now      clock.Source
	logger   hclog.Logger
	life     context.Context // of the executor: ends when the daemon may wait no longer

	// released is the last epoch whose release is in the journal, or was
	// delivered; used by the steps only, which run one at a time.
	released uint64

	mu      sync.Mutex
	holding Holding
	serving *policy.Policy  // what the held epoch was made from
	leased  context.Context // done when the lease of the held epoch ends; nil: none
}

func (x *executor) held() Holding {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.holding
}

func (x *executor) setHolding(h Holding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.holding = h
}

// report writes what happened to the journal. A journal that can't write
// keeps the report in memory, so an error here stops nothing.
func (x *executor) report(ctx context.Context, r *hadv1.Report) {
	r.At, r.Node = timestamppb.Now(), x.instance.GetNode()
	// What has happened is reported even while the daemon stops.
	if _, err := x.journal.Append(context.WithoutCancel(ctx), r); err != nil {
		x.logger.Error("a report is only in memory until the disk takes it", "error", err)
	}
}

// reportReleased reports the end of an epoch once: while no leader can be
// reached the epoch stays open in this node's view, and it is asked again and
// again.
func (x *executor) reportReleased(ctx context.Context, r *hadv1.Released) {
	if r.GetEpoch() == x.released {
		return
	}
	r.Reporter, r.Kind = x.instance, hadv1.Evidence_KIND_RELEASED
	x.report(ctx, &hadv1.Report{Body: &hadv1.Report_Released{Released: r}})
	x.released = r.GetEpoch()
}

func (x *executor) progress(ctx context.Context, p *hadv1.Progress) {
	x.report(ctx, &hadv1.Report{Body: &hadv1.Report_Progress{Progress: p}})
}

// stage runs one stage of the hook folder for the given addresses, in order,
// and returns the first failure. With goOn later addresses are still done.
func (x *executor) stage(ctx context.Context, p *policy.Policy, vips []policy.VIP, s stageRun) error {
	if p.Hooks.Dir == "" {
		return nil
	}
	hooks, err := x.hooks(p.Hooks.Dir, p.Hooks.Timeout)
	if err != nil {
		return err
	}
	var first error
	for _, v := range vips {
		results, err := hooks.Stage(ctx, hook.Run{
			Stage: s.stage, Event: s.event, VIP: v.Address,
			Env: hook.Env{
				Cluster: x.cluster, Reason: s.cause, Interface: v.InterfaceOn(x.instance.GetNode()),
				Node: x.instance.GetNode(), PreviousOwner: s.previous, Epoch: s.epoch, Forced: s.forced,
			},
		})
		for _, r := range results {
			if err == nil && !r.OK() {
				err = errors.New(r.String())
			}
		}
		if err != nil && first == nil {
			first = fmt.Errorf("%s: %w", s.stage, err)
		}
		if first != nil && !s.goOn {
			return first
		}
	}
	return first
}

// stageRun is one stage of one turn.
type stageRun struct {
	stage    hook.Stage
	event    hook.Event
	epoch    uint64
	cause    string
	previous string
	forced   bool
	goOn     bool // a failure doesn't keep the other addresses from their turn
}

// resolve finds the interface of each address on this node.
func (x *executor) resolve(p *policy.Policy) ([]policy.VIP, []vip.Address, error) {
	vips := slices.Clone(p.VIPs)
	addrs := make([]vip.Address, len(vips))
	for i, v := range vips {
		a, err := x.network.Resolve(v.Address, v.InterfaceOn(x.instance.GetNode()))
		if err != nil {
			return nil, nil, fmt.Errorf("vip %q: %w", v.Name, err)
		}
		addrs[i] = a
		vips[i].Interface, vips[i].InterfaceByNode = a.Interface, nil
	}
	return vips, addrs, nil
}

func heldAddresses(vips []policy.VIP) []*hadv1.HeldAddress {
	out := make([]*hadv1.HeldAddress, len(vips))
	for i, v := range vips {
		out[i] = &hadv1.HeldAddress{Vip: v.Name, Address: v.Address.String(), Interface: v.Interface}
	}
	return out
}

// tenure is what the journal must know before the kernel is touched, so that
// a later run can clean up.
func (x *executor) tenure(epoch uint64, p *policy.Policy, vips []policy.VIP, version uint64) *journal.Tenure {
	return &journal.Tenure{
		Epoch: epoch, Instance: x.instance, Addresses: heldAddresses(vips),
		HooksDir: p.Hooks.Dir, HookTimeout: p.Hooks.Timeout, PolicyVersion: version,
	}
}

// conflictWindow is how long a probe for foreign holders listens. A host on
// the same network answers within a millisecond; a longer wait would be part
// of every failover, and silence proves nothing anyway.
const conflictWindow = 30 * time.Millisecond
