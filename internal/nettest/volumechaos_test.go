package nettest

import (
	"flag"
	"testing"
	"time"
)

var chaosVolumes = flag.Bool("chaos.volumes", false, "the owner has volumes, too, and who falls silent is switched off")

// detectInChaos is what the clusters detect by.
func detectInChaos() time.Duration {
	switch {
	case *chaosDetect != 0:
		return *chaosDetect
	case *chaosVolumes:
		return volumeDetect
	}
	return detect
}

// volumeFaults are those that only a cluster with volumes has.
func volumeFaults() []fault {
	return []fault{
		// What a disk that stalls keeps alive can't be switched off, either.
		{"power-fails", another, false, func(w *weather, t *testing.T, v string) { _ = w.Host(v).PowerOff(t.Context()) }},
		{"device-gone", anybody, false, func(w *weather, t *testing.T, v string) {
			must(t, w.Host(v).UnplugVolume(w.volumes.volumes[w.rand.IntN(len(w.volumes.volumes))].Name))
		}},
		{"fence-broken", anybody, false, func(w *weather, _ *testing.T, _ string) { w.volumes.strip.BreakDown(true) }},
	}
}

// taken waits until another than the old owner has all that it had.
func (w *weather) taken(t *testing.T, old string) {
	t.Helper()
	if w.volumes != nil {
		w.volumes.volumesTaken(t, old)
		return
	}
	w.takenOver(t, old)
}

// allVacant waits until nobody has anything.
func (w *weather) allVacant(t *testing.T) {
	t.Helper()
	w.vacant(t)
	if w.volumes != nil {
		w.volumes.mounted(t, "")
	}
}
