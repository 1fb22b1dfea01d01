package evidence

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/policy"
)

// tries are what was done about the owner of one epoch.
type tries struct {
	mu      sync.Mutex
	methods []*attempt // in the order in which they were first tried
	next    clock.Instant
}

// attempt is one method's latest try.
type attempt struct {
	method policy.Method
	count  int
	doing  string        // what is being done; empty: nothing
	until  clock.Instant // when that will be over; 0: not known
	failed string        // how the latest ended
	ended  clock.Instant
}

func (t *tries) attempt(m policy.Method) *attempt {
	for _, a := range t.methods {
		if a.method == m {
			return a
		}
	}
	a := &attempt{method: m}
	t.methods = append(t.methods, a)
	return a
}

// begin notes that a method is being tried.
func (t *tries) begin(m policy.Method, doing string, until clock.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attempt(m)
	a.count++
	a.doing, a.until, t.next = doing, until, 0
}

// ended notes how a try ended, and reports whether that is worth a line of
// history: the first, the second, the fourth … failure, for a device that is
// away may stay away for days.
func (t *tries) ended(m policy.Method, failed string, now clock.Instant) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attempt(m)
	a.doing, a.failed, a.ended = "", failed, now
	return a.count&(a.count-1) == 0
}

// again notes when all are tried again.
func (t *tries) again(next clock.Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = next
}

// tried says what is being done, what was done with which result, and what
// comes next.
func (t *tries) tried(now clock.Instant) (out Tried) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for _, a := range t.methods {
		text := string(a.method) + ": "
		switch {
		case a.doing != "" && a.until > now:
			text += fmt.Sprintf("%s, %s more", a.doing, a.until.Sub(now).Round(100*time.Millisecond))
		case a.doing != "":
			text += a.doing
		default:
			text += fmt.Sprintf("failed %s ago", now.Sub(a.ended).Round(time.Second))
		}
		if a.count > 1 {
			text += fmt.Sprintf(" (try %d)", a.count)
		}
		if a.failed != "" {
			text += ": " + a.failed
			out.Failed = true
		}
		parts = append(parts, text)
	}
	if t.next > now {
		parts = append(parts, fmt.Sprintf("the next try is in %s", t.next.Sub(now).Round(time.Second)))
	}
	out.Text = strings.Join(parts, "; ")
	return out
}

func (s *Seeker) of(epoch uint64) *tries {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tries[epoch]
	if t == nil {
		t = new(tries)
		s.tries[epoch] = t
	}
	return t
}

func (s *Seeker) forget(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tries, epoch)
}

// Tried is what is being done and was done about the owner of an epoch.
type Tried struct {
	Text   string // for people
	Failed bool   // something has failed: a person should look
}

// Tries says, by epoch, what was tried.
func (s *Seeker) Tries() map[uint64]Tried {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint64]Tried{}
	for epoch, t := range s.tries {
		out[epoch] = t.tried(s.cfg.Clock())
	}
	return out
}
