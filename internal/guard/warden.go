package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// Alarm wakes the guard by the clock that leases are measured with. A wake-up
// too many does no harm.
type Alarm interface {
	Set(at clock.Instant) // C delivers at that instant or, when it has passed, now; the last Set counts
	C() <-chan struct{}
}

// Kernel is this host's addresses; vip.Manager is one. Remove returns nil only
// after it has looked and none of them is there.
type Kernel interface {
	Remove(ctx context.Context, addrs []vip.Address) error
}

// Gate is the kernel's filter in front of the addresses; gate.Gate is one.
type Gate interface {
	// Shut lets nothing of the epoch's addresses through any more, whatever
	// its deadline was, and lets nobody extend that deadline.
	Shut(epoch uint64)
	// Forget stops guarding addresses that are proven gone.
	Forget(epoch uint64, addrs []netip.Addr) error
}

// Killer ends what is left of a script, as hook.KillOrphan does.
type Killer func(ctx context.Context, r hook.Running) (killed int, err error)

// Teller tells the other nodes, for as long as ctx lasts.
type Teller interface {
	Tell(ctx context.Context, f *hadv1.Farewell)
	TellSecured(ctx context.Context, s *hadv1.Secured)
}

// Spool keeps a guard's word durably until the next start of had on this host.
type Spool interface {
	Keep(f *hadv1.Farewell) error
	KeepSecured(s *hadv1.Secured) error
}

// WardenConfig is what a Warden works with.
type WardenConfig struct {
	Instance *hadv1.Instance // the had that is guarded; its epochs are this instance's
	Margin   time.Duration   // how long before a deadline had itself begins; see Lead
	Page     *Page
	Now      clock.Source
	Alarm    Alarm
	Kernel   Kernel
	Gate     Gate // nil: there is none
	Kill     Killer
	Volumes  Volumes  // nil: an epoch with volumes can't be held
	Services Services // nil: there are no control groups
	Watchdog Watchdog // nil: there is none
	Teller   Teller
	Spool    Spool
	Logger   hclog.Logger
}

// Call is a request under way. Reply is called exactly once, with nil when the
// request was carried out; it must not block. Slow requests (OpMount, OpUnmount,
// OpSecure) are answered after others that came later.
type Call struct {
	Request Request
	Reply   func(error)
}

// Warden is the guard without its process: what it does and in which order.
// The real guard and the simulation run the same code.
//
// Invariant: addrs holds everything that had may have in the kernel, from
// before it is put there until had has proven it gone, or the guard has after
// had's death.
type Warden struct {
	cfg WardenConfig

	epoch uint64 // 0: none is held
	last  uint64 // the newest epoch ever held
	addrs []vip.Address
	ended bool // the guard has ended epoch at its deadline; had hasn't dropped it yet

	scripts map[string]hook.Running // what could act after had's death, by ID

	disks    disks
	telling  telling
	feeding  feeding
	finished chan func(ctx context.Context) // what is left to do in the loop after a slow call
	tasks    sync.WaitGroup

	complaint string // the error that was logged last
}

const (
	// lookEvery is how often the guard looks at its page when nothing is due:
	// what had judges its life by.
	lookEvery = 500 * time.Millisecond
	// retryEvery is how soon it tries again what failed, and looks again at what
	// must stay away.
	retryEvery = 50 * time.Millisecond
	// killPatience is how long one attempt to kill scripts waits for them.
	killPatience = time.Second
	// tellPatience bounds telling the other nodes: one that doesn't answer by
	// then notices had's silence by itself.
	tellPatience = time.Second
	// tellOn is how long the others are told of volumes that the guard has ended after
	// had has dropped their epoch: had says the same in its report, which may be on its
	// way, and never arrive if had is stopped or killed now.
	tellOn = 10 * time.Second
	// spoolPatience bounds the wait for the disk. What isn't written by then
	// costs the cluster a wait, never safety.
	spoolPatience = 5 * time.Second
)

// NewWarden returns a warden that guards nothing yet.
func NewWarden(cfg WardenConfig) *Warden {
	if cfg.Gate == nil {
		cfg.Gate = noGate{}
	}
	return &Warden{
		cfg: cfg, scripts: map[string]hook.Running{}, finished: make(chan func(context.Context), 1),
		feeding: feeding{busy: make(chan struct{}, 1)},
	}
}

