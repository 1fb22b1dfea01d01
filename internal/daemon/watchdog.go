package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/policy"
)

// watchdog has this host's watchdog armed while the policy in force counts on it,
// and stopped while none does.
type watchdog struct {
	configured bool   // had.hcl names one
	guard      feeder // whose guard feeds it; nil: there is none
	policy     func() (*policy.Policy, error)
	unproven   func() string // why something may be mounted here that its reset was to end; empty: nothing
	logger     hclog.Logger

	mu  sync.Mutex
	why string // it could not be armed; empty: it could, or it wasn't tried
}

// feeder is what feeds a watchdog; guard.Supervisor is one.
type feeder interface {
	Arm(ctx context.Context) error
	Disarm(ctx context.Context) error
	Armed() time.Duration
}

// watchdogEvery is the time between two looks whether it should be armed. A guard
// that was replaced must arm it before this node may own.
const watchdogEvery = time.Second

// countsOn reports whether a policy's volumes rely on the watchdogs of their owners.
func countsOn(p *policy.Policy) bool {
	return p != nil && len(p.Volumes) > 0 && slices.Contains(p.Fence.Methods, policy.MethodWatchdog)
}

// run looks until ctx ends. What is armed then its guard stops at its end.
func (w *watchdog) run(ctx context.Context) error {
	if !w.configured || w.guard == nil {
		return nil
	}
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clock.UntilBeat(watchdogEvery)):
		}
	}
}

func (w *watchdog) look(ctx context.Context) {
	p, err := w.policy()
	if err != nil {
		return // nobody knows what it counts on
	}
	var failed string
	switch wanted, armed := countsOn(p), w.guard.Armed() > 0; {
	case wanted == armed:
	case !wanted:
		err = w.guard.Disarm(ctx) // refused while an epoch counts on it
	case w.unproven() != "":
		failed = w.unproven()
	default:
		err = w.guard.Arm(ctx)
	}
	if err != nil {
		failed = err.Error()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if failed != w.why && failed != "" {
		w.logger.Warn("the watchdog is not as the policy wants it", "error", failed)
	}
	w.why = failed
}

// trouble says why this node can't own by a policy: there is no watchdog that would
// end what it has mounted.
func (w *watchdog) trouble(p *policy.Policy) []string {
	switch {
	case !countsOn(p):
		return nil
	case !w.configured:
		return []string{`the policy's fence counts on a watchdog, and this node has none: add watchdog { device = "/dev/watchdog0" } to its had.hcl and restart had`}
	case w.guard != nil && w.guard.Armed() > 0:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why == "" {
		return []string{"its watchdog isn't armed yet"}
	}
	return []string{"its watchdog can't be armed: " + w.why}
}
