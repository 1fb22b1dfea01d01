package simtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"had/internal/guard"
	"had/internal/hook"
)

// scripts is the hook folder of a host and the scripts that run there. A
// script outlives the daemon that started it.
type scripts struct {
	h *host

	mu      sync.Mutex
	count   int
	fail    map[hook.Stage]float64 // how often a script of a stage fails
	longest time.Duration          // a script takes up to this
	running map[string]*script
}

// script is one that runs.
type script struct {
	epoch  uint64 // in whose control group it is; 0: none
	killed chan struct{}
}

func newScripts(h *host) *scripts {
	s := &scripts{h: h, running: map[string]*script{}}
	s.behave()
	return s
}

// behave makes all scripts succeed, within 100 ms or at once.
func (s *scripts) behave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.longest = map[hook.Stage]float64{}, 100*time.Millisecond
	if s.h.w.layout.swift {
		s.longest = 0
	}
}

// misbehave makes scripts of a stage fail so often, and all take up to longest.
func (s *scripts) misbehave(stage hook.Stage, fail float64, longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[stage], s.longest = fail, longest
}

func (s *scripts) begin(stage hook.Stage, group uint64) (id, name string, took time.Duration, fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	id = fmt.Sprintf("%s%d", s.h.name, s.count)
	s.running[id] = &script{epoch: group, killed: make(chan struct{})}
	return id, fmt.Sprintf("%s-%d", stage, s.count), s.h.draw(s.longest), float64(s.h.draw(1000)) < 1000*s.fail[stage]
}

func (s *scripts) runs(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id] != nil
}

// kill ends a script and returns how many processes that were.
func (s *scripts) kill(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[id]
	if r == nil {
		return 0
	}
	close(r.killed)
	delete(s.running, id)
	return 1
}

// killGroup ends all scripts in the control group of an epoch.
func (s *scripts) killGroup(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.running {
		if r.epoch == epoch {
			close(r.killed)
			delete(s.running, id)
		}
	}
}

// death is closed when a script is killed.
func (s *scripts) death(id string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[id]; r != nil {
		return r.killed
	}
	return closed()
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// forget ends all scripts: the host was switched off.
func (s *scripts) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.running {
		close(r.killed)
	}
	clear(s.running)
}

// hookTimeout is what the policies of this simulation say.
const hookTimeout = 2 * time.Second

// runner runs one script a stage; it behaves as hook.Runner does.
type runner struct {
	p       *process
	journal *openJournal
	guards  *guard.Supervisor // nil: there are none
}

func (r *runner) Stage(ctx context.Context, run hook.Run) ([]hook.Result, error) {
	if err := r.p.pass(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("run %s for %s: %w", run.Stage, run.VIP, context.Cause(ctx))
	}
	s, services := r.p.h.scripts, r.p.h.services
	var group uint64
	if run.Env.Epoch != 0 && len(run.Env.Volumes) > 0 && services.group(run.Env.Epoch) {
		group = run.Env.Epoch
	}
	id, script, took, fails := s.begin(run.Stage, group)
	running := hook.Running{
		ID: id, Stage: run.Stage, Event: run.Event, Script: script, VIP: run.VIP, Grouped: group != 0,
		Node: run.Env.Node, Epoch: run.Env.Epoch, Forced: run.Env.Forced, Started: time.Now(),
	}
	if err := r.journal.Started(ctx, running); err != nil {
		return nil, err
	}
	result := hook.Result{
		Stage: run.Stage, Script: script, VIP: run.VIP.String(), Outcome: hook.Exited, Started: running.Started, Forced: run.Env.Forced,
	}
	if r.guards != nil {
		// As internal/daemon: without a guard nobody could say too much.
		if err := r.guards.Script(ctx, running); err != nil && r.guards.Alive() == nil {
			s.kill(id)
			result.Outcome, result.Err = hook.Canceled, err.Error()
			return []hook.Result{result}, r.journal.Finished(ctx, running, result)
		}
	}
	if run.Allowed != nil {
		if why := run.Allowed(); why != nil {
			s.kill(id)
			result.Outcome, result.Err = hook.Canceled, "not started: "+why.Error()
			return []hook.Result{result}, r.journal.Finished(ctx, running, result)
		}
	}
	if group != 0 && !services.group(group) {
		s.kill(id)
		result.Outcome, result.Err = hook.Refused, "not started: its control group is gone"
		return []hook.Result{result}, r.journal.Finished(ctx, running, result)
	}
	if err := r.p.alive(); err != nil {
		return nil, err // it died between its last look at the clock and this
	}
	r.p.h.w.checker.hookBegins(r.p, run)
	killed := s.death(id)
	if run.Stage == hook.PreAcq && len(run.Env.Volumes) > 0 {
		services.start(id, service{vip: run.VIP.String(), epoch: run.Env.Epoch, grouped: group != 0})
	}
	err := r.runs(ctx, min(took, hookTimeout), killed)
	switch {
	case errors.Is(err, errKilled):
		result.ExitCode = -1
	case errors.Is(err, errDead):
		return nil, err // the script runs on
	case err != nil:
		result.Outcome, result.Err = hook.Canceled, err.Error()
	case took > hookTimeout:
		result.Outcome, result.Err = hook.TimedOut, "it took too long"
	case fails:
		result.ExitCode = 1
	case run.Stage == hook.PreRel:
		services.stop(run.VIP.String())
	}
	if err := r.p.pass(); err != nil {
		return nil, err
	}
	s.kill(id)
	if r.guards != nil {
		_ = r.guards.ScriptEnded(ctx, id) // it kills nothing that isn't there
	}
	result.Duration = time.Since(result.Started)
	return []hook.Result{result}, r.journal.Finished(ctx, running, result)
}

// runs waits for the end of a script.
func (r *runner) runs(ctx context.Context, d time.Duration, killed <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-killed:
		return errors.Join(errKilled, r.p.alive())
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.p.dead:
		return errDead
	}
}
