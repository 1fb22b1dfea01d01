package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// executor runs the steps of a plan, one at a time. Every effect is of an
// epoch that has been committed, except the Test scripts and the probe for
// foreign holders, which change nothing.
type executor struct {
	cluster  string
	instance *hadv1.Instance
	netns    string // the network namespace this run is in
	timing   cluster.Timing
	log      Log
	peers    Peers
	journal  Journal
	network  Network
	hooks    HookRunners
	keeper   *keeper
	holder   *holder
	mounts   *mounts
	tokens   Tokens               // nil: this host keeps none
	services Services             // nil: nothing that scripts start is in had's hands
	flush    Flush                // nil: unmounting does it
	mirror   Mirror               // nil: this node copies nothing
	watchdog func() time.Duration // of Config

	reservations Reservations // nil: none
	keyMark      uint64       // of Config
	courier      *courier
	now          clock.Source
	logger       hclog.Logger
	life         context.Context // of the executor: ends when the daemon may wait no longer

	mu       sync.Mutex
	holding  Holding
	owned    owned           // of the held epoch
	leased   context.Context // done when the lease of the held epoch ends; nil: none
	lasting  context.Context // done when nothing of it may be held any more: with the grace
	reported uint64          // the newest epoch whose release is in the journal, or was delivered
	left     []*leftover     // while there is any, nothing can be reported released
	prepared *preparation    // of the next turn; nil: none
	giving   givingUp        // the latest release, finished or not
	refused  refusedChange   // the latest change of volumes that did not come about
	busy     string          // what a step is busy with, for status; empty: nothing worth a word
}

