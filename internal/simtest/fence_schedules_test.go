package simtest

import (
	"testing"
	"time"
)

// A leader that has just succeeded a silent owner is cut off, and the owner comes back
// to the other side. The leader can reach nobody, so it would not wait for anybody's
// word; but nobody follows it any more, so it doesn't switch the owner's host off, which
// may lead again, and without which there would be no majority.
func TestALeaderWhomNobodyFollowsSwitchesNobodyOff(t *testing.T) {
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 50 * time.Millisecond} {
		l := stored
		l.operator = 0
		simulate(t, l, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			lives := w.host("alpha").lives()
			for _, l := range lives {
				w.stop(l)
			}
			w.until(5*time.Second, "another leader", func() bool { return w.leader() != nil })
			w.elapse(after)
			w.network.isolate(w.leader().h.name)
			for _, l := range lives {
				l.cont()
			}
			w.elapse(5 * time.Second)
			if n := w.pdu.fenced(); n != 0 {
				t.Errorf("%v after the election: %d hosts were switched off", after, n)
			}
			w.heal()
			w.finish(w.bound())
		})
	}
}
