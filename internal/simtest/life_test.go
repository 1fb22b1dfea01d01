package simtest

import (
	"errors"
	"os"
	"sync"
)

// life is what a daemon and a guard have in common: a process that may be
// stopped and killed. Whatever it does to the world goes through a seam, and
// every seam asks first whether the process still runs: a killed one does
// nothing more, a stopped one (SIGSTOP) waits.
//
// In a bubble, time stands still while somebody waits for a mutex. So the seams
// that the product calls with one of its mutexes held (the kernel) don't wait
// there, and a process is stopped while nothing of it runs; all of it that wakes
// up later meets a seam that does wait before it gets as far as the kernel.
//
// The runtime of make sim lets time go on. There a process is stopped at any
// seam, in the middle of what it does, and of a kernel call too.
type life struct {
	h      *host
	dead   chan struct{}
	guards bool // it is a guard's

	mu     sync.Mutex
	frozen chan struct{} // closed at SIGCONT; nil: not stopped
	doomed int           // it is stopped, or killed, at so many seams from now; 0: it isn't
	fall   func()        // what remains to be done when it is killed there; nil: it is stopped
	killed bool
}

// exact reports whether a seed decides on everything: the runtime is that of
// make sim.
func exact() bool { return os.Getenv("HAD_SIM_SEED") != "" }

var errDead = errors.New("simulation: this process is dead")

func newLife(h *host) *life { return &life{h: h, dead: make(chan struct{})} }

// end closes dead.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.killed {
		l.killed = true
		close(l.dead)
	}
}

// stop is SIGSTOP. Nothing of the process may be running.
func (l *life) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freeze()
}

// freeze stops a process; mu is held.
func (l *life) freeze() {
	if l.frozen == nil {
		l.frozen = make(chan struct{})
		if l.guards {
			l.h.disturb()
		}
	}
}

// stopAt stops the process at its nth seam from now.
func (l *life) stopAt(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doomed, l.fall = n, nil
}

// killAt is SIGKILL for the process at its nth seam from now, in the middle of what
// it does; fall does what else comes with its death.
func (l *life) killAt(n int, fall func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doomed, l.fall = n, fall
}

// cont is SIGCONT.
func (l *life) cont() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doomed = 0
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
		if l.guards {
			l.h.disturb()
		}
	}
}

func (l *life) stopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen != nil
}

// pass lets a living process through, keeps a stopped one waiting, and returns
// errDead for a dead one.
func (l *life) pass() error {
	for {
		l.mu.Lock()
		if l.doomed > 0 {
			if l.doomed--; l.doomed == 0 {
				l.strike()
			}
		}
		frozen := l.frozen
		l.mu.Unlock()
		if isClosed(l.dead) {
			return errDead
		}
		if frozen == nil {
			return nil
		}
		select {
		case <-frozen:
		case <-l.dead:
		}
	}
}

// strike stops or kills the process at a seam; mu is held.
func (l *life) strike() {
	if l.fall == nil {
		l.freeze()
		l.h.w.diary.logged("%s: stopped in the middle", l.h.name)
		return
	}
	if l.killed {
		return
	}
	l.killed = true
	close(l.dead)
	l.h.w.diary.logged("%s: killed in the middle", l.h.name)
	l.h.w.tasks.Go(l.fall)
}

// midCall is the seam within a kernel call, before its effect. Without a gate
// nothing keeps what a process does there after a long stop from being heard,
// which docs/protocol.md says; so there it doesn't wait.
func (l *life) midCall() error {
	if exact() && l.h.kernel.gate != nil {
		return l.pass()
	}
	return l.alive()
}

// alive is pass for seams that must not wait.
func (l *life) alive() error {
	if isClosed(l.dead) {
		return errDead
	}
	return nil
}
