package simtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// stored is a cluster whose policy has volumes, on hosts with everything, and a
// device that switches hosts off.
var stored = layout{
	seed: 1, data: 3, gates: 3, groups: 3, detect: []time.Duration{200 * time.Millisecond},
	volumes: 2, fence: "command", operator: 30 * time.Second,
}

// asked is one where nothing but a person's word helps, and nobody says it unless
// the play does.
var asked = func() layout {
	l := stored
	l.fence, l.operator = "", 0
	return l
}()

// securedBy returns the kinds of evidence for which epochs of a node counted as
// secured, oldest first.
func (w *world) securedBy(node string) (kinds []hadv1.Secured_Kind) {
	w.each(func(e *hadv1.Event) {
		if s := e.GetSecured(); s.GetInstance().GetNode() == node {
			kinds = append(kinds, s.GetKind())
		}
	})
	return kinds
}

// releaseOf returns what was reported of the end of an epoch; nil: nothing.
func (w *world) releaseOf(epoch uint64) (released *hadv1.Released) {
	w.each(func(e *hadv1.Event) {
		if r := e.GetReleased(); r != nil && r.GetEpoch() == epoch {
			released = r
		}
	})
	return released
}

// each goes through the history as the leader has it.
func (w *world) each(see func(e *hadv1.Event)) {
	if p := w.leader(); p != nil {
		events, _ := p.node.History(0)
		for _, e := range events {
			see(e)
		}
	}
}

// killBoth is SIGKILL for a host's daemon and its guard.
func killBoth(h *host) {
	h.killGuard()
	h.kill()
}

// another waits for an owner that is not this one.
func (w *world) another(than string) time.Duration {
	w.t.Helper()
	return w.until(w.bound(), "another owner than "+than, func() bool {
		s := w.settled()
		return s != "" && s != than
	})
}

// nobody lets time pass and expects that nobody owns all the while.
func (w *world) nobody(d time.Duration) {
	w.t.Helper()
	for until := time.Now().Add(d); time.Now().Before(until); w.elapse(100 * time.Millisecond) {
		if p := w.owner(); p != nil {
			w.t.Errorf("%s owns", p.h.name)
			return
		}
	}
}

func TestVolumesMoveInOrder(t *testing.T) {
	simulate(t, stored, func(w *world) {
		w.begin()
		for _, name := range []string{"alpha", "beta", "gamma", "alpha"} {
			w.moveTo(name)
		}
		if n := w.pdu.fenced(); n != 0 {
			t.Errorf("%d hosts were switched off", n)
		}
		w.finish(w.bound())
	})
}

// Daemon and guard die and leave everything mounted. The host is switched off
// before anybody else mounts.
func TestVolumesOutliveDaemonAndGuard(t *testing.T) {
	simulate(t, stored, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		killBoth(w.host("alpha"))
		if there, _ := w.checker.mountedOn("alpha"); len(there) != 2 {
			t.Errorf("alpha has %v mounted: there is nothing to switch off", there)
		}
		w.another("alpha")
		if kinds := w.securedBy("alpha"); !slices.Equal(kinds, []hadv1.Secured_Kind{hadv1.Secured_KIND_FENCED}) || w.pdu.fenced() != 1 {
			t.Errorf("alpha counts as safe by %v; %d hosts were switched off", kinds, w.pdu.fenced())
		}
		w.heal()
		w.finish(w.bound())
	})
}

// The next run of the daemon unmounts what the dead ones have left, and says so
// before anybody is switched off.
func TestVolumesAreGivenBackByTheNextRun(t *testing.T) {
	for _, l := range []layout{stored, asked} {
		simulate(t, l, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			alpha := w.host("alpha")
			killBoth(alpha)
			alpha.start()
			w.until(5*time.Second, "an owner", func() bool { return w.settled() != "" })
			if n := w.pdu.fenced(); n != 0 {
				t.Errorf("%d hosts were switched off", n)
			}
			w.finish(w.bound())
		})
	}
}

// Where only a person's word counts, everybody waits for it; and when it is true,
// for nothing else.
func TestVolumesWaitForAWord(t *testing.T) {
	simulate(t, asked, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.host("alpha")
		killBoth(alpha)
		w.nobody(2 * time.Minute)
		p := w.leader()
		c := p.view().Newest()
		w.walkTo(alpha, c)
		w.confirm(p, c)
		took := w.until(5*time.Second, "an owner", func() bool { return w.settled() != "" })
		t.Logf("%v after the word", took)
		if kinds := w.securedBy("alpha"); !slices.Equal(kinds, []hadv1.Secured_Kind{hadv1.Secured_KIND_CONFIRMED}) {
			t.Errorf("alpha counts as safe by %v", kinds)
		}
		w.heal()
		w.finish(w.bound())
	})
}

