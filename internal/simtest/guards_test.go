package simtest

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// gated is a cluster whose hosts have guards and gates.
var gated = layout{seed: 1, data: 3, gates: 3, detect: []time.Duration{200 * time.Millisecond}}

// A guard gives back what its dead daemon held and tells the others: nobody
// waits for the lease, with a gate or without.
func TestGuardSpeaksForADeadDaemon(t *testing.T) {
	for _, l := range []layout{fast, gated} {
		simulate(t, l, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			alpha := w.host("alpha")
			alpha.kill()
			took := w.until(w.bound(), "another owner", func() bool { return w.settled() != "" })
			if most := time.Second; took > most {
				t.Errorf("the takeover took %v, as if nobody had said that alpha holds nothing", took)
			}
			w.heal()
			w.finish(w.bound())
		})
	}
}

// When daemon and guard fall silent together, a gate saves the wait for the
// addresses, which stay in the kernel.
func TestGateSavesTheWaitForAddresses(t *testing.T) {
	simulate(t, gated, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.owner()
		for _, l := range alpha.h.lives() {
			w.stop(l)
		}
		took := w.until(w.bound(), "another owner", func() bool { return w.owner() != nil })
		least := cluster.TakeoverWait(alpha.h.timing.Terms(cluster.LayerGate)) - alpha.h.timing.Renew - 50*time.Millisecond
		if took < least || took > cluster.AddressLifetime {
			t.Errorf("another node served %v after alpha fell silent, want between %v and the addresses' lifetime", took, least)
		}
		if len(w.checker.heldBy("alpha")) == 0 {
			t.Error("alpha's kernel has lost the addresses: there was nothing for the gate to do")
		}
		w.heal()
		w.finish(w.bound())
	})
}

// An owner whose guard dies, or is stopped, gives its epoch up in order: it
// moves to a node that has a guard.
func TestOwnerLosesItsGuard(t *testing.T) {
	for name, strike := range map[string]func(w *world, h *host){
		"killed":  func(_ *world, h *host) { h.killGuard() },
		"stopped": func(w *world, h *host) { w.stop(h.guardian().life) },
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			simulate(t, gated, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				alpha := w.owner()
				epoch := alpha.controller.Status().Holding.Epoch
				first := alpha.h.guardian()
				strike(w, alpha.h)
				w.until(w.bound(), "another epoch under a guard", func() bool {
					return w.settled() != "" && w.owner().h.guardian() != nil && w.owner().controller.Status().Holding.Epoch > epoch
				})
				if g := alpha.h.guardian(); g == first {
					t.Error("alpha still has the guard that was struck")
				}
				released := false
				events, _ := w.owner().node.History(0)
				for _, e := range events {
					if r := e.GetReleased(); r.GetEpoch() == epoch && r != nil {
						released = true
						if r.GetForced() {
							t.Errorf("epoch %d was released by force: %s", epoch, r.GetCause())
						}
					}
				}
				if !released {
					t.Errorf("the release of epoch %d is not in the log", epoch)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// TestSchedule1 stops a daemon between its last look at the clock and the call
// that adds an address, until another node owns: what it then adds is heard by
// nobody, and goes. (It is stopped there by make sim; elsewhere it just
// acquires.)
func TestSchedule1StoppedJustBeforeTheAddress(t *testing.T) {
	var once sync.Once
	var stopped *process
	l := gated
	l.tamper.beforeSet = func(p *process) {
		if exact() && p.h.name == "alpha" {
			once.Do(func() {
				stopped = p
				p.stopAt(1)
			})
		}
	}
	simulate(t, l, func(w *world) {
		w.begin()
		w.move("alpha")
		w.elapse(time.Second)
		w.until(w.bound(), "an owner that isn't stopped", func() bool { return w.owner() != nil })
		if stopped != nil {
			w.elapse(time.Second)
			stopped.cont()
			w.elapse(2 * lookAgain)
			if held := w.checker.heldBy("alpha"); len(held) != 0 {
				t.Errorf("alpha has %v", held)
			}
		} else if exact() {
			t.Error("alpha was never about to set an address")
		}
		w.heal()
		w.finish(w.bound())
	})
}

// lookAgain is how soon a guard looks again for what must not be there.
const lookAgain = time.Second

// TestSchedule2 delays a guard's farewell until its host's next daemon owns:
// what it says of the earlier epoch must not close the later one.
func TestSchedule2LateFarewellClosesNothingElse(t *testing.T) {
	simulate(t, gated, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.host("alpha")
		before := alpha.process()
		epoch := before.controller.Status().Holding.Epoch
		farewell := &hadv1.Farewell{NodeId: alpha.member.GetNodeId(), At: timestamppb.Now(), Released: &hadv1.Released{
			Epoch: epoch, Reporter: before.instance, Kind: hadv1.Evidence_KIND_RELEASED, Forced: true, Cause: "late",
		}}
		w.stop(alpha.guardian().life)
		alpha.kill()
		alpha.start() // kills the stopped guard, and gives back by itself
		w.until(w.bound()+settlePatience, "an owner", func() bool { return w.settled() != "" })
		w.moveTo("alpha")
		later := w.owner().controller.Status().Holding.Epoch
		w.checker.told(farewell)
		for _, h := range w.hosts {
			c, _ := h.process().ready()
			c.TakeFarewell(farewell)
		}
		w.elapse(time.Second)
		if v := w.owner().view(); v.Claim(later) == nil {
			t.Errorf("epoch %d was closed by what a guard said of epoch %d", later, epoch)
		}
		w.stop(w.owner().life) // the successor waits for the lease all the same
		w.until(w.bound(), "another owner", func() bool { return w.owner() != nil })
		w.heal()
		w.finish(w.bound())
	})
}

// TestSchedule3 has the guard end an epoch whose daemon is stopped and wakes
// up with its renewals granted.
func TestSchedule3WokenDaemonResurrectsNothing(t *testing.T) {
	for _, l := range []layout{fast, gated} {
		simulate(t, l, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			alpha := w.owner()
			epoch := alpha.controller.Status().Holding.Epoch
			w.stop(alpha.life)
			w.elapse(alpha.h.timing.TTL)
			if held := w.checker.heldBy("alpha"); len(held) != 0 {
				t.Errorf("alpha's lease is over and its kernel has %v: the guard did nothing", held)
			}
			up := w.checker.added("alpha")
			alpha.cont()
			w.elapse(100 * time.Millisecond)
			if got := w.checker.added("alpha"); got != up {
				t.Errorf("alpha added addresses %d times after it woke up", got-up)
			}
			w.until(w.bound(), "an owner", func() bool { return w.settled() != "" })
			if now := w.owner().controller.Status().Holding.Epoch; now == epoch {
				t.Errorf("epoch %d was resumed", now)
			}
			w.heal()
			w.finish(w.bound())
		})
	}
}
