package check

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/policy"
)

// Probe looks once. A nil error is a success; either way detail, or the error,
// is one line for people. It returns soon after ctx ends.
type Probe func(ctx context.Context, c policy.Check) (detail string, err error)

// Change is a check's new state.
type Change struct {
	Result
	Epoch uint64 // that the node served when the look began; 0: it didn't own
}

// Config is what a Runner needs.
type Config struct {
	Probe   Probe
	Changed func(Change) // called by one check at a time for itself; it may take its time
	Clock   clock.Source
}

// Runner has each check that is to run looked at by a goroutine of its own.
type Runner struct {
	cfg Config
	wg  sync.WaitGroup

	mu      sync.Mutex
	life    context.Context // nil: Run has not begun, or has ended
	wanted  []policy.Check
	epoch   uint64     // that this node serves; 0: none
	watched []*watched // in the order of wanted
}

// watched is a check that runs.
type watched struct {
	check policy.Check
	end   context.CancelFunc
	again chan struct{} // capacity 1: look now

	// Under Runner.mu:
	ended bool
	tally tally
}

// New returns a runner; nothing happens before Run.
func New(cfg Config) *Runner { return &Runner{cfg: cfg} }

// Run runs what Watch names until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.life = ctx
	r.fit()
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.life = nil
	for _, w := range r.watched {
		w.stop()
	}
	r.watched = nil
	r.mu.Unlock()
	r.wg.Wait()
	return nil
}

// Watch says which checks there are and which epoch this node serves, 0 for
// none. After it has returned, no outcome of a check that is not for this place
// counts any more. It doesn't wait.
func (r *Runner) Watch(checks []policy.Check, epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch == r.epoch && same(checks, r.wanted) {
		return
	}
	begins := epoch != r.epoch && epoch != 0
	for _, w := range r.watched {
		if w.check.On == policy.OnOwner && epoch != r.epoch {
			w.stop() // what it said was about another turn
		} else if begins {
			w.tally.begin(r.cfg.Clock().Add(w.check.StartPeriod))
		}
	}
	r.wanted, r.epoch = checks, epoch
	r.fit()
}

// same is cheap for what is the very same slice: a policy is parsed once.
func same(a, b []policy.Check) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b)
}

// fit makes what runs be what is wanted. mu is held.
func (r *Runner) fit() {
	if r.life == nil {
		return
	}
	var run []*watched
	for _, c := range r.wanted {
		if c.On == policy.OnOwner && r.epoch == 0 || c.On == policy.OnStandby && r.epoch != 0 {
			continue
		}
		i := slices.IndexFunc(r.watched, func(w *watched) bool { return !w.ended && reflect.DeepEqual(w.check, c) })
		if i >= 0 {
			run = append(run, r.watched[i])
			continue
		}
		ctx, end := context.WithCancel(r.life)
		w := &watched{check: c, end: end, again: make(chan struct{}, 1)}
		if r.epoch != 0 {
			w.tally.begin(r.cfg.Clock().Add(c.StartPeriod))
		}
		run = append(run, w)
		r.wg.Go(func() { r.watch(ctx, w) })
	}
	for _, w := range r.watched {
		if !slices.Contains(run, w) {
			w.stop()
		}
	}
	r.watched = run
}

// stop ends a check. mu is held.
func (w *watched) stop() {
	w.ended = true
	w.end()
}

// Results returns what runs says at present, in the policy's order.
func (r *Runner) Results() []Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Result
	for _, w := range r.watched {
		all = append(all, w.result())
	}
	return all
}

func (w *watched) result() Result {
	return Result{Check: w.check, State: w.tally.state, Good: w.tally.good, Times: w.tally.times, Detail: w.tally.detail}
}

// KernelChanged has links looked at now.
func (r *Runner) KernelChanged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watched {
		if w.check.Kind != policy.CheckLink {
			continue
		}
		select {
		case w.again <- struct{}{}:
		default:
		}
	}
}

func (r *Runner) watch(ctx context.Context, w *watched) {
	l := &looker{probe: r.cfg.Probe, check: w.check}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.again:
		}
		begun := time.Now()
		at := r.cfg.Clock()
		r.mu.Lock()
		epoch := r.epoch
		r.mu.Unlock()
		detail, err := l.look(ctx)
		if change, ok := r.note(ctx, w, at, epoch, detail, err); ok {
			r.cfg.Changed(change)
		}
		timer.Reset(max(w.check.Interval-time.Since(begun), 0))
	}
}

// note counts an outcome, unless the check has been ended or the node's place
// is another than when the look began.
func (r *Runner) note(ctx context.Context, w *watched, at clock.Instant, epoch uint64, detail string, err error) (Change, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.ended || ctx.Err() != nil || epoch != r.epoch {
		return Change{}, false
	}
	if err != nil {
		detail = err.Error()
	}
	changed := w.tally.observe(w.check, at, err == nil, detail)
	return Change{Result: w.result(), Epoch: epoch}, changed
}

// looker looks once at a time, and never waits for a look that can't be ended.
type looker struct {
	probe   Probe
	check   policy.Check
	running chan outcome // of a look that goes on; nil: none does
}

type outcome struct {
	detail string
	err    error
}

// stuckWait is how long a look may take to end when it is told to.
const stuckWait = time.Second

// errHangs is for a process that is stuck in the kernel. The goroutine that
// waits for it is the one thing here that may outlive the runner.
var errHangs = errors.New("it hangs and can't be ended: it is stuck in the kernel, most likely on a device or network file system that doesn't answer")

func (l *looker) look(ctx context.Context) (string, error) {
	limited, cancel := context.WithTimeout(ctx, l.check.Timeout)
	defer cancel()
	late := l.running != nil // begun long ago: whatever it says, it took too long
	if !late {
		done := make(chan outcome, 1)
		l.running = done
		go func() {
			detail, err := l.probe(limited, l.check)
			done <- outcome{detail, err}
		}()
	}
	var o outcome
	select {
	case o = <-l.running:
	case <-limited.Done():
		timer := time.NewTimer(stuckWait)
		defer timer.Stop()
		select {
		case o = <-l.running:
		case <-timer.C:
			return "", errHangs
		}
	}
	l.running = nil
	if late || ctx.Err() == nil && limited.Err() != nil {
		return "", fmt.Errorf("no answer within %s", l.check.Timeout)
	}
	return o.detail, o.err
}
