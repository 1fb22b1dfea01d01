package simtest

import (
	"fmt"
	"testing"
	"time"

	"had/cluster"
	"had/internal/hook"
)

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

// A restarted daemon gives back what the killed one held, so that nobody needs
// to wait for the lease.
func TestOwnerIsKilledAndStartedAgain(t *testing.T) {
	simulate(t, three, func(w *world) {
		w.begin()
		first := w.owner().h
		first.kill()
		first.start()
		took := w.until(w.bound(), "an owner", func() bool { return w.settled() != "" })
		if silent := cluster.AddressLifetime + cluster.KernelExpirySlack; took > silent {
			t.Errorf("it took %v, as if nobody had said that the addresses are gone", took)
		}
		w.finish(w.bound())
	})
}

// A daemon that was stopped between two scripts runs none for an epoch that is
// over when it wakes up.
func TestStoppedBetweenTwoScripts(t *testing.T) {
	simulate(t, fast, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		for _, h := range w.hosts {
			h.scripts.misbehave(hook.PreAcq, 0, time.Second)
		}
		alpha := w.host("alpha")
		alpha.kill()
		var next *process
		w.until(w.bound(), "a PreAcq script runs", func() bool {
			next = w.acquiring()
			return next != nil
		})
		w.stop(next.life)
		alpha.start()
		w.until(2*w.bound(), "another owner", func() bool { return w.owner() != nil })
		next.cont()
		w.elapse(5 * time.Second)
		w.heal()
		w.finish(w.bound())
	})
}

func TestMoveDuringAPartition(t *testing.T) {
	for _, ms := range []int{0, 5, 50, 100, 150, 200, 300} {
		delay := time.Duration(ms) * time.Millisecond
		t.Run(delay.String(), func(t *testing.T) {
			parallel(t)
			simulate(t, three, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				w.move("beta")
				w.elapse(delay)
				w.network.isolate("beta")
				w.elapse(w.bound())
				if s := w.settled(); s == "" || s == "beta" {
					t.Errorf("%q owns while beta is cut off\n%s", s, w.situation())
				}
				w.heal()
				w.finish(w.bound())
				if m := w.owner().view().Move; m != nil {
					t.Errorf("the move is still under way: %v", m)
				}
			})
		})
	}
}

// raft may take leadership away from a healthy owner. It hands over once, and
// the new leader owns.
func TestOwnerIsDeposedWithoutLosingItsQuorum(t *testing.T) {
	simulate(t, three, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		alpha, before := w.owner(), w.count(acquisitions)
		if err := alpha.node.Transfer(alpha.hard, "beta"); err != nil {
			t.Fatal(err)
		}
		took := w.until(w.bound(), "beta owns", func() bool { return w.settled() == "beta" })
		if took > 2*time.Second {
			t.Errorf("it took %v, and alpha could say that it released", took)
		}
		w.elapse(30 * time.Second)
		if n := w.count(acquisitions) - before; n != 1 {
			t.Errorf("%d epochs were opened, want one", n)
		}
		w.finish(w.bound())
	})
}

func TestFlappingLink(t *testing.T) {
	for _, period := range []time.Duration{150 * time.Millisecond, 400 * time.Millisecond, time.Second} {
		t.Run(period.String(), func(t *testing.T) {
			parallel(t)
			simulate(t, three, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				before := w.count(acquisitions)
				for range int(30 * time.Second / (2 * period)) {
					w.network.isolate("alpha")
					w.elapse(period)
					w.network.heal()
					w.elapse(period)
				}
				w.finish(w.bound())
				if n := w.count(acquisitions) - before; n > 15 {
					t.Errorf("%d epochs in 30 s", n)
				}
			})
		})
	}
}

// When every node refuses, leadership doesn't wander for ever, and the first
// node that can own does.
func TestEverybodyRefuses(t *testing.T) {
	for _, stage := range []hook.Stage{hook.Test, hook.PreAcq} {
		t.Run(string(stage), func(t *testing.T) {
			parallel(t)
			simulate(t, three, func(w *world) {
				for _, h := range w.hosts {
					h.scripts.misbehave(stage, 1, 100*time.Millisecond)
				}
				w.until(10*time.Second, "a leader", func() bool { return w.leader() != nil })
				w.policy(1)
				w.elapse(10 * time.Minute)
				turns, transfers := w.count(failures), w.checker.transferCount()
				if turns < 3 || turns > 60 || transfers > 60 {
					t.Errorf("%d turns were tried and leadership was handed on %d times in ten minutes", turns, transfers)
				}
				if p := w.owner(); p != nil {
					t.Errorf("%s owns", p.h.name)
				}
				w.heal()
				w.finish(w.bound() + 5*time.Minute) // a failed turn is tried again after up to 5 min
			})
		})
	}
}

// A node whose PreAcq fails gives its turn back and leaves it to another.
func TestPreAcqFailsOnOneNode(t *testing.T) {
	simulate(t, three, func(w *world) {
		w.begin()
		w.moveTo("beta")
		w.host("alpha").scripts.misbehave(hook.PreAcq, 1, 100*time.Millisecond)
		w.move("alpha")
		w.elapse(5 * time.Second)
		w.until(w.bound(), "another than alpha owns", func() bool {
			s := w.settled()
			return s != "" && s != "alpha"
		})
		before := w.count(acquisitions)
		w.elapse(time.Minute)
		if n := w.count(acquisitions) - before; n != 0 {
			t.Errorf("%d epochs were opened in a minute in which nothing happened", n)
		}
		w.heal()
		w.finish(w.bound())
	})
}

func TestWitnessHandsLeadershipOn(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			parallel(t)
			l := layout{seed: seed, data: 2, witness: true, detect: fast.detect}
			simulate(t, l, func(w *world) {
				w.begin()
				first := w.owner().h
				first.kill()
				w.until(w.bound(), "the other data node owns", func() bool { return w.settled() != "" })
				if got := w.owner().h; got.member.GetWitness() || got == first {
					t.Errorf("%s owns", got.name)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// All hosts lose their power at once, also with volumes mounted on one.
func TestPowerIsLostEverywhere(t *testing.T) {
	for _, l := range []layout{three, asked} {
		simulate(t, l, func(w *world) {
			w.begin()
			for _, h := range w.hosts {
				h.powerOff()
			}
			w.elapse(10 * time.Second)
			w.heal()
			w.finish(w.bound())
		})
	}
}

// The policy gives addresses up and takes others on while an owner serves.
func TestPolicyChangesWhileServing(t *testing.T) {
	simulate(t, three, func(w *world) {
		w.begin()
		before := w.count(acquisitions)
		for _, n := range []int{3, 1, 2, 3} {
			w.policy(n)
			w.until(5*time.Second, fmt.Sprintf("%d addresses are up", n), func() bool {
				s := w.settled()
				return s != "" && len(w.checker.heldBy(s)) == n
			})
		}
		if n := w.count(acquisitions) - before; n != 0 {
			t.Errorf("%d epochs were opened for changes that need none", n)
		}
		w.finish(w.bound())
	})
}
