package simtest

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/clock"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// TestBrokenVolumesAreFoundOut does the same with what looks after volumes.
func TestBrokenVolumesAreFoundOut(t *testing.T) {
	lease := stored
	lease.fence, lease.grace = "lease", 2*time.Second
	witnessed := reserved
	witnessed.data, witnessed.witness = 2, true
	cases := []struct {
		name string
		layout
		tamper
		play func(w *world)
	}{
		{"a guard that says volumes are safe and has done nothing", asked, tamper{unproven: true}, func(w *world) {
			w.stop(w.owner().life)
			w.elapse(10 * time.Second)
		}},
		{"a next run that does the same", asked, tamper{unproven: true}, func(w *world) {
			alpha := w.host("alpha")
			killBoth(alpha)
			alpha.start()
			w.elapse(10 * time.Second)
		}},
		{"a guard that doesn't wait for the mounter it has killed", asked, tamper{hasty: true}, func(w *world) {
			w.moveTo("gamma")
			w.host("alpha").shelf.strike(trouble{mounts: 30 * time.Second})
			w.move("alpha")
			w.elapse(5 * time.Second)
			w.network.isolate("alpha")
			w.elapse(10 * time.Second)
			w.network.heal()
			w.elapse(10 * time.Second)
		}},
		{"a guard that wakes up after the lease", asked, tamper{sleepy: 200 * time.Millisecond}, func(w *world) {
			w.elapse(2 * recovery)
			w.stop(w.owner().life)
			w.elapse(10 * time.Second)
		}},
		{"a successor that doesn't wait for the epoch before it", asked, tamper{}, madeUp},
		{"evidence that counts from an earlier lease entry", lease, tamper{lastLease: func(at clock.Instant) clock.Instant { return at.Add(-10 * time.Second) }}, func(w *world) {
			w.host("alpha").scripts.misbehave(hook.PreRel, 0, 10*time.Second) // it needs its grace
			w.network.isolate("alpha")
			w.elapse(10 * time.Second)
		}},
		{"a device that says that a host is off which isn't", stored, tamper{lyingFence: true}, ownerFallsSilent},
		{"disks that say that an owner is driven out who isn't", reserved, tamper{lyingDisks: true}, drivenOut},
		{"disks that forget who was driven out", reserved, tamper{forgetful: true}, func(w *world) {
			drivenOut(w)
			w.arrayLosesPower()
		}},
		{"who takes a disk with one of its volumes mounted", witnessed, tamper{blind: true}, leftoverOfADrivenOut},
		{"a person who hasn't looked", asked, tamper{}, func(w *world) {
			for _, l := range w.host("alpha").lives() {
				w.stop(l)
			}
			w.until(5*time.Second, "another leader", func() bool { return w.leader() != nil })
			w.confirm(w.leader(), w.leader().view().Newest())
			w.until(w.bound(), "another owner", func() bool { return w.owner() != nil })
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			parallel(t)
			l := c.layout
			l.tamper = c.tamper
			l.tamper.expected = true
			simulate(t, l, func(w *world) {
				w.begin()
				w.moveTo("alpha")
				c.play(w)
				if !w.checker.failed() {
					t.Error("nothing was found")
				}
			})
		})
	}
}

// madeUp has the owner and its guard fall silent, and the next leader say that
// the guard has given everything back.
func madeUp(w *world) {
	for _, l := range w.host("alpha").lives() {
		w.stop(l)
	}
	w.until(5*time.Second, "another leader", func() bool { return w.leader() != nil })
	p := w.leader()
	c := p.view().Newest()
	cmd := &hadv1.Command{Record: &hadv1.Command_Secured{Secured: &hadv1.Secured{
		Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_GUARD, By: "alpha", At: timestamppb.Now(),
	}}}
	v, err := p.node.Propose(p.hard, cmd)
	w.checker.proposed(p, cmd, v, err)
	w.until(w.bound(), "another owner", func() bool { return w.owner() != nil })
}