type noGate struct{}

func (noGate) Shut(uint64)                       {}
func (noGate) Forget(uint64, []netip.Addr) error { return nil }

// Run guards until had has ended: died is closed when its process is proven
// dead. It returns nil when nothing is left to guard; the end of ctx is the
// end of the guard itself, as in a simulated crash.
func (w *Warden) Run(ctx context.Context, calls <-chan Call, died <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer w.tasks.Wait()
	defer cancel(errors.New("the guard ends"))
	for {
		next := w.watch(ctx)
		w.cfg.Alarm.Set(next)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-died:
			return w.bury(ctx)
		case f := <-w.finished:
			f(ctx)
		case c := <-calls:
			if c.Request.Slow() {
				if err := w.begin(ctx, c); err != nil {
					c.Reply(err)
				}
				continue
			}
			err := w.handle(ctx, c.Request)
			c.Reply(err)
			if c.Request.Op == OpClose && err == nil {
				return nil
			}
		case <-w.cfg.Alarm.C():
		}
	}
}

// watch looks at the page, does what is due, and returns when to look again.
func (w *Warden) watch(ctx context.Context) clock.Instant {
	now := w.cfg.Now()
	w.cfg.Page.look(now)
	w.feed(now)
	again := now.Add(lookEvery)
	if w.epoch == 0 {
		return again
	}
	ended, at := w.cfg.Page.due(now, w.lead())
	if !ended {
		return min(again, at)
	}
	if !w.ended {
		w.ended = true
		w.cfg.Logger.Warn("had did not give the epoch up before its lease ended; the guard does", "epoch", w.epoch)
	}
	// Again and again until had says that it has dropped them: one that was
	// stopped in the middle of adding an address adds it when it wakes.
	if err := w.takeDown(ctx, new(steps.Timeline)); err != nil {
		w.complain("the addresses did not go away; trying on", err)
	}
	return w.watchVolumes(ctx, w.cfg.Now().Add(retryEvery))
}

// handle carries out a fast request of a living had. After an error nothing has
// changed.
func (w *Warden) handle(ctx context.Context, r Request) error {
	if err := r.check(); err != nil {
		return err
	}
	switch r.Op {
	case OpHold:
		return w.hold(r)
	case OpDrop:
		if r.Epoch == w.epoch {
			if err := w.dropVolumes(ctx); err != nil {
				return err
			}
			w.cfg.Page.clear()
			w.epoch, w.addrs, w.ended = 0, nil, false
		}
		return nil // what isn't held is dropped
	case OpScript:
		w.scripts[r.Script.ID] = *r.Script
		return nil
	case OpScriptEnded:
		delete(w.scripts, r.ID)
		return nil
	case OpArm:
		return w.arm()
	case OpDisarm:
		return w.disarm()
	case OpClose:
		if w.epoch != 0 || len(w.scripts) > 0 {
			return fmt.Errorf("end the guard: epoch %d is held and %d scripts run", w.epoch, len(w.scripts))
		}
		return nil
	default:
		return fmt.Errorf("%.40q is no request", r.Op)
	}
}

func (w *Warden) hold(r Request) error {
	if err := w.holdable(r); err != nil {
		return err
	}
	switch {
	case r.Epoch == w.epoch && w.ended:
		return fmt.Errorf("hold epoch %d: its lease ended before had renewed it", r.Epoch)
	case r.Epoch == w.epoch:
		w.cfg.Page.extend(r.Until)
		w.moreVolumes(r)
	case w.epoch != 0:
		return fmt.Errorf("hold epoch %d: epoch %d isn't dropped yet", r.Epoch, w.epoch)
	case r.Epoch <= w.last:
		return fmt.Errorf("hold epoch %d: it, or a later one, was held before (%d)", r.Epoch, w.last)
	case !r.Adopted && !w.cfg.Now().Before(r.Until.Add(-Lead(w.cfg.Margin, len(r.Volumes) > 0))):
		return fmt.Errorf("hold epoch %d: its lease is over", r.Epoch)
	default:
		w.telling.stop() // the log knows: it has taken a later epoch
		w.epoch, w.last = r.Epoch, r.Epoch
		w.holdVolumes(r)
		w.cfg.Page.begin(r.Until)
	}
	w.addrs = slices.Clone(r.Addresses)
	return nil
}

