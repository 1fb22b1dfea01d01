package simtest

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed alone")
	simTrace = flag.String("sim.trace", "", "add all that happens to this file")
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
	l.swift = r.IntN(2) == 0
	l.bare = r.IntN(8) == 0
	if r.IntN(3) > 0 {
		l.gates = r.IntN(l.data + 1)
	} else {
		l.gates = l.data
	}
	l.steered = rng(seed, "steered").IntN(3) == 0
	l.drawVolumes()
	return l
}

// drawVolumes gives half of the clusters volumes, and what belongs to them.
func (l *layout) drawVolumes() {
	r := rng(l.seed, "volumes")
	if r.IntN(2) == 0 || l.bare {
		return
	}
	l.volumes = 1 + r.IntN(2)
	l.groups = l.data
	if r.IntN(3) == 0 {
		l.groups = r.IntN(l.data + 1)
	}
	if r.IntN(3) == 0 {
		l.grace = time.Duration(1+r.IntN(4)) * time.Second
	}
	switch r.IntN(6) {
	case 0:
		l.fence = "lease"
	case 1:
		l.operator = time.Duration(5+r.IntN(10)) * time.Second // nothing but a person helps
		return
	default:
		l.fence = "command"
		if rng(l.seed, "reserved").IntN(3) == 0 {
			l.fence = "reservation"
		}
	}
	l.operator = 30 * time.Second
}

// TestRandomFaults lets clusters live through random faults and checks the
// invariants all the time: those whose seeds failed once, and some more. Here
// goroutines run side by side as they happen to; make sim runs thousands in
// which a seed decides on that too.
func TestRandomFaults(t *testing.T) {
	seeds := []uint64{*simSeed}
	if *simSeed == 0 {
		seeds = keptSeeds(t)
		for seed := range uint64(20) {
			seeds = append(seeds, 1+seed)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			parallel(t)
			enduresFaults(t, seed)
		})
	}
}

// keptSeeds returns the seeds that failed once: testdata/seeds.
func keptSeeds(t *testing.T) []uint64 {
	t.Helper()
	data, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	var seeds []uint64
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		for field := range strings.FieldsSeq(line) {
			seed, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				t.Fatalf("testdata/seeds: %v", err)
			}
			seeds = append(seeds, seed)
		}
	}
	return seeds
}

func enduresFaults(t *testing.T, seed uint64) {
	l := drawLayout(seed)
	schedule := drawFaults(l, chaos)
	if l.volumes > 0 {
		schedule = merge(schedule, drawStorageFaults(l, chaos))
	}
	if l.steered {
		schedule = merge(schedule, drawSteerFaults(l, chaos))
	}
	simulate(t, l, func(w *world) {
		w.begin()
		w.endure(schedule)
		// A node that failed its turn, or didn't take leadership, is left alone
		// for a while.
		limit := w.bound() + 30*time.Second
		if l.volumes > 0 {
			limit += 2 * time.Minute // a mount that hung, and what was tried in vain before, is tried again later
		}
		w.finish(limit)
	})
}
