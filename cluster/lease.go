package cluster

import (
	"sync"
	"time"

	"had/internal/clock"
)

// Lease is the owner's side of the lease: until when this node may hold what
// belongs to its epoch, by its own CLOCK_BOOTTIME.
//
// Invariants: until never moves back within an epoch; once an epoch ended
// here it can't be granted again (a renewal that commits late must not
// resurrect it).
type Lease struct {
	mu    sync.Mutex
	epoch uint64 // 0: none
	until clock.Instant
	ended uint64 // epochs up to this one are over for good
	grace grace
}

// grace is how much longer than its lease an epoch may hold what it has.
type grace struct {
	epoch  uint64
	beyond time.Duration
}

// Allow lets epoch be held for so much longer than its lease, by its terms. It
// comes before the first Grant; without it there is no grace.
func (l *Lease) Allow(epoch uint64, beyond time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch > l.grace.epoch {
		l.grace = grace{epoch, beyond}
	}
}

// Grant notes that the lease entry proposed at t0 for epoch was accepted, so
// that the epoch may be held until t0+ttl. It reports false, and changes
// nothing, when that epoch has been ended here.
func (l *Lease) Grant(epoch uint64, t0 clock.Instant, ttl time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch <= l.ended || epoch < l.epoch {
		return false
	}
	until := t0.Add(ttl)
	if epoch > l.epoch {
		l.epoch, l.until = epoch, until
		return true
	}
	l.until = max(l.until, until)
	return true
}

// Held returns the epoch and the instant from which on it may take nothing new;
// ok is false when there is none. The caller compares with its clock.
func (l *Lease) Held() (epoch uint64, until clock.Instant, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch, l.until, l.epoch != 0
}

// Over returns the epoch and the instant at which everything of it must be
// gone: the lease's end, and the grace. ok is as for Held.
func (l *Lease) Over() (epoch uint64, at clock.Instant, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at = l.until
	if l.grace.epoch == l.epoch {
		at = at.Add(l.grace.beyond)
	}
	return l.epoch, at, l.epoch != 0
}

// End gives the lease up: nothing of epoch, or of an earlier one, may be
// granted or touched again by this instance.
func (l *Lease) End(epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = max(l.ended, epoch)
	if l.epoch != 0 && l.epoch <= l.ended {
		l.epoch, l.until = 0, 0
	}
}
