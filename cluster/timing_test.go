package cluster

import (
	"math/rand/v2"
	"testing"
	"time"

	hadv1 "had/proto/had/v1"
)

// A guard that is stopped at any instruction feeds its watchdog late. The host
// must be reset before a successor mounts, and twice the timeout is needed for
// that.
func TestTheWatchdogFiresBeforeItIsEvidence(t *testing.T) {
	const lease, timeout = 3 * time.Second, 5 * time.Second // volumeTerms: lease and grace
	terms := volumeTerms(MethodWatchdog)
	terms.VolumeMarginNs = 0
	wait, _ := VolumeWait(terms, hadv1.Secured_KIND_WATCHDOG)

	r := rand.New(rand.NewPCG(1, 2))
	latest := time.Duration(0)
	for range 20_000 {
		now, fires := time.Duration(0), timeout
		stall := func(often int) {
			now += time.Duration(r.Int64N(int64(50 * time.Millisecond)))
			if r.IntN(often) == 0 {
				now += time.Duration(r.Int64N(int64(2 * timeout)))
			}
		}
		for now < fires { // until the host is reset
			stall(20)
			if now >= lease { // the look at the clock
				break
			}
			stall(5)
			if now < fires { // the call
				fires = now + timeout
			}
		}
		latest = max(latest, fires)
		if fires > wait {
			t.Fatalf("the host runs until %v after the last lease, and is taken for reset after %v", fires, wait)
		}
	}
	if once := lease + timeout; latest <= once {
		t.Errorf("no run came later than %v: the schedules test too little", once)
	}
}