// A person says that an owner is off that is only cut off and works: it has
// unmounted by itself before anybody else mounts.
func TestVolumesSurviveAWrongWord(t *testing.T) {
	l := asked
	l.misled = true
	simulate(t, l, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		w.network.isolate("alpha")
		w.until(time.Second, "another leader", func() bool {
			p := w.leader()
			return p != nil && p.h.name != "alpha"
		})
		w.confirm(w.leader(), w.leader().view().Newest())
		w.another("alpha")
		w.heal()
		w.finish(w.bound())
	})
}

// Daemon and guard are stopped past the margin, with everything mounted, and wake
// up: the guard unmounts, and says so.
func TestVolumesOfStoppedProcesses(t *testing.T) {
	simulate(t, asked, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.host("alpha")
		lives := alpha.lives()
		for _, l := range lives {
			w.stop(l)
		}
		w.nobody(20 * time.Second)
		if there, _ := w.checker.mountedOn("alpha"); len(there) != 2 {
			t.Errorf("alpha has %v mounted: there is nothing to wait for", there)
		}
		for _, l := range lives {
			l.cont()
		}
		w.until(5*time.Second, "an owner", func() bool { return w.settled() != "" })
		w.heal()
		w.finish(w.bound())
	})
}

// A stopped daemon's guard unmounts at the lease's end and tells the others, who
// need nobody else's word.
func TestVolumesOfAStoppedDaemon(t *testing.T) {
	for _, grace := range []time.Duration{0, 2 * time.Second} {
		l := asked
		l.grace = grace
		simulate(t, l, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			alpha := w.owner()
			w.stop(alpha.life)
			w.elapse(alpha.h.timing.TTL + grace)
			if there, _ := w.checker.mountedOn("alpha"); len(there) != 0 {
				t.Errorf("alpha's lease is over and it has %v mounted", there)
			}
			w.another("alpha")
			if kinds := w.securedBy("alpha"); !slices.Equal(kinds, []hadv1.Secured_Kind{hadv1.Secured_KIND_GUARD}) {
				t.Errorf("alpha counts as safe by %v", kinds)
			}
			alpha.cont()
			w.elapse(10 * time.Second)
			w.heal()
			w.finish(w.bound())
		})
	}
}

// The guard alone is stopped, or killed, with everything mounted: another takes
// it over, and the owner moves in order.
func TestVolumesOfALostGuard(t *testing.T) {
	for name, strike := range map[string]func(w *world, h *host){
		"killed":  func(_ *world, h *host) { h.killGuard() },
		"stopped": func(w *world, h *host) { w.stop(h.guardian().life) },
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			simulate(t, asked, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				epoch := w.owner().controller.Status().Holding.Epoch
				strike(w, w.host("alpha"))
				w.until(10*time.Second, "another epoch", func() bool {
					return w.settled() != "" && w.owner().controller.Status().Holding.Epoch > epoch
				})
				if r := w.releaseOf(epoch); r == nil || r.GetForced() {
					t.Errorf("epoch %d was released so: %v", epoch, r)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// The device that switches off fails in every way before it works.
func TestVolumesWaitForTheFence(t *testing.T) {
	for _, f := range []failure{dead, mute, silent} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			parallel(t)
			l := stored
			l.operator = 0
			simulate(t, l, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				w.pdu.fail(f)
				killBoth(w.host("alpha"))
				if f == mute { // the host comes back, and says what it knows
					w.until(w.bound(), "alpha is off", func() bool { return w.pdu.fenced() > 0 })
				} else {
					w.nobody(40 * time.Second)
				}
				w.pdu.fail(works)
				w.until(w.bound()+time.Minute, "another owner", func() bool { return w.settled() != "" })
				w.heal()
				w.finish(w.bound() + time.Minute)
				failed := w.count(func(e *hadv1.Event) bool { return e.GetFenceTry().GetError() != "" })
				if failed == 0 {
					t.Error("the history has no failed try")
				}
			})
		})
	}
}

// Time alone, where a policy says that it is enough.
func TestVolumesAfterTheLease(t *testing.T) {
	l := stored
	l.fence = "lease"
	simulate(t, l, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.owner()
		w.network.isolate("alpha")
		took := w.another("alpha")
		if least := alpha.h.timing.TTL + leaseMargin - alpha.h.timing.Renew; took < least {
			t.Errorf("another node served after %v, want %v at least", took, least)
		}
		if kinds := w.securedBy("alpha"); !slices.Equal(kinds, []hadv1.Secured_Kind{hadv1.Secured_KIND_LEASE}) {
			t.Errorf("alpha counts as safe by %v", kinds)
		}
		w.heal()
		w.finish(w.bound())
	})
}

