package simtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"had/internal/guard"
	"had/storage"
)

// shelf is a host's side of the shared storage: what its kernel does when it is
// asked to mount and unmount. What is mounted outlives every process, and a power
// cut ends it; the checker keeps the table, as it keeps that of the addresses.
//
// A call is made by a worker, a process of its own, as the guard's mounter is. The
// guard's death kills it, but a call that it is in goes on to its end, and takes
// effect: only then is the worker dead.
type shelf struct {
	h *host

	mu      sync.Mutex
	worker  *worker // nil: none lives
	trouble trouble
	over    chan struct{} // closed when the trouble is; nil: there is none
	boot    chan struct{} // closed when the host loses its power

	troubled atomic.Bool // for the checker, which may not wait for mu
}

// trouble is what is wrong with a host's storage.
type trouble struct {
	hangs   bool          // no call comes back, and who writes can't be killed
	busy    bool          // something that can't be killed keeps all volumes in use
	absent  bool          // the devices aren't there: nothing can be mounted, nor proven
	refuses bool          // mounting fails
	slow    time.Duration // each call takes up to so much longer
	mounts  time.Duration // mounting takes so much longer
}

// worker is a process that makes calls.
type worker struct {
	by     *life
	killed bool // guarded by shelf.mu
	dead   chan struct{}
}

// step is one call of the kernel.
type step struct {
	most   time.Duration // it takes
	mounts bool
	begin  func() // what may be so from its beginning on; nil: nothing
	do     func(t trouble) error
}

// What a call takes when all is well: what has to be done within a margin must
// fit into it.
const (
	mountTakes  = 100 * time.Millisecond
	secureTakes = 2 * time.Millisecond

	// killedPatience is how long a guard waits for the death of what it has
	// killed, as package guard does.
	killedPatience = time.Second
)

var (
	errPowerLost = errors.New("simulation: the host has lost its power")
	errKilled    = errors.New("simulation: the mounter was killed")
)

func newShelf(h *host) *shelf { return &shelf{h: h, boot: make(chan struct{})} }

// crash ends all that is under way: the host was switched off.
func (s *shelf) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.boot)
	s.boot, s.worker = make(chan struct{}), nil
	s.h.w.checker.unmountAll(s.h.name)
}

// strike brings trouble, instead of what there was.
func (s *shelf) strike(t trouble) {
	s.h.disturb()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		close(s.over)
	}
	s.trouble, s.over = t, make(chan struct{})
	s.troubled.Store(true)
}

// mend ends all trouble.
func (s *shelf) mend() {
	s.h.disturb()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		close(s.over)
	}
	s.trouble, s.over = trouble{}, nil
	s.troubled.Store(false)
}

func (s *shelf) now() trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// fork starts a worker once no other lives.
func (s *shelf) fork(by *life) (*worker, error) {
	s.mu.Lock()
	earlier := s.worker
	if earlier == nil || s.h.w.layout.tamper.hasty {
		defer s.mu.Unlock()
		s.worker = &worker{by: by, dead: make(chan struct{})}
		return s.worker, nil
	}
	s.mu.Unlock()
	if earlier.by != by {
		return nil, errors.New("simulation: an earlier guard's mounter lives")
	}
	s.kill(earlier)
	if err := s.waitFor(earlier); err != nil {
		return nil, err
	}
	return s.fork(by)
}

func (s *shelf) kill(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.killed = true
}

// killOf kills the worker of a process that has died.
func (s *shelf) killOf(by *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker != nil && s.worker.by == by {
		s.worker.killed = true
	}
}

// waitFor waits for the death of a worker that was killed.
func (s *shelf) waitFor(w *worker) error {
	timer := time.NewTimer(killedPatience)
	defer timer.Stop()
	select {
	case <-w.dead:
		return nil
	case <-w.by.dead:
		return errDead
	case <-timer.C:
		return errors.New("simulation: a mounter was killed and lives on")
	}
}

// call has a worker make calls, one after the other, until one fails.
func (s *shelf) call(ctx context.Context, by *life, steps ...step) error {
	return s.employ(ctx, by, func(enter func(step) error) error {
		for _, st := range steps {
			if err := enter(st); err != nil {
				return err
			}
		}
		return nil
	})
}

// employ has a worker do something that makes calls. When ctx ends first the worker
// is killed, and what it is in goes on.
func (s *shelf) employ(ctx context.Context, by *life, do func(enter func(step) error) error) error {
	if err := by.pass(); err != nil {
		return err
	}
	w, err := s.fork(by)
	if err != nil {
		return err
	}
	answered := make(chan error, 1)
	s.h.w.tasks.Go(func() { answered <- s.work(w, do) })
	select {
	case err = <-answered:
	case <-ctx.Done():
		s.kill(w)
		err = context.Cause(ctx)
		if !s.h.w.layout.tamper.hasty {
			err = errors.Join(err, s.waitFor(w))
		}
	case <-by.dead:
		return errDead
	}
	if dead := by.pass(); dead != nil {
		return dead
	}
	return err
}

// work is a worker's life.
func (s *shelf) work(w *worker, do func(enter func(step) error) error) error {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.worker == w {
			s.worker = nil
		}
		close(w.dead)
	}()
	return do(func(st step) error { return s.enter(w, st) })
}

