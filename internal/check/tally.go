package check

import (
	"fmt"
	"reflect"

	"had/internal/clock"
	"had/internal/policy"
)

// State is what a check says.
type State int

// The states of a check.
const (
	Unknown State = iota // nothing that counts has come yet
	Passing
	Failing
)

func (s State) String() string { return [...]string{"unknown", "passing", "failing"}[s] }

// Result is what a check says at present.
type Result struct {
	Check  policy.Check
	State  State
	Good   bool   // the latest outcome was a success
	Times  int    // how often in a row it has come
	Detail string // the latest outcome, for people
}

// String says it in words: "check site failed 3 times: HTTP 503".
func (r Result) String() string {
	switch {
	case r.State == Failing && r.Check.Failures == 1:
		return fmt.Sprintf("check %s failed: %s", r.Check.Name, r.Detail)
	case r.State == Failing:
		// The number that made it so: one that grows would be another sentence
		// each time.
		return fmt.Sprintf("check %s failed %d times: %s", r.Check.Name, r.Check.Failures, r.Detail)
	case r.State == Unknown && r.Detail != "":
		return fmt.Sprintf("check %s has not passed yet: %s", r.Check.Name, r.Detail)
	case r.State == Unknown:
		return fmt.Sprintf("check %s has not passed yet", r.Check.Name)
	case !r.Good:
		return fmt.Sprintf("check %s has just failed: %s", r.Check.Name, r.Detail)
	}
	return fmt.Sprintf("check %s passes", r.Check.Name)
}

// Of reports whether it is the result of c as it is written now.
func (r Result) Of(c policy.Check) bool { return reflect.DeepEqual(r.Check, c) }

// tally turns outcomes into a state. The first success counts at once, since
// nothing speaks against it; later ones have something to make good.
type tally struct {
	state  State
	passed bool          // since begin
	grace  clock.Instant // until then failures don't count, unless it has passed
	good   bool          // the latest outcome
	times  int           // in a row
	detail string
}

// begin has failures not count until the grace is over or it has passed.
func (t *tally) begin(grace clock.Instant) { t.passed, t.grace, t.times = false, grace, 0 }

// observe takes the outcome of a look that began at a time, and reports whether
// the state is another now.
func (t *tally) observe(c policy.Check, at clock.Instant, good bool, detail string) bool {
	was := t.state
	t.detail = detail
	if good != t.good {
		t.good, t.times = good, 0
	}
	if !good && !t.passed && at.Before(t.grace) {
		t.times = 0
		return false
	}
	t.times++
	t.passed = t.passed || good
	switch {
	case good && (was == Unknown || t.times >= c.Successes):
		t.state = Passing
	case !good && t.times >= c.Failures:
		t.state = Failing
	}
	return t.state != was
}