// An owner that is cut off uses the grace to stop its services in order.
func TestVolumesAreReleasedInTheGrace(t *testing.T) {
	l := asked
	l.grace = 4 * time.Second
	simulate(t, l, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha := w.owner()
		epoch := alpha.controller.Status().Holding.Epoch
		alpha.h.scripts.misbehave(hook.PreRel, 0, 1500*time.Millisecond)
		w.network.isolate("alpha")
		w.elapse(alpha.h.timing.TTL + l.grace)
		if there, _ := w.checker.mountedOn("alpha"); len(there) != 0 {
			t.Errorf("lease and grace are over, and alpha has %v mounted", there)
		}
		w.nobody(10 * time.Second) // it can't tell
		w.network.heal()
		w.another("")
		if r := w.releaseOf(epoch); r == nil || r.GetForced() {
			t.Errorf("epoch %d was released so: %v", epoch, r)
		}
		w.heal()
		w.finish(w.bound())
	})
}

// Storage that fails a leader for good: it can't say that nothing is mounted, so
// it must let another lead, who has it switched off.
func TestVolumesOnStorageThatNeverComesBack(t *testing.T) {
	t.Run("a mount hangs", func(t *testing.T) {
		simulate(t, stored, func(w *world) {
			w.begin()
			w.moveTo("alpha")
			w.host("beta").shelf.strike(trouble{hangs: true})
			w.move("beta")
			w.elapse(2 * time.Second)
			w.until(w.bound()+2*time.Minute, "another owner than beta", func() bool {
				s := w.settled()
				return s != "" && s != "beta"
			})
			w.heal()
			w.finish(w.bound())
		})
	})
	for name, tr := range map[string]trouble{"hangs": {hangs: true}, "is gone": {absent: true}, "is busy": {busy: true}} {
		t.Run("the owner's "+name, func(t *testing.T) {
			simulate(t, stored, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				w.host("alpha").shelf.strike(tr)
				w.move("beta")
				w.until(w.bound()+time.Minute, "another owner than alpha", func() bool {
					s := w.settled()
					return s != "" && s != "alpha"
				})
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// Whoever dies, and however, at any moment of a move.
func TestVolumesMoveIsInterrupted(t *testing.T) {
	for name, strike := range map[string]func(w *world, h *host){
		"daemon": func(w *world, h *host) {
			h.kill()
			w.after(5*time.Second, h.start)
		},
		"guard": func(_ *world, h *host) { h.killGuard() },
		"both": func(w *world, h *host) {
			killBoth(h)
			w.after(5*time.Second, h.start)
		},
		"power": func(w *world, h *host) {
			h.powerOff()
			w.after(5*time.Second, h.start)
		},
		"stopped": func(w *world, h *host) {
			for _, l := range h.lives() {
				w.stop(l)
				w.after(5*time.Second, l.cont)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			for _, victim := range []string{"alpha", "beta"} {
				for ms := 0; ms < 600; ms += 60 {
					l := stored
					l.seed = uint64(ms) + 1 //nolint:gosec // not negative
					simulate(t, l, func(w *world) {
						w.begin()
						w.moveTo("alpha")
						w.move("beta")
						w.elapse(time.Duration(ms) * time.Millisecond)
						strike(w, w.host(victim))
						w.elapse(6 * time.Second)
						w.finish(w.bound() + 30*time.Second)
					})
					if t.Failed() {
						t.Fatalf("%s of %s, %d ms after the move was ordered", name, victim, ms)
					}
				}
			}
		})
	}
}

// The same at any step: between two things that daemon or guard do.
func TestVolumesMoveIsInterruptedInTheMiddle(t *testing.T) {
	for name, strike := range map[string]func(h *host, point int){
		"daemon": func(h *host, point int) { h.killIn(10*point, false) },
		"both":   func(h *host, point int) { h.killIn(10*point, true) },
		"guard":  func(h *host, point int) { h.guardian().killAt(point, h.guardian().die) },
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			for _, victim := range []string{"alpha", "beta"} {
				for point := 1; point < 60; point += 4 {
					l := stored
					l.seed = uint64(point) //nolint:gosec // not negative
					simulate(t, l, func(w *world) {
						w.begin()
						w.moveTo("alpha")
						strike(w.host(victim), point)
						w.move("beta")
						w.elapse(4 * time.Second)
						w.host(victim).start()
						w.finish(w.bound() + 30*time.Second)
					})
					if t.Failed() {
						t.Fatalf("%s of %s at step %d of a move", name, victim, point)
					}
				}
			}
		})
	}
}
