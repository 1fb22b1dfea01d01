package simtest

import (
	"testing"
	"time"
)

var three = layout{seed: 1, data: 3, detect: []time.Duration{500 * time.Millisecond}}

func TestOwnerIsKilled(t *testing.T) {
	simulate(t, three, func(w *world) {
		w.begin()
		first := w.owner().h
		first.kill()
		w.until(w.bound(), "another owner", func() bool { return w.settled() != "" })
		if w.owner().h == first {
			t.Errorf("%s owns, and it is dead", first.name)
		}
		w.heal()
		w.finish(w.bound())
	})
}
