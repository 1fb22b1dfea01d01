package simtest

import (
	"errors"
	"sync"
)

// life is what a daemon and a guard have in common: a process that may be
// stopped and killed. Whatever it does to the world goes through a seam, and
// every seam asks first whether the process still runs: a killed one does
// nothing more, a stopped one (SIGSTOP) waits.
//
// In a bubble, time stands still while somebody waits for a mutex. So the seams
// that the product calls with one of its mutexes held (the kernel) never wait.
// A process is only ever stopped while nothing of it runs; all of it that wakes
// up later meets a seam that does wait before it gets as far as the kernel.
type life struct {
	h    *host
	dead chan struct{}

	mu     sync.Mutex
	frozen chan struct{} // closed at SIGCONT; nil: not stopped
	killed bool
}

var errDead = errors.New("simulation: this process is dead")

func newLife(h *host) *life { return &life{h: h, dead: make(chan struct{})} }

// end closes dead; it reports whether that is news.
func (l *life) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killed {
		return false
	}
	l.killed = true
	close(l.dead)
	return true
}

// stop is SIGSTOP. Nothing of the process may be running.
func (l *life) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen == nil {
		l.frozen = make(chan struct{})
	}
}

// cont is SIGCONT.
func (l *life) cont() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
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

// alive is pass for seams that must not wait.
func (l *life) alive() error {
	if isClosed(l.dead) {
		return errDead
	}
	return nil
}
