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
	running map[string]bool
}

func newScripts(h *host) *scripts {
	s := &scripts{h: h, running: map[string]bool{}}
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

func (s *scripts) begin(stage hook.Stage) (id, script string, took time.Duration, fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	id = fmt.Sprintf("%s%d", s.h.name, s.count)
	s.running[id] = true
	return id, fmt.Sprintf("%s-%d", stage, s.count), s.h.draw(s.longest), float64(s.h.draw(1000)) < 1000*s.fail[stage]
}

func (s *scripts) runs(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id]
}

// kill ends a script and returns how many processes that were.
func (s *scripts) kill(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running[id] {
		return 0
	}
	delete(s.running, id)
	return 1
}

// forget ends all scripts: the host was switched off.
func (s *scripts) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	s := r.p.h.scripts
	id, script, took, fails := s.begin(run.Stage)
	running := hook.Running{
		ID: id, Stage: run.Stage, Event: run.Event, Script: script, VIP: run.VIP,
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
	r.p.h.w.checker.hookBegins(r.p, run)
	err := wait(ctx, min(took, hookTimeout), r.p.dead)
	switch {
	case errors.Is(err, errDead):
		return nil, err // the script runs on
	case err != nil:
		result.Outcome, result.Err = hook.Canceled, err.Error()
	case took > hookTimeout:
		result.Outcome, result.Err = hook.TimedOut, "it took too long"
	case fails:
		result.ExitCode = 1
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
