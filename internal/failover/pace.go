package failover

import (
	"sync"
	"time"

	"had/internal/clock"
)

// pace spaces the refreshes of addresses. A few are refreshed as soon as there is
// reason to. Very many IPv6 addresses take the kernel tenths of a second, and
// seconds while it still remembers that as many were just deleted, which it
// forgets only when it is left alone for up to a second (see vip/DESIGN.md):
// refreshed at once whenever one is missing, they would never all be there.
type pace struct {
	lifetime time.Duration // of the addresses

	mu   sync.Mutex
	end  clock.Instant // of the latest refresh
	took time.Duration
}

const (
	// refreshSlowdown times as long as a refresh took, the kernel is left alone.
	refreshSlowdown = 2
	// refreshAtLeast is the longest time between two refreshes, and how long the
	// kernel is left alone when one took longer than the addresses live.
	refreshAtLeast = time.Second
	// refreshSpare is what is left of the lifetimes when they are renewed.
	refreshSpare = refreshAtMost / 2
)

func (p *pace) refreshed(begin, end clock.Instant) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end, p.took = end, end.Sub(begin)
}

// soonest is when the addresses may be refreshed again because something was
// changed.
func (p *pace) soonest() clock.Instant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end.Add(p.rest(0))
}

// next is when they are refreshed again, now being the end of the latest refresh,
// if nothing is changed and it is normally done every so long.
func (p *pace) next(now clock.Instant, every time.Duration) clock.Instant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Add(p.rest(every))
}

func (p *pace) rest(wanted time.Duration) time.Duration {
	if p.took >= p.lifetime {
		return refreshAtLeast
	}
	return max(0, min(max(wanted, refreshSlowdown*p.took), refreshAtLeast, p.lifetime-p.took-refreshSpare))
}
