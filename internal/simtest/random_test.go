package simtest

import (
	"flag"
	"fmt"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay this seed alone")
	simHours = flag.Float64("sim.hours", 0, "simulate this many hours of virtual time")
)

// chaos is how long the faults of one seed go on.
const chaos = time.Minute

// drawLayout makes the cluster of a seed: mostly three nodes alike.
func drawLayout(seed uint64) layout {
	r := rng(seed, "layout")
	l := layout{seed: seed, data: 3, detect: []time.Duration{500 * time.Millisecond}}
	switch r.IntN(6) {
	case 0:
		l.data, l.witness = 2, true
	case 1:
		l.data = 5
	}
	detects := []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, time.Second}
	switch r.IntN(4) {
	case 0:
		l.detect = []time.Duration{detects[r.IntN(3)], detects[r.IntN(3)], detects[r.IntN(3)]}
	case 1:
		l.detect = detects[:1]
	}
	return l
}

// TestRandomFaults lets clusters live through random faults, an hour of
// virtual time in all, and checks the invariants all the time. A failure names
// its seed, with which the same faults strike at the same times again. What
// raft's own random timeouts and the scheduler make of them may differ, so
// replay with -count.
func TestRandomFaults(t *testing.T) {
	first, last := uint64(1), uint64(60)
	switch {
	case *simSeed != 0:
		first, last = *simSeed, *simSeed
	case *simHours > 0:
		last = uint64(*simHours * float64(time.Hour) / float64(chaos))
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			enduresFaults(t, seed)
		})
	}
}

func enduresFaults(t *testing.T, seed uint64) {
	l := drawLayout(seed)
	schedule := drawFaults(l, chaos)
	simulate(t, l, func(w *world) {
		w.begin()
		w.endure(schedule)
		// A node that failed its turn, or didn't take leadership, is left alone
		// for a while.
		w.finish(w.bound() + 30*time.Second)
	})
}