// enter makes one call.
func (s *shelf) enter(w *worker, st step) error {
	s.mu.Lock()
	if w.killed {
		s.mu.Unlock()
		return errKilled
	}
	boot, most, least := s.boot, st.most+s.trouble.slow, time.Duration(0)
	if st.mounts {
		least = s.trouble.mounts
	}
	if st.begin != nil && !isClosed(boot) {
		st.begin()
	}
	s.mu.Unlock()
	gone := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return false
		case <-boot:
		case <-s.h.w.ended:
		}
		return true
	}
	if took := least + s.h.draw(most); took > 0 {
		timer := time.NewTimer(took)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-boot:
			return errPowerLost
		case <-s.h.w.ended:
			return errPowerLost
		}
	}
	for {
		s.mu.Lock()
		if !s.trouble.hangs {
			break
		}
		over := s.over
		s.mu.Unlock()
		if gone(over) {
			return errPowerLost
		}
	}
	defer s.mu.Unlock()
	if isClosed(boot) {
		return errPowerLost
	}
	return st.do(s.trouble)
}

// mountStep mounts a volume for an epoch.
func (s *shelf) mountStep(epoch uint64, v string) step {
	c, name := s.h.w.checker, s.h.name
	return step{
		most:   mountTakes,
		mounts: true,
		begin:  func() { c.mountBegins(name, epoch, v) },
		do: func(t trouble) error {
			switch {
			case t.absent:
				c.notMounted(name, v)
				return fmt.Errorf("simulation: %w: there is no device for %s", guard.ErrNotMounted, v)
			case t.refuses:
				c.notMounted(name, v)
				return fmt.Errorf("simulation: %s can't be mounted", v)
			}
			c.mounted(name, v)
			return nil
		},
	}
}

// unmountSteps unmount a volume in order.
func (s *shelf) unmountSteps(v string) []step {
	return []step{{most: secureTakes, do: func(t trouble) error {
		if t.busy || s.h.services.any() {
			return fmt.Errorf("simulation: %s is busy", v)
		}
		return nil
	}}, {most: mountTakes / 2, do: func(t trouble) error {
		s.h.w.checker.unmounted(s.h.name, v)
		return t.unproven(v)
	}}}
}

// secureSteps unmount volumes by force, the last one first.
func (s *shelf) secureSteps(vs []storage.Volume) []step {
	var out []step
	for _, v := range slices.Backward(vs) {
		out = append(out, step{most: secureTakes, do: func(t trouble) error {
			if t.busy {
				return fmt.Errorf("simulation: %s is busy, and who uses it can't be killed", v.Name)
			}
			s.h.services.killAll() // all who use it
			return nil
		}}, step{most: secureTakes, do: func(t trouble) error {
			s.h.w.checker.unmounted(s.h.name, v.Name)
			return t.unproven(v.Name)
		}})
	}
	return out
}

// unproven says why a look at the devices proves nothing.
func (t trouble) unproven(v string) error {
	if t.absent {
		return fmt.Errorf("simulation: there is no device for %s, so nothing is proven", v)
	}
	return nil
}

// mounter implements guard.Volumes for a guard.
type mounter struct{ g *guardian }

func (m mounter) Mount(ctx context.Context, v storage.Volume, _ bool) error {
	return m.g.h.shelf.call(ctx, m.g.life, m.g.h.shelf.mountStep(m.g.epoch.Load(), v.Name))
}

func (m mounter) Unmount(ctx context.Context, v storage.Volume) error {
	return m.g.h.shelf.call(ctx, m.g.life, m.g.h.shelf.unmountSteps(v.Name)...)
}

func (m mounter) Secure(ctx context.Context, vs []storage.Volume) error {
	if m.g.h.w.layout.tamper.unproven {
		return nil
	}
	return m.g.h.shelf.call(ctx, m.g.life, m.g.h.shelf.secureSteps(vs)...)
}

func (mounter) Abandon(context.Context, []storage.Volume) error { return nil } // no volume is a server's

func (mounter) Rest() {}

// leftVolumes implements failover.RecoverVolumes for a daemon that starts, as
// guard.SecureLeftovers does.
type leftVolumes struct{ p *process }

func (l leftVolumes) Secure(ctx context.Context, _ uint64, vs []storage.Volume) error {
	if l.p.h.w.layout.tamper.unproven {
		return nil
	}
	if err := l.p.h.services.endAll(ctx, l.p.life); err != nil {
		return err
	}
	return l.p.h.shelf.call(ctx, l.p.life, l.p.h.shelf.secureSteps(vs)...)
}

func (l leftVolumes) Unused(ctx context.Context, vs []storage.Volume) error {
	return l.p.h.shelf.call(ctx, l.p.life, l.p.h.shelf.unusedSteps(vs)...)
}

// unusedSteps look whether volumes are free.
func (s *shelf) unusedSteps(vs []storage.Volume) []step {
	steps := make([]step, len(vs))
	for i, v := range vs {
		steps[i] = step{most: secureTakes, do: func(t trouble) error {
			if s.h.w.checker.mayBeMounted(s.h.name, v.Name) {
				return fmt.Errorf("simulation: %s is mounted", v.Name)
			}
			return t.unproven(v.Name)
		}}
	}
	return steps
}
