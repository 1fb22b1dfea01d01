package failover

import (
	"errors"
	"sync"
	"time"

	"had/cluster"
	"had/internal/clock"
)

// backoff keeps failing attempts apart, all by this node's own clock.
type backoff struct {
	now clock.Source

	mu        sync.Mutex
	epoch     uint64 // LastEpoch when leadership was last handed on
	transfers int    // times it was handed on since somebody last opened an epoch
	transfer  clock.Instant
	turns     int // turns that failed in a row
	retry     clock.Instant
	shun      map[string]clock.Instant // nodes to which leadership couldn't be handed, until then
	failure   uint64                   // log index of this node's newest failed turn
	seen      clock.Instant            // when this node saw it
}

func newBackoff(now clock.Source) backoff {
	return backoff{now: now, shun: map[string]clock.Instant{}}
}

// doubling is first, 2·first, 4·first … up to limit.
func doubling(n int, first, limit time.Duration) time.Duration {
	d := first
	for range n - 1 {
		d = min(2*d, limit)
	}
	return d
}

// transferred notes that leadership was, or could not be, handed to a node.
func (b *backoff) transferred(to string, epoch uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.shun[to] = b.now().Add(10 * time.Second)
		return
	}
	if b.epoch != epoch {
		b.epoch, b.transfers = epoch, 0
	}
	b.transfers++
	b.transfer = b.now().Add(doubling(b.transfers, time.Second, 30*time.Second))
}

// transferAfter is when leadership may be handed on again. Whenever somebody
// has opened an epoch since, that is at once.
func (b *backoff) transferAfter(epoch uint64) clock.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.epoch != epoch {
		return 0
	}
	return b.transfer
}

func (b *backoff) shunned(node string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, ok := b.shun[node]
	return ok && b.now().Before(until)
}

// turn notes how a turn ended. One whose lease ended is soon tried again: it
// says nothing about the next.
func (b *backoff) turn(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.turns, b.retry = 0, 0
		return
	}
	if errors.Is(err, cluster.ErrNotLeader) {
		return // it was another's turn
	}
	if errors.Is(err, errLeaseOver) {
		b.retry = b.now().Add(time.Second)
		return
	}
	b.turns++
	b.retry = b.now().Add(doubling(b.turns, time.Second, 30*time.Second))
}

// forgive lets the next turn begin at once; should it fail too, it counts with
// those before.
func (b *backoff) forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retry = 0
}

func (b *backoff) turnAfter() clock.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retry
}

// afterFailure is when a node that gave its turn back may have the next one:
// 5 s, 10 s … 5 min after it saw the failure in the log. The log's times are
// wall clocks, so they don't count.
func (b *backoff) afterFailure(index uint64, failures int) clock.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != index {
		b.failure, b.seen = index, b.now()
	}
	return b.seen.Add(doubling(failures, 5*time.Second, 5*time.Minute))
}