// takeDown shuts the gate and removes the addresses. After nil none of them is
// in the kernel.
func (w *Warden) takeDown(ctx context.Context, t *steps.Timeline) error {
	if w.epoch == 0 {
		return nil
	}
	w.cfg.Gate.Shut(w.epoch)
	return t.Run("addresses_down", func() error { return w.cfg.Kernel.Remove(ctx, w.addrs) })
}

// bury gives back what a had that is dead has left: nothing of that process
// can act any more. Only when all of it is proven gone does anybody hear of it.
func (w *Warden) bury(ctx context.Context) error {
	if w.epoch == 0 {
		defer w.telling.end(ctx)
	} else {
		w.telling.stop() // the farewell says more
	}
	if w.epoch == 0 && len(w.scripts) == 0 {
		return nil
	}
	w.cfg.Logger.Warn("had has died; giving back what it held", "epoch", w.epoch, "addresses", len(w.addrs), "volumes", len(w.disks.maybe), "scripts", len(w.scripts))
	w.buryVolumes(ctx)
	steps, err := w.giveBack(ctx)
	for err != nil {
		w.complain("what had held is not proven gone; trying on, and telling nobody", err)
		now := w.cfg.Now()
		w.cfg.Page.look(now)
		w.feed(now)
		w.cfg.Alarm.Set(w.cfg.Now().Add(retryEvery))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.cfg.Alarm.C():
		}
		steps, err = w.giveBack(ctx)
	}
	w.unfed()
	if w.epoch != 0 {
		w.farewell(ctx, steps)
	}
	return nil
}

// giveBack takes the addresses down, ends what could put them back, and looks
// once more. The addresses go first, because a look at all processes takes
// time and clients wait.
func (w *Warden) giveBack(ctx context.Context) ([]*hadv1.Step, error) {
	t := new(steps.Timeline)
	err := w.takeDown(ctx, t)
	if len(w.disks.all) > 0 {
		if err := w.giveVolumesBack(ctx, t); err != nil {
			return nil, err
		}
		err = w.takeDown(ctx, t)
	}
	if len(w.scripts) > 0 {
		if err := t.Run("scripts_killed", func() error { return w.killScripts(ctx) }); err != nil {
			return nil, err
		}
		err = w.takeDown(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	if w.epoch != 0 {
		if err := w.cfg.Gate.Forget(w.epoch, vip.Addrs(w.addrs)); err != nil {
			w.cfg.Logger.Error("the gate still guards the addresses; the next start of had opens it", "epoch", w.epoch, "error", err)
		}
	}
	return t.List(), nil
}

// complain logs what is tried again and again once for each reason.
func (w *Warden) complain(what string, err error) {
	if text := err.Error(); text != w.complaint {
		w.complaint = text
		w.cfg.Logger.Error(what, "epoch", w.epoch, "error", err)
	}
}

func (w *Warden) killScripts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(w.scripts)) {
		if _, err := w.cfg.Kill(ctx, w.scripts[id]); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(w.scripts, id)
	}
	return errors.Join(errs...)
}

// farewell says that the epoch is released. The disk and the others are told
// side by side: neither waits for the other.
func (w *Warden) farewell(ctx context.Context, steps []*hadv1.Step) {
	f := &hadv1.Farewell{
		NodeId: w.cfg.Instance.GetNodeId(), At: timestamppb.Now(),
		Released: &hadv1.Released{
			Epoch: w.epoch, Reporter: w.cfg.Instance, Kind: hadv1.Evidence_KIND_RELEASED, Forced: true,
			Cause: "had died while it owned; its guard gave back what it held", Steps: steps,
		},
	}
	kept := make(chan error, 1)
	go func() { kept <- w.cfg.Spool.Keep(f) }() // not joined: a stuck disk must not hold the guard for ever
	var told sync.WaitGroup
	told.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, tellPatience)
		defer cancel()
		w.cfg.Teller.Tell(ctx, f)
	})
	patience := time.NewTimer(spoolPatience)
	defer patience.Stop()
	select {
	case err := <-kept:
		if err != nil {
			w.cfg.Logger.Error("the farewell was not kept for the next start", "epoch", w.epoch, "error", err)
		}
	case <-patience.C:
		w.cfg.Logger.Error("the farewell was not kept for the next start: the disk doesn't answer", "epoch", w.epoch)
	case <-ctx.Done():
	}
	told.Wait()
}
