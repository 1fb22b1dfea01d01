package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/hook"
	"had/storage"
	"had/vip"
)

// Supervisor keeps a guard beside had for as long as had lives. Without one no
// epoch can begin, and an owner whose guard died gives its epoch up: until it
// has, Alive says why it must, also when there is another guard already. Its
// methods may be called from several goroutines.
//
// Invariant: an epoch belongs to one guard. Its successor knows nothing of it,
// unless it has volumes: somebody must be able to unmount them. Then the next
// guard is told what there may be, and guards that until had has given it up.
type Supervisor struct {
	start   func(ctx context.Context) (*Guard, error)
	now     clock.Source
	logger  hclog.Logger
	changed chan struct{} // capacity 1

	mu    sync.Mutex
	guard *Guard // nil: there is none
	why   error  // of that
	lost  uint64 // the newest epoch that lost its guard
	// orphan is the epoch that was held when its guard went, until it is
	// dropped; 0: none. It may be extended: no other node counts on a guard.
	orphan uint64
	lease  clock.Instant // of orphan, when its guard went
	held   Request       // Hold of the epoch with volumes that isn't dropped yet; zero: there is none
	// asked are the volumes of held that a guard was asked to mount, until it has
	// said that they aren't mounted.
	asked map[string]bool
	// adopting is the epoch that the guard has yet to be told of, with what is
	// mounted for it; 0: none. Nothing else is asked for it before.
	adopting uint64
	scripts  map[string]hook.Running
}

// NewSupervisor returns a supervisor of guards started with cfg. Run starts
// the first one.
func NewSupervisor(cfg Config) *Supervisor {
	return SupervisorOf(func(ctx context.Context) (*Guard, error) { return Start(ctx, cfg) }, clock.Now, cfg.Logger)
}

// SupervisorOf returns a supervisor of guards that start starts.
func SupervisorOf(start func(ctx context.Context) (*Guard, error), now clock.Source, logger hclog.Logger) *Supervisor {
	return &Supervisor{
		start:   start,
		now:     now,
		logger:  logger,
		changed: make(chan struct{}, 1),
		why:     errors.New("the guard isn't started yet"),
		scripts: map[string]hook.Running{},
	}
}

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	// closePatience is how long Run waits for the guard's orderly end.
	closePatience = 2 * time.Second
)

// Run starts guards, one after the other, until ctx ends; then it closes the
// last one. While something is still held that one stays, until this process
// has ended.
func (s *Supervisor) Run(ctx context.Context) error {
	pause := firstPause
	for {
		g, err := s.begin(ctx)
		if err == nil {
			began := s.now()
			err = s.follow(ctx, g)
			if ctx.Err() != nil {
				return err
			}
			s.logger.Error("the guard is gone; another is started", "error", err)
			if s.now().Sub(began) > maxPause {
				pause = firstPause
			}
		} else {
			s.end(err)
			if ctx.Err() == nil {
				s.logger.Error("no guard could be started; this node can't own", "error", err, "again_in", pause)
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		pause = min(2*pause, maxPause)
	}
}

// begin starts a guard and tells it of the scripts that run.
func (s *Supervisor) begin(ctx context.Context) (*Guard, error) {
	g, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.adopting = s.held.Epoch
	if s.adopting != 0 && s.adopting == s.orphan {
		s.lost = min(s.lost, s.orphan-1) // it isn't
	}
	g.forgo(s.lost)
	s.guard, s.why = g, nil
	scripts := slices.Collect(maps.Values(s.scripts))
	s.mu.Unlock()
	for _, r := range scripts {
		if err := g.Script(ctx, r); err != nil {
			return nil, errors.Join(err, g.Kill())
		}
	}
	if err := s.adopt(ctx, g); err != nil {
		// Another is told again: nobody else unmounts them.
		err = fmt.Errorf("have the guard take over the volumes of the one that is gone: %w", err)
		return nil, errors.Join(err, g.Kill())
	}
	s.poke()
	return g, nil
}

// adopt tells a new guard of the volumes that the last one has left, if there
// are any. An epoch that the last one had ended is over for this one, too: it
// only makes sure that nothing is mounted.
func (s *Supervisor) adopt(ctx context.Context, g *Guard) (err error) {
	s.mu.Lock()
	r, ended, until := s.held, s.held.Epoch != s.orphan, s.lease
	r.Mounted = slices.Sorted(maps.Keys(s.asked))
	s.mu.Unlock()
	r.Adopted = true
	switch {
	case r.Epoch == 0:
		return nil
	case ended:
		r.Until = 1 // long ago, and past the client, which must not extend it
		err = g.ask(ctx, r)
	default:
		g.Extend(r.Epoch, until)
		var told bool
		if told, err = g.hold(ctx, r); told {
			err = nil // that the lease has ended meanwhile is for the guard to see to
		}
	}
	if err == nil {
		s.mu.Lock()
		s.adopting = 0
		s.mu.Unlock()
	}
	return err
}

// follow returns when the guard is certainly gone, or when ctx has ended. A
// guard that is stopped is killed: it guards nothing, and it might wake up.
func (s *Supervisor) follow(ctx context.Context, g *Guard) error {
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closePatience)
			defer cancel()
			err := g.Close(ctx)
			s.end(errors.New("had is ending"))
			return err
		case <-g.Died():
			s.end(g.exit)
			return errors.Join(g.exit, g.release())
		case <-time.After(clock.UntilBeat(2 * lookEvery)):
		}
		if err := g.Awake(); err != nil {
			s.end(err)
			return errors.Join(err, g.Kill())
		}
	}
}

