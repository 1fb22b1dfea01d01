package check

import (
	"strings"
	"testing"
	"time"

	"had/internal/clock"
	"had/internal/policy"
)

// TestTally plays outcomes, one a second, from when the node began to serve:
// + is a success, - a failure. The states are ?, P and F.
func TestTally(t *testing.T) {
	for _, c := range []struct {
		name       string
		grace      time.Duration
		plays, say string
	}{
		{"the first success counts at once", 0, "+", "P"},
		{"three failures in a row", 0, "+---", "PPPF"},
		{"two failures and a success are none", 0, "+--+--+", "PPPPPPP"},
		{"two successes mend it", 0, "---+-++", "??FFFFP"},
		{"failures before the first success", 0, "--+---", "??PPPF"},
		{"never passed", 0, "---", "??F"},
		{"failures don't count while it starts", 5 * time.Second, "--------", "???????F"},
		{"the start is over with the first success", 9 * time.Second, "--+---", "??PPPF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := clock.Instant(time.Hour)
			var tl tally
			tl.begin(start.Add(c.grace))
			got := ""
			for i, play := range c.plays {
				was := tl.state
				changed := tl.observe(policy.Check{Failures: 3, Successes: 2}, start.Add(time.Duration(i)*time.Second), play == '+', "")
				if changed != (was != tl.state) {
					t.Errorf("look %d: changed is %t from %s to %s", i, changed, was, tl.state)
				}
				got += map[State]string{Unknown: "?", Passing: "P", Failing: "F"}[tl.state]
			}
			if got != c.say {
				t.Errorf("%s gives %s, want %s", c.plays, got, c.say)
			}
		})
	}
}

// Who begins to serve starts its services: what ran before says nothing yet.
func TestBeginGivesTimeAgain(t *testing.T) {
	start := clock.Instant(time.Hour)
	var tl tally
	c := policy.Check{Failures: 1, Successes: 1}
	tl.observe(c, start, true, "")
	tl.begin(start.Add(10 * time.Second))
	if tl.observe(c, start.Add(5*time.Second), false, ""); tl.state != Passing {
		t.Errorf("failing while it starts: %s", tl.state)
	}
	if tl.observe(c, start.Add(10*time.Second), false, ""); tl.state != Failing {
		t.Errorf("after its time to start: %s", tl.state)
	}
}

func TestResultInWords(t *testing.T) {
	r := Result{Check: policy.Check{Name: "site", Failures: 3}, State: Failing, Times: 17, Detail: "HTTP 503"}
	if got := r.String(); got != "check site failed 3 times: HTTP 503" {
		t.Error(got)
	}
	r.State = Unknown
	if got := r.String(); !strings.Contains(got, "has not passed yet: HTTP 503") {
		t.Error(got)
	}
}
