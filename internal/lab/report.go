package lab

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Run is a time in which one host answered without an interruption longer
// than the client's resolution.
type Run struct {
	Host        string
	First, Last time.Time // when its first and last answer came
	Answers     int
	// Slowest is the longest time between a request and its answer. Requests
	// that the kernel kept while it resolved the address make it long.
	Slowest time.Duration

	silence    time.Time     // when the silence before the first answer began
	unasked    time.Duration // how long nothing was asked before that
	sentBefore int           // requests sent when the first answer came
	sentAfter  int           // requests sent when the last answer came
}

// Report is what a client saw.
type Report struct {
	Start, End time.Time
	Sent       int            // requests
	Answers    map[string]int // by host
	Runs       []Run          // in order of time

	every, resolution time.Duration // of the client
	// asked is when the first request since the latest answer was sent; zero:
	// there was none.
	asked time.Time
}

// Gap is a time in which the client had no answer: from the last one before
// to the first one after. A client that stands still, because something else has
// its CPU, asks nothing and misses nothing: the time before its next request
// counts no longer than it is between any two.
type Gap struct {
	Start, End time.Time
	FromHost   string // who answered last; "" at the start of the report
	ToHost     string // who answered next; "" at its end
	// Sent is how many requests were sent in it. When that is far less than
	// its length asks for, it was the client that stalled, not the service.
	Sent int
	// Unasked is how long before it nothing was asked, and so nothing is known.
	Unasked time.Duration
}

// Duration returns how long the gap was.
func (g Gap) Duration() time.Duration { return g.End.Sub(g.Start) }

// String says how long the gap was and between whom.
func (g Gap) String() string {
	return fmt.Sprintf("%.1f ms without an answer, %s then %s", float64(g.Duration())/float64(time.Millisecond), orNobody(g.FromHost), orNobody(g.ToHost))
}

func orNobody(host string) string {
	if host == "" {
		return "nobody"
	}
	return host
}

// ask adds a request.
func (r *Report) ask(at time.Time) {
	r.Sent++
	if r.asked.IsZero() {
		r.asked = at
	}
}

// silence returns since when there has been no answer, after the latest run or
// from the start, and for how long nothing was asked before that.
func (r *Report) silence() (since time.Time, unasked time.Duration) {
	last := r.Start
	if i := len(r.Runs) - 1; i >= 0 {
		last = r.Runs[i].Last
	}
	if at := r.asked.Add(-r.every); at.After(last) {
		return at, at.Sub(last)
	}
	return last, 0
}

// note adds an answer and reports whether it begins a new run.
func (r *Report) note(asked, at time.Time, host string) bool {
	r.Answers[host]++
	i := len(r.Runs) - 1
	silence, unasked := r.silence()
	begins := i < 0 || r.Runs[i].Host != host || at.Sub(silence) > r.resolution
	if begins {
		r.Runs = append(r.Runs, Run{Host: host, First: at, silence: silence, unasked: unasked, sentBefore: r.Sent})
		i++
	}
	r.asked = time.Time{}
	run := &r.Runs[i]
	run.Last = at
	run.Answers++
	run.Slowest = max(run.Slowest, at.Sub(asked))
	run.sentAfter = r.Sent
	return begins
}

// keep forgets the oldest runs beyond limit; the report then starts later.
func (r *Report) keep(limit int) {
	if extra := len(r.Runs) - limit; extra > 0 {
		r.Runs = r.Runs[extra:]
		r.Start = r.Runs[0].First
		r.Runs[0].silence, r.Runs[0].unasked = r.Start, 0
	}
}

// clone returns a copy that ends now, unless the client has stopped already.
func (r Report) clone(now time.Time) Report {
	r.Answers = maps.Clone(r.Answers)
	r.Runs = slices.Clone(r.Runs)
	if r.End.IsZero() {
		r.End = now
	}
	return r
}

// answered returns the first run with an answer after the given time by a
// host that is not excepted.
func (r Report) answered(after time.Time, except []string) (Run, bool) {
	for _, run := range r.Runs {
		if run.Last.After(after) && !slices.Contains(except, run.Host) {
			return run, true
		}
	}
	return Run{}, false
}

// Gaps returns every change of the answering host, however short, and every
// silence longer than the client's resolution, in order of time. The time
// before the first answer and after the last count.
func (r Report) Gaps() []Gap {
	var gaps []Gap
	add := func(g Gap) {
		if g.FromHost != g.ToHost && g.FromHost != "" && g.ToHost != "" || g.Duration() > r.resolution {
			gaps = append(gaps, g)
		}
	}
	var last Run
	for _, run := range r.Runs {
		add(Gap{run.silence, run.First, last.Host, run.Host, run.sentBefore - last.sentAfter, run.unasked})
		last = run
	}
	silence, unasked := r.silence()
	add(Gap{silence, r.End, last.Host, "", r.Sent - last.sentAfter, unasked})
	return gaps
}

// LongestGap returns the longest of the gaps that touch the time from from to
// to, and whether there is one.
func (r Report) LongestGap(from, to time.Time) (longest Gap, ok bool) {
	for _, g := range r.Gaps() {
		if g.End.After(from) && g.Start.Before(to) && (!ok || g.Duration() > longest.Duration()) {
			longest, ok = g, true
		}
	}
	return longest, ok
}