// end notes that there is no guard any more, and why.
func (s *Supervisor) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard != nil {
		newest := s.guard.newest()
		s.lost = max(s.lost, newest.epoch)
		if epoch := s.guard.holding(); epoch != 0 {
			s.orphan, s.lease = max(s.orphan, epoch), newest.until
		}
	}
	s.guard, s.why = nil, why
	s.poke()
}

func (s *Supervisor) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Changed delivers when a guard has come or gone.
func (s *Supervisor) Changed() <-chan struct{} { return s.changed }

// current returns the guard, or why there is none.
func (s *Supervisor) current() (*Guard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guard == nil {
		return nil, fmt.Errorf("there is no guard: %w", s.why)
	}
	return s.guard, nil
}

// Alive returns nil while a guard guards all that is held, or why none does.
func (s *Supervisor) Alive() error {
	g, err := s.current()
	if err != nil {
		return err
	}
	s.mu.Lock()
	orphan := s.orphan
	s.mu.Unlock()
	if orphan != 0 {
		return fmt.Errorf("the guard of epoch %d is gone", orphan)
	}
	return g.Alive()
}

// Shortfalls says what the guard has to do without on this host.
func (s *Supervisor) Shortfalls() []string {
	g, err := s.current()
	if err != nil {
		return nil
	}
	return g.Shortfalls()
}

// Extend is Client.Extend. An epoch whose guard is gone may be extended until
// it is dropped; one that begins without a guard may not.
func (s *Supervisor) Extend(epoch uint64, until clock.Instant) bool {
	s.mu.Lock()
	g, orphan := s.guard, s.orphan == epoch
	if orphan {
		s.lease = max(s.lease, until)
	}
	if g == nil {
		s.lost = max(s.lost, epoch)
	}
	s.mu.Unlock()
	if orphan && (g == nil || !g.holds(epoch)) {
		return true
	}
	return g != nil && g.Extend(epoch, until)
}

// Hold is Client.Hold.
func (s *Supervisor) Hold(ctx context.Context, epoch uint64, addrs []vip.Address, volumes []storage.Volume) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	if err := s.told("hold", epoch); err != nil {
		return err
	}
	err = g.Hold(ctx, epoch, addrs, volumes)
	if len(volumes) > 0 && (err == nil || errors.Is(err, errDied)) {
		s.mu.Lock()
		if s.held.Epoch != epoch {
			s.asked = map[string]bool{}
		}
		s.held = Request{Op: OpHold, Epoch: epoch, Addresses: addrs, Volumes: volumes}
		s.mu.Unlock()
	}
	return err
}

// Reserve is Client.Reserve.
func (s *Supervisor) Reserve(ctx context.Context, epoch, key uint64) error {
	g, err := s.mounterOf("reserve the disks of", epoch)
	if err != nil {
		return err
	}
	return g.Reserve(ctx, epoch, key)
}

// Evict is Client.Evict. It fails while the guard doesn't know yet what its
// predecessor has mounted.
func (s *Supervisor) Evict(ctx context.Context, volumes []storage.Volume, key uint64) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	s.mu.Lock()
	adopting := s.adopting
	s.mu.Unlock()
	if err := s.told("take disks beside", adopting); err != nil {
		return err
	}
	return g.Evict(ctx, volumes, key)
}

