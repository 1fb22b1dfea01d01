package policy

import (
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Watchdog is what resets this host unless had's guard feeds it. The zero value is
// none.
type Watchdog struct {
	Device  string        // a path in /dev
	Timeout time.Duration // whole seconds; what the driver makes of it counts
}

const (
	defaultWatchdog = "/dev/watchdog0"
	defaultDogTime  = 5 * time.Second
)

type rawWatchdog struct {
	device  text
	timeout time.Duration
}

func (s *source) rawWatchdog(b *hclsyntax.Block) *rawWatchdog {
	raw := &rawWatchdog{device: s.optional(b.Body, "device", quote(defaultWatchdog))}
	raw.timeout = s.duration(b.Body, "timeout", defaultDogTime, span{
		min: 2 * time.Second, low: "it is fed every half second, and a busy host may be late; 5s is the default",
		max: time.Minute, high: "a takeover from a silent owner would wait for twice as long; 5s is the default",
	})
	if a := b.Body.Attributes["timeout"]; a != nil && raw.timeout%time.Second != 0 {
		s.errorf(a.Expr.Range(), "write "+quote(shortest(raw.timeout.Round(time.Second))), "a watchdog counts whole seconds")
	}
	return raw
}

func (s *source) validWatchdog(raw *rawWatchdog) Watchdog {
	if raw == nil {
		return Watchdog{}
	}
	return Watchdog{Device: s.path(raw.device, "device", defaultWatchdog), Timeout: raw.timeout}
}
