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
	"had/vip"
)

// Supervisor keeps a guard beside had for as long as had lives. Without one no
// epoch can begin, and an owner whose guard died gives its epoch up: until it
// has, Alive says why it must, also when there is another guard already. Its
// methods may be called from several goroutines.
//
// Invariant: an epoch belongs to one guard. Its successor knows nothing of it.
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
	orphan  uint64
	scripts map[string]hook.Running
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
	g.forgo(s.lost)
	s.guard, s.why = g, nil
	scripts := slices.Collect(maps.Values(s.scripts))
	s.mu.Unlock()
	for _, r := range scripts {
		if err := g.Script(ctx, r); err != nil {
			return nil, errors.Join(err, g.Kill())
		}
	}
	s.poke()
	return g, nil
}

// follow returns when the guard is certainly gone, or when ctx has ended. A
// guard that is stopped is killed: it guards nothing, and it might wake up.
func (s *Supervisor) follow(ctx context.Context, g *Guard) error {
	tick := time.NewTicker(2 * lookEvery)
	defer tick.Stop()
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
		case <-tick.C:
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
		s.lost = max(s.lost, s.guard.newest())
		s.orphan = max(s.orphan, s.guard.holding())
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
	if g == nil {
		s.lost = max(s.lost, epoch)
	}
	s.mu.Unlock()
	return orphan || g != nil && g.Extend(epoch, until)
}

// Hold is Client.Hold.
func (s *Supervisor) Hold(ctx context.Context, epoch uint64, addrs []vip.Address) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	return g.Hold(ctx, epoch, addrs)
}

// Drop is Client.Drop. Without a guard nobody is left to be told.
func (s *Supervisor) Drop(ctx context.Context, epoch uint64) error {
	s.mu.Lock()
	if s.orphan <= epoch {
		s.orphan = 0
	}
	s.mu.Unlock()
	g, err := s.current()
	if err != nil {
		return nil //nolint:nilerr // what the guard knew died with it
	}
	err = g.Drop(ctx, epoch)
	if errors.Is(err, errDied) {
		return nil
	}
	return err
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