// Mount is Client.Mount.
func (s *Supervisor) Mount(ctx context.Context, epoch uint64, name string, clearMMP bool) error {
	g, err := s.mounterOf("mount "+name+" for", epoch)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.held.Epoch == epoch {
		s.asked[name] = true
	}
	s.mu.Unlock()
	err = g.Mount(ctx, epoch, name, clearMMP)
	if errors.Is(err, ErrNotMounted) {
		s.unmounted(epoch, name)
	}
	return err
}

// unmounted notes that volumes of an epoch are not mounted.
func (s *Supervisor) unmounted(epoch uint64, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Epoch != epoch {
		return
	}
	for _, name := range names {
		delete(s.asked, name)
	}
}

// Unmount is Client.Unmount.
func (s *Supervisor) Unmount(ctx context.Context, epoch uint64, name string) error {
	g, err := s.mounterOf("unmount "+name+" of", epoch)
	if err != nil {
		return err
	}
	err = g.Unmount(ctx, epoch, name)
	if err == nil {
		s.unmounted(epoch, name)
	}
	return err
}

// Secure is Client.Secure.
func (s *Supervisor) Secure(ctx context.Context, epoch uint64) error {
	g, err := s.mounterOf("make sure of the volumes of", epoch)
	if err != nil {
		return err
	}
	err = g.Secure(ctx, epoch)
	if err == nil {
		s.mu.Lock()
		names := slices.Collect(maps.Keys(s.asked))
		s.mu.Unlock()
		s.unmounted(epoch, names...)
	}
	return err
}

// mounterOf returns the guard once it knows what its predecessor has mounted.
func (s *Supervisor) mounterOf(doing string, epoch uint64) (*Guard, error) {
	g, err := s.current()
	if err != nil {
		return nil, err
	}
	return g, s.told(doing, epoch)
}

// told returns an error while the guard doesn't know yet what its predecessor has
// mounted for an epoch: it would say that there is nothing.
func (s *Supervisor) told(doing string, epoch uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch != 0 && s.adopting == epoch {
		return fmt.Errorf("%s epoch %d: the guard isn't told yet what its predecessor has mounted", doing, epoch)
	}
	return nil
}

// Drop is Client.Drop. Without a guard nobody is left to be told, but of an epoch
// with volumes the next one must be.
func (s *Supervisor) Drop(ctx context.Context, epoch uint64) error {
	s.mu.Lock()
	if s.orphan <= epoch {
		s.orphan = 0
	}
	volumes := s.held.Epoch == epoch
	s.mu.Unlock()
	g, err := s.current()
	if err == nil {
		if err := s.told("drop", epoch); err != nil {
			return err
		}
		err = g.Drop(ctx, epoch)
	} else {
		err = fmt.Errorf("drop epoch %d: %w: %w", epoch, errDied, err)
	}
	if errors.Is(err, errDied) && !volumes {
		return nil // what the guard knew died with it
	}
	if err == nil && volumes {
		s.mu.Lock()
		s.held, s.asked = Request{}, nil
		s.mu.Unlock()
	}
	return err
}

// Arm is Client.Arm.
func (s *Supervisor) Arm(ctx context.Context) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	return g.Arm(ctx)
}

// Disarm is Client.Disarm.
func (s *Supervisor) Disarm(ctx context.Context) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	return g.Disarm(ctx)
}

// Armed is Client.Armed.
func (s *Supervisor) Armed() time.Duration {
	g, err := s.current()
	if err != nil {
		return 0
	}
	return g.Armed()
}

// Script is Client.Script. It also notes the script for a later guard.
func (s *Supervisor) Script(ctx context.Context, r hook.Running) error {
	s.mu.Lock()
	s.scripts[r.ID] = r
	g, why := s.guard, s.why
	s.mu.Unlock()
	if g == nil {
		return fmt.Errorf("there is no guard to end %s should had die: %w", r.Script, why)
	}
	return g.Script(ctx, r)
}

// ScriptEnded is Client.ScriptEnded.
func (s *Supervisor) ScriptEnded(ctx context.Context, id string) error {
	s.mu.Lock()
	delete(s.scripts, id)
	g := s.guard
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := g.ScriptEnded(ctx, id); err != nil && !errors.Is(err, errDied) {
		return err
	}
	return nil
}