// owned is what the release hooks of the held epoch are for.
type owned struct {
	hooks   policy.Hooks
	vips    []policy.VIP     // with this node's interfaces, as they were when taken on
	volumes []storage.Volume // that the epoch may mount
	tokens  []policy.Token
	stopped map[netip.Addr]bool // whose PreRel has run already
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

// reportReleased reports the end of an epoch, once: while no leader can be
// reached the epoch stays open in this node's view. It refuses while a script
// can't be ended, for that may still act on what the scripts mounted or
// started; the successor then waits instead.
func (x *executor) reportReleased(ctx context.Context, r *hadv1.Released) error {
	switch reported, stuck := x.reports(); {
	case stuck != "":
		return errors.New(stuck)
	case r.GetEpoch() <= reported:
		return nil
	}
	r.Reporter, r.Cause = x.instance, steps.Printable(r.GetCause())
	if r.GetKind() == hadv1.Evidence_KIND_UNSPECIFIED {
		r.Kind = hadv1.Evidence_KIND_RELEASED
	}
	// What has happened is reported even while the daemon stops.
	err := x.journal.Release(context.WithoutCancel(ctx), &hadv1.Report{
		At: timestamppb.Now(), Node: x.instance.GetNode(), Body: &hadv1.Report_Released{Released: r},
	}, r.GetForced())
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reported = r.GetEpoch()
	return nil
}

func (x *executor) progress(ctx context.Context, p *hadv1.Progress) {
	p.Reason = steps.Printable(p.GetReason())
	r := &hadv1.Report{At: timestamppb.Now(), Node: x.instance.GetNode(), Body: &hadv1.Report_Progress{Progress: p}}
	if _, err := x.journal.Append(context.WithoutCancel(ctx), r); err != nil {
		x.logger.Error("a report was lost", "outcome", p.GetOutcome(), "error", err)
	}
}

// fenceTry reports an attempt to switch another node off.
func (x *executor) fenceTry(ctx context.Context, try *hadv1.FenceTry) {
	r := &hadv1.Report{At: timestamppb.Now(), Node: x.instance.GetNode(), Body: &hadv1.Report_FenceTry{FenceTry: try}}
	if _, err := x.journal.Append(context.WithoutCancel(ctx), r); err != nil {
		x.logger.Error("a report was lost", "fenced", try.GetNode(), "error", err)
	}
}

// stage runs one stage of the hook folder for the given addresses, in order,
// and returns the first failure. With goOn later addresses are still done.
func (x *executor) stage(ctx context.Context, h policy.Hooks, vips []policy.VIP, s stageRun) error {
	if h.Dir == "" {
		return nil
	}
	hooks, err := x.hooks(h.Dir, h.Timeout)
	if err != nil {
		return err
	}
	allowed := func() error {
		// The keeper may not have had its turn yet: a stopped daemon that wakes
		// up after its lease could be here first.
		switch {
		case !s.leased, x.keeper.holds(s.epoch):
			return nil
		case s.event == hook.Release && x.keeper.mayHold(s.epoch):
			return nil // what the grace is for
		}
		return errLeaseOver
	}
	var first error
	for _, v := range vips {
		if err := allowed(); err != nil {
			return errors.Join(first, fmt.Errorf("%s: %w", s.stage, err))
		}
		results, err := hooks.Stage(ctx, hook.Run{
			Stage: s.stage, Event: s.event, VIP: v.Address,
			Env: hook.Env{
				Cluster: x.cluster, Reason: s.cause, Interface: v.InterfaceOn(x.instance.GetNode()),
				Node: x.instance.GetNode(), PreviousOwner: s.previous, Epoch: s.epoch, Forced: s.forced,
				Volumes: mountPoints(s.volumes), Tokens: tokenPlaces(s.tokens),
			},
			Allowed: allowed,
		})
		if errors.Is(err, hook.ErrStillRunning) {
			x.lingers(err, results)
		}
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

// leftover is a script, or what it started, that can't be ended and may still
// act on what scripts mounted or started.
type leftover struct {
	why  string
	gone func(ctx context.Context) (bool, error) // nil: nobody will ever know
}

func (x *executor) lingers(err error, results []hook.Result) {
	why := steps.Printable(fmt.Sprintf("a script can't be ended (%v): this node can't say that it holds nothing, nor own again, until that is gone", err))
	var left []*leftover
	for _, r := range results {
		if r.Left != nil {
			left = append(left, &leftover{why, r.Left.Gone})
		}
	}
	if len(left) == 0 {
		left = []*leftover{{why: why}}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.left = append(x.left, left...)
}

// lookAtLeft forgets what is gone by now. It belongs to the ring.
func (x *executor) lookAtLeft(ctx context.Context) {
	x.mu.Lock()
	left := slices.Clone(x.left)
	x.mu.Unlock()
	for _, l := range left {
		if l.gone == nil {
			continue
		}
		gone, err := l.gone(ctx)
		if err != nil {
			x.logger.Warn("see to a script that could not be ended", "error", err)
		}
		if !gone {
			continue
		}
		x.logger.Info("what could not be ended has ended", "was", l.why)
		x.mu.Lock()
		x.left = slices.DeleteFunc(x.left, func(o *leftover) bool { return o == l })
		x.mu.Unlock()
	}
}

// reports returns the newest epoch reported released, and why nothing can be.
func (x *executor) reports() (newest uint64, stuck string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.left) > 0 {
		stuck = x.left[0].why
	}
	return x.reported, stuck
}

// stageRun is one stage of one turn.
type stageRun struct {
	stage    hook.Stage
	event    hook.Event
	epoch    uint64
	cause    string
	previous string
	volumes  []storage.Volume // whose mount points it is told
	tokens   []policy.Token   // whose places it is told
	forced   bool
	leased   bool // it runs only while the lease of epoch lasts; of a release, while it may be held
	goOn     bool // a failure doesn't keep the other addresses from their turn
}

// resolve finds the interface of each address on this node.
func (x *executor) resolve(p *policy.Policy) ([]policy.VIP, []vip.Address, error) {
	vips := slices.Clone(p.VIPs)
	addrs := make([]vip.Address, len(vips))
	for i, r := range x.network.Resolve(wanted(p, x.instance.GetNode())) {
		if r.Err != nil {
			return nil, nil, fmt.Errorf("vip %q: %w", vips[i].Name, r.Err)
		}
		addrs[i] = r.Address
		vips[i].Interface, vips[i].InterfaceByNode = r.Interface, nil
	}
	return vips, addrs, nil
}

// wanted is a policy's addresses with their interfaces on a node.
func wanted(p *policy.Policy, node string) []vip.Wanted {
	out := make([]vip.Wanted, len(p.VIPs))
	for i, v := range p.VIPs {
		out[i] = vip.Wanted{Addr: v.Address, Interface: v.InterfaceOn(node)}
	}
	return out
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
func (x *executor) tenure(epoch uint64, o owned, version uint64) *journal.Tenure {
	return &journal.Tenure{
		Epoch: epoch, Instance: x.instance, Addresses: heldAddresses(o.vips), Volumes: heldVolumes(o.volumes), Tokens: heldTokens(o.tokens, cluster.View{}),
		HooksDir: o.hooks.Dir, HookTimeout: o.hooks.Timeout, PolicyVersion: version, Namespace: x.netns,
	}
}

// conflictWindow is how long a probe for foreign holders listens. A host on
// the same network answers within a millisecond; a longer wait would be part
// of every failover, and silence proves nothing anyway.
const conflictWindow = 10 * time.Millisecond
