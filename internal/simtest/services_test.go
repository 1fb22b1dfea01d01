package simtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// services are what scripts have left running on a host, which outlives the
// daemon and its guard: each may write to what is mounted at any instant. Those of
// an epoch are in a control group, if this host has them.
type services struct {
	h       *host
	grouped bool

	mu       sync.Mutex
	running  map[string]service // by the ID of the script that started it
	groups   map[uint64]bool    // by epoch
	stubborn bool               // SIGTERM is ignored
}

type service struct {
	vip     string
	epoch   uint64
	grouped bool
}

func newServices(h *host, grouped bool) *services {
	return &services{h: h, grouped: grouped, running: map[string]service{}, groups: map[uint64]bool{}}
}

// crash ends all: the host was switched off.
func (s *services) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.running)
	clear(s.groups)
	s.h.w.checker.writers(s.h.name, 0)
}

// ignoreTerm makes services ignore SIGTERM and the PreRel that would stop them,
// or behave again.
func (s *services) ignoreTerm(stubborn bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stubborn = stubborn
}

// group reports whether scripts of an epoch start in its group.
func (s *services) group(epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[epoch]
}

// start has a script start a service. It fails when its group is gone, and so is
// the script.
func (s *services) start(id string, v service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.grouped && !s.groups[v.epoch] {
		return
	}
	s.running[id] = v
	s.count()
}

// stop is what a PreRel script does.
func (s *services) stop(vip string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stubborn {
		return
	}
	s.end(func(v service) bool { return v.vip == vip })
}

func (s *services) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running) > 0
}

func (s *services) of(epoch uint64) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.running {
		if v.grouped && v.epoch == epoch {
			names = append(names, id)
		}
	}
	slices.Sort(names)
	return names
}

// killAll kills all who use a volume.
func (s *services) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(func(service) bool { return true })
}

// end ends services; mu is held.
func (s *services) end(which func(service) bool) {
	for id, v := range s.running {
		if which(v) {
			delete(s.running, id)
		}
	}
	s.count()
}

func (s *services) count() { s.h.w.checker.writers(s.h.name, len(s.running)) }

// open makes the group of an epoch.
func (s *services) open(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[epoch] = true
}

// endGroup kills all in the group of an epoch and removes it. While the storage
// hangs, who writes to it can't be killed.
func (s *services) endGroup(ctx context.Context, by *life, epoch uint64) error {
	if err := wait(ctx, s.h.draw(secureTakes), by.dead); err != nil {
		return err
	}
	for len(s.of(epoch)) > 0 && s.h.shelf.now().hangs {
		if err := wait(ctx, 10*time.Millisecond, by.dead); err != nil {
			return err
		}
	}
	if err := by.pass(); err != nil {
		return err
	}
	s.h.scripts.killGroup(epoch)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(func(v service) bool { return v.grouped && v.epoch == epoch })
	delete(s.groups, epoch)
	return nil
}

// endAll does it with all groups there are.
func (s *services) endAll(ctx context.Context, by *life) error {
	s.mu.Lock()
	var epochs []uint64
	for e := range s.groups {
		epochs = append(epochs, e)
	}
	s.mu.Unlock()
	slices.Sort(epochs)
	for _, e := range epochs {
		if err := s.endGroup(ctx, by, e); err != nil {
			return err
		}
	}
	return nil
}

// groups implements guard.Services for a guard.
type groups struct{ g *guardian }

func (s groups) Open(epoch uint64) error {
	if err := s.g.pass(); err != nil {
		return err
	}
	s.g.h.services.open(epoch)
	return nil
}

func (s groups) End(ctx context.Context, epoch uint64) error {
	if err := s.g.pass(); err != nil {
		return err
	}
	return errors.Join(s.g.h.services.endGroup(ctx, s.g.life, epoch), s.g.pass())
}

// servicesGrace is how long a service has to end when it is told to.
const servicesGrace = 5 * time.Second

// ender implements failover.Services for a daemon.
type ender struct{ p *process }

func (e ender) End(ctx context.Context, epoch uint64) ([]string, error) {
	if err := e.p.pass(); err != nil {
		return nil, err
	}
	s := e.p.h.services
	left := s.of(epoch)
	if len(left) == 0 {
		return nil, nil
	}
	s.mu.Lock()
	takes := s.h.draw(mountTakes)
	if s.stubborn {
		takes = servicesGrace
	}
	s.mu.Unlock()
	if err := wait(ctx, takes, e.p.dead); err != nil {
		return left, errors.Join(err, e.p.pass())
	}
	for s.h.shelf.now().hangs {
		if err := wait(ctx, 10*time.Millisecond, e.p.dead); err != nil {
			return left, errors.Join(err, e.p.pass())
		}
	}
	s.mu.Lock()
	s.end(func(v service) bool { return v.grouped && v.epoch == epoch })
	s.mu.Unlock()
	return left, e.p.pass()
}
