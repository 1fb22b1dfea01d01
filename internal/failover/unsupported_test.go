package failover

import (
	"strings"
	"testing"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// A policy of a later version may be in the log: what this one can't carry out
// is refused here too, rather than left out.
func TestUnsupportedPolicyIsNotHalfCarriedOut(t *testing.T) {
	const volume = `vip "web" { address = "192.0.2.10" }
volume "web" {
  device = "LABEL=web"
  path   = "/srv/web"
}
fence { methods = ["confirm"] }
`
	parsed := parsedPolicy{now: func() clock.Instant { return 0 }}
	p, err := parsed.of(&hadv1.Policy{Version: 1, Text: volume})
	if p != nil || err == nil || !strings.Contains(err.Error(), `does not support "volume" yet`) {
		t.Errorf("got %v, %v", p, err)
	}
	p, err = parsed.of(&hadv1.Policy{Version: 2, Text: `vip "web" { address = "192.0.2.10" }`})
	if p == nil || err != nil {
		t.Errorf("an address alone: %v, %v", p, err)
	}
}
