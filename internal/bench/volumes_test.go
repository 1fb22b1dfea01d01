package bench

import (
	"testing"
	"time"

	"had/internal/lab"
)

func TestWhatIsReadOfAVolumesTurns(t *testing.T) {
	t.Parallel()
	struck := time.Now()
	at := func(ms int) time.Time { return struck.Add(time.Duration(ms) * time.Millisecond) }
	turns := []lab.MountTurn{
		{Host: "beta", First: at(-900), To: at(-500)},
		{Host: "alpha", First: at(-400), To: at(30)},
		{Host: "beta", First: at(80)},
	}
	addresses := lab.History{Transitions: []lab.Transition{
		{At: at(-390), Host: "alpha", Held: true}, {At: at(20), Host: "alpha"}, {At: at(90), Host: "beta", Held: true},
	}}
	if got := mountedAfter(turns, "beta", struck); got != 80*time.Millisecond {
		t.Errorf("mounted %v after the fault", got)
	}
	if got := mountedAfter(turns, "gamma", struck); got != 0 {
		t.Errorf("mounted %v after the fault by a host that never had it", got)
	}
	if got := forcedRelease(addresses, at(30), "alpha", struck); got != 10*time.Millisecond {
		t.Errorf("the forced release took %v", got)
	}
	if got := forcedRelease(addresses, time.Time{}, "alpha", struck); got != 0 {
		t.Errorf("a forced release that never came took %v", got)
	}
}
