package policy

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Failback says what becomes of the owner when a node that the policy prefers
// could own again.
type Failback struct {
	Auto  bool          // false: a person decides
	Delay time.Duration // Auto: how long that node must have been able to
}

// Limits say how often checks and scripts may change the owner.
type Limits struct {
	MaxFailovers int
	Within       time.Duration
}

const (
	defaultMaxFailovers = 3
	defaultWithin       = 10 * time.Minute
	mostFailovers       = 50 // less than the log keeps to be counted
	exampleDelay        = 5 * time.Minute
)

// OrDefault returns the limits of a policy without any: 3 within 10 minutes.
func (l Limits) OrDefault() Limits {
	if l == (Limits{}) {
		return Limits{MaxFailovers: defaultMaxFailovers, Within: defaultWithin}
	}
	return l
}

// String is "3 failovers within 10m".
func (l Limits) String() string {
	return fmt.Sprintf("%d failovers within %s", l.MaxFailovers, shortest(l.Within))
}

func failbackShape() shape {
	return shape{
		what:  "failback",
		attrs: map[string]string{"mode": `"manual"`, "delay": quote(shortest(exampleDelay))},
		once:  "write all of it there",
	}
}

func limitsShape() shape {
	return shape{
		what:  "limits",
		attrs: map[string]string{"max_failovers": "3", "within": quote(shortest(defaultWithin))},
		once:  "write all of it there",
	}
}

type rawFailback struct {
	at    hcl.Range
	mode  text
	delay time.Duration // 0: none is written
}

func (s *source) rawFailback(b *hclsyntax.Block) rawFailback {
	r := rawFailback{at: b.DefRange(), mode: s.required(b, "mode", `"manual"`)}
	if b.Body.Attributes["delay"] != nil {
		r.delay = s.duration(b.Body, "delay", exampleDelay, span{
			min: time.Second, low: "a node that has just come back isn't proven to stay",
			max: 24 * time.Hour, high: "move it yourself, then: hactl failback",
		})
	}
	return r
}

func (s *source) validFailback(r rawFailback, prefer []string) Failback {
	f := Failback{Auto: r.mode.value == "auto", Delay: r.delay}
	switch {
	case !r.mode.ok:
	case !f.Auto && r.mode.value != "manual":
		s.errorf(r.mode.at, suggest(r.mode.value, []string{"manual", "auto"}), "unknown mode of failback %s", quote(r.mode.value))
	case f.Auto && r.delay == 0:
		s.errorf(r.at, "add a line: delay = "+quote(shortest(exampleDelay)), "failback by itself needs a delay, or a node that comes and goes takes the addresses with it")
	case f.Auto && len(prefer) == 0:
		s.errorf(r.mode.at, `add a line at the top: prefer = ["alpha", "beta"]`, "failback by itself needs to know which node is preferred")
	case !f.Auto && r.delay != 0:
		s.warnf(r.at, `leave delay out, or write mode = "auto"`, "delay has no effect: failback is manual")
	}
	return f
}

func (s *source) limits(b *hclsyntax.Block) Limits {
	l := Limits{
		MaxFailovers: s.number(b.Body, "max_failovers", 1, mostFailovers),
		Within: s.duration(b.Body, "within", defaultWithin, span{
			min: time.Minute, low: "a service that takes a minute to fail would never be counted",
			max: 24 * time.Hour, high: "write at most 24h",
		}),
	}
	if l.MaxFailovers == 0 {
		l.MaxFailovers = defaultMaxFailovers
	}
	return l
}
