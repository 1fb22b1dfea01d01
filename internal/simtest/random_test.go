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

// TestRandomFaults lets clusters live through random faults and checks the
// invariants all the time. A failure names its seed.
func TestRandomFaults(t *testing.T) {
	seeds := uint64(30)
	switch {
	case *simSeed != 0:
		enduresFaults(t, *simSeed)
		return
	case *simHours > 0:
		seeds = uint64(*simHours * float64(time.Hour) / float64(chaos))
	}
	for seed := uint64(1); seed <= seeds; seed++ {
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
		w.finish(w.bound() + time.Minute)
	})
}
