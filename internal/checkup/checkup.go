// Package checkup looks on a host whether it could take over now: everything that
// a turn of ownership will need, before it is needed. It changes nothing.
//
// Each look is a function of its own that adds findings; those that may take
// long, or hang, run side by side and end with the context.
package checkup

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"had/internal/fence"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// Config is the host that is looked at.
type Config struct {
	Node    string
	Witness bool
	Others  []string // the other nodes that may own
	DataDir string
	Network Network
	// Policy is that in force with its version; nil, 0: there is none yet.
	Policy func() (*policy.Policy, uint64, error)
	// Held is the epoch that this host holds or takes on; 0: none.
	Held func() uint64
	// Volumes says why this host could not mount a policy's volumes, each as
	// storage.Check does; none: it could.
	Volumes func(ctx context.Context, p *policy.Policy) ([]string, error)
	// Devices are what a policy has to switch a node off by a method.
	Devices func(f policy.Fence, m policy.Method, node string) ([]fence.Level, error)
	// Tests runs the Test scripts.
	Tests func(ctx context.Context) ([]hook.Result, error)
	// Safeguards names what would end a lease here without had, and what is
	// missing of it.
	Safeguards func() (layers, missing []string)
	// Trouble says why this host should not own, apart from the policy.
	Trouble func() []string
	// Watchdog says why a policy's watchdog isn't there.
	Watchdog func(p *policy.Policy) []string
	// Drained says who has taken this node out of ownership; empty: nobody.
	Drained func() string
	Checks  func() []*hadv1.CheckStatus // that run here at present
	// Syncs and Tokens are how those of a policy are on this host, and why it
	// should not own with them, whole sentences that name which.
	Syncs   func(p *policy.Policy) (all []*hadv1.SyncStatus, trouble []string)
	Tokens  func(p *policy.Policy) (all *hadv1.TokenHealth, trouble []string)
	Slew    func() (float64, error) // of the clock, as clock.Slew
	MaxSlew float64                 // that leases allow
}

// Network is what this host knows of its networks; vip.Manager and its package
// are it.
type Network interface {
	Resolve(want []vip.Wanted) []vip.Resolved
	Carrier(iface string) (bool, error)
	Holders(ctx context.Context, want []vip.Address, window time.Duration, known []net.HardwareAddr) ([]vip.Conflict, error)
	Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error)
}

// Options are what the asker knows and wants.
type Options struct {
	Owner []net.HardwareAddr // the present owner answers with these: not foreign
	Alive []string           // nodes that answer the asker
	Tests bool               // run the Test scripts
}

// Run looks at everything. It returns when ctx ends, whatever devices do.
func Run(ctx context.Context, c Config, o Options) []*hadv1.Finding {
	p, version, err := c.Policy()
	r := &report{}
	switch {
	case err != nil:
		r.fail("policy", "upgrade had on "+c.Node, "%v", err)
	case p == nil:
		r.fail("policy", "hactl policy apply FILE", "there is none yet")
	default:
		r.ok("policy", "version %d", version)
	}
	parts := []func(context.Context, *report){func(_ context.Context, r *report) { host(r, c) }}
	if p != nil && !c.Witness {
		parts = []func(context.Context, *report){
			func(ctx context.Context, r *report) { addresses(ctx, r, c, p, o.Owner) },
			func(_ context.Context, r *report) { hooks(r, p) },
			func(ctx context.Context, r *report) { tests(ctx, r, c, p, o.Tests) },
			func(_ context.Context, r *report) { steered(r, c, p) },
			func(ctx context.Context, r *report) { volumes(ctx, r, c, p) },
			func(_ context.Context, r *report) { syncs(r, c, p) },
			func(_ context.Context, r *report) { tokens(r, c, p) },
			func(ctx context.Context, r *report) { fences(ctx, r, c, p, o.Alive) },
			func(_ context.Context, r *report) { host(r, c) },
		}
	}
	if c.Witness {
		r.ok("role", "a witness: it votes and never owns")
	}
	r.all = append(r.all, sideBySide(ctx, parts)...)
	return r.all
}

// sideBySide runs looks at once and returns what they found in their own order.
func sideBySide(ctx context.Context, parts []func(context.Context, *report)) (all []*hadv1.Finding) {
	reports := make([]report, len(parts))
	var looking sync.WaitGroup
	for i, look := range parts {
		looking.Go(func() { look(ctx, &reports[i]) })
	}
	looking.Wait()
	for _, r := range reports {
		all = append(all, r.all...)
	}
	return all
}

// report collects findings.
type report struct{ all []*hadv1.Finding }

func (r *report) add(l hadv1.Finding_Level, check, advice, format string, args ...any) {
	r.all = append(r.all, &hadv1.Finding{Check: check, Level: l, Advice: advice, Detail: fmt.Sprintf(format, args...)})
}

func (r *report) ok(check, format string, args ...any) {
	r.add(hadv1.Finding_LEVEL_OK, check, "", format, args...)
}

func (r *report) warn(check, advice, format string, args ...any) {
	r.add(hadv1.Finding_LEVEL_WARN, check, advice, format, args...)
}

func (r *report) fail(check, advice, format string, args ...any) {
	r.add(hadv1.Finding_LEVEL_FAIL, check, advice, format, args...)
}

func (r *report) skip(check, format string, args ...any) {
	r.add(hadv1.Finding_LEVEL_SKIPPED, check, "", format, args...)
}
