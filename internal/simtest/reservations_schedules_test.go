package simtest

import (
	"slices"
	"testing"
	"time"

	hadv1 "had/proto/had/v1"
)

// reserved is a cluster where nothing but the disks' reservations helps.
var reserved = func() layout {
	l := stored
	l.fence, l.operator = "reservation", 0
	return l
}()

// drivenOut has the owner and its guard stop, with everything mounted, until another
// node owns.
func drivenOut(w *world) {
	for _, l := range w.host("alpha").lives() {
		w.stop(l)
	}
	w.another("alpha")
}

// A stopped owner is driven out of its disks: what it has mounted takes no writes any
// more, neither when the array nor when the new owner's host loses its power, and
// nobody is switched off. When it wakes up it is a standby, and owns again in order.
func TestDisksRefuseWhoWasDrivenOut(t *testing.T) {
	simulate(t, reserved, func(w *world) {
		w.begin()
		w.moveTo("alpha")
		if on := w.writable("alpha"); len(on) != 2 {
			t.Errorf("alpha can write to %v", on)
		}
		drivenOut(w)
		refused := func(when string) {
			there, _ := w.checker.mountedOn("alpha")
			if on := w.writable("alpha"); len(there) != 2 || len(on) != 0 {
				t.Errorf("%s: alpha has %v mounted and can write to %v", when, there, on)
			}
		}
		refused("another owns")
		if kinds := w.securedBy("alpha"); !slices.Equal(kinds, []hadv1.Secured_Kind{hadv1.Secured_KIND_RESERVED}) || w.pdu.fenced() != 0 {
			t.Errorf("alpha counts as safe by %v; %d hosts were switched off", kinds, w.pdu.fenced())
		}
		w.arrayLosesPower()
		w.elapse(3 * time.Second)
		w.arrayIsBack()
		w.another("alpha")
		refused("the array has lost its power")
		next := w.owner().h
		next.powerOff()
		w.elapse(3 * time.Second)
		next.start()
		w.another("alpha")
		refused("the new owner has lost its power")
		w.heal()
		w.moveTo("alpha")
		w.finish(w.bound())
	})
}

// Everybody is lost in turn, by every way out, and the next one takes the disks.
func TestDisksGoFromHandToHand(t *testing.T) {
	for name, strike := range map[string]func(w *world, h *host){
		"killed": func(w *world, h *host) {
			killBoth(h)
			w.after(20*time.Second, h.start)
		},
		"power": func(w *world, h *host) {
			h.powerOff()
			w.after(20*time.Second, h.start)
		},
		"cut off": func(w *world, h *host) {
			w.network.isolate(h.name)
			w.after(20*time.Second, w.network.heal)
		},
		"stopped": func(w *world, h *host) {
			for _, l := range h.lives() {
				w.stop(l)
				w.after(20*time.Second, l.cont)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			simulate(t, reserved, func(w *world) {
				w.begin()
				for range 4 {
					w.until(w.bound(), "an owner", func() bool { return w.settled() != "" })
					owner := w.owner().h
					strike(w, owner)
					w.another(owner.name)
					w.elapse(25 * time.Second)
				}
				w.heal()
				w.finish(w.bound())
			})
		})
	}
}

// Who has one of the volumes mounted from an earlier turn takes no disk, for then it
// could write to that again; once it has unmounted, it does.
func TestDisksAreNotTakenWithOneMounted(t *testing.T) {
	l := reserved
	l.data, l.witness = 2, true
	simulate(t, l, func(w *world) {
		w.begin()
		leftoverOfADrivenOut(w)
		if p := w.leader(); p == nil || p.h.name != "alpha" {
			t.Errorf("alpha doesn't lead: nobody seeks")
		}
		w.nobody(10 * time.Second)
		w.host("alpha").shelf.mend()
		w.another("beta")
		w.heal()
		w.finish(w.bound())
	})
}

// leftoverOfADrivenOut has alpha driven out while it can't unmount, and then left alone
// with a witness, to seek evidence about beta.
func leftoverOfADrivenOut(w *world) {
	w.moveTo("alpha")
	alpha := w.host("alpha")
	alpha.shelf.strike(trouble{busy: true})
	killBoth(alpha)
	w.another("alpha")
	alpha.start()
	w.elapse(5 * time.Second)
	for _, l := range w.host("beta").lives() {
		w.stop(l)
	}
	w.elapse(20 * time.Second)
}
