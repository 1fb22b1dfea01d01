package simtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// drawStorageFaults makes what goes wrong with storage and fences in the schedule
// of a seed.
func drawStorageFaults(l layout, length time.Duration) []fault {
	r := rng(l.seed, "storage faults")
	var out []fault
	for t := time.Duration(0); t < length; {
		f := drawStorageFault(l, r)
		f.after = time.Duration(r.Int64N(int64(8 * time.Second)))
		t += f.after
		out = append(out, f)
	}
	return out
}

// merge puts two schedules together.
func merge(a, b []fault) []fault {
	at := func(s []fault) (out []fault) {
		var t time.Duration
		for _, f := range s {
			t += f.after
			f.after = t
			out = append(out, f)
		}
		return out
	}
	all := append(at(a), at(b)...)
	slices.SortStableFunc(all, func(a, b fault) int { return int(a.after - b.after) })
	var t time.Duration
	for i, f := range all {
		all[i].after, t = f.after-t, f.after
	}
	return all
}

func drawStorageFault(l layout, r *rand.Rand) fault {
	v := victim{owner: r.IntN(2) == 0, index: r.IntN(l.nodes())}
	length := time.Duration(r.Int64N(int64(15 * time.Second)))
	on := func(what string, do func(w *world, h *host)) fault {
		return fault{what: fmt.Sprintf("%s: %s", v, what), do: func(w *world) { do(w, v.host(w)) }}
	}
	strike := func(what string, t trouble) fault {
		return on(fmt.Sprintf("storage that %s for %v", what, length), func(w *world, h *host) {
			h.shelf.strike(t)
			w.after(length, h.shelf.mend)
		})
	}
	n, moment := r.IntN(3), time.Duration(r.Int64N(int64(300*time.Millisecond)))
	slow := time.Duration(r.Int64N(int64(2 * time.Second)))
	point, both := 1+r.IntN(1000), r.IntN(2) == 0
	kind := r.IntN(18)
	if l.fence == "lease" && (kind < 9 || kind > 13) {
		kind = 9 + kind%2 // time proves something only where guards do their work
	}
	switch kind {
	case 0, 1:
		return strike("hangs", trouble{hangs: true})
	case 2:
		return on("storage that hangs until the power is cut", func(_ *world, h *host) { h.shelf.strike(trouble{hangs: true}) })
	case 3:
		return strike("is busy", trouble{busy: true})
	case 4:
		return strike("is gone", trouble{absent: true})
	case 5:
		return strike(fmt.Sprintf("takes up to %v longer", slow), trouble{slow: slow})
	case 6, 7:
		return on(fmt.Sprintf("SIGKILL of daemon and guard %v after a move was ordered, started again after %v", moment, length), func(w *world, h *host) {
			w.move("")
			w.after(moment, func() {
				killBoth(h)
				w.after(length, h.start)
			})
		})
	case 8:
		return on(fmt.Sprintf("SIGKILL of the guard %v after a move was ordered", moment), func(w *world, h *host) {
			w.move("")
			w.after(moment, h.killGuard)
		})
	case 14, 15, 16:
		return on(fmt.Sprintf("SIGKILL in the middle (%d, both %t) after a move was ordered, started again after %v", point, both, length), func(w *world, h *host) {
			w.move("")
			h.killIn(point, both)
			w.after(length, h.start)
		})
	case 17:
		return on(fmt.Sprintf("SIGKILL of the guard in the middle (%d) after a move was ordered", point/10+1), func(w *world, h *host) {
			w.move("")
			if g := h.guardian(); g != nil {
				g.killAt(point/10+1, g.die)
			}
		})
	case 9:
		return strike("refuses to mount", trouble{refuses: true})
	case 10:
		return fault{what: fmt.Sprintf("policy with %d volumes", n), do: func(w *world) {
			w.carried = n
			w.policy(2)
		}}
	case 11:
		return on(fmt.Sprintf("services that ignore SIGTERM for %v", length), func(w *world, h *host) {
			h.services.ignoreTerm(true)
			w.after(length, func() { h.services.ignoreTerm(false) })
		})
	default:
		if l.fence == "reservation" {
			return fault{what: fmt.Sprintf("the array loses its power for %v", length), do: func(w *world) {
				w.arrayLosesPower()
				w.after(length, w.arrayIsBack)
			}}
		}
		f := failure(1 + r.IntN(3))
		return fault{what: fmt.Sprintf("a fence that fails (%d) for %v", f, length), do: func(w *world) {
			w.pdu.fail(f)
			w.after(length, func() { w.pdu.fail(works) })
		}}
	}
}

// killIn is SIGKILL for a host's daemon in the middle of what it does, and at the
// same time for its guard.
func (h *host) killIn(point int, both bool) {
	p := h.process()
	if p == nil {
		return
	}
	p.killAt(point, func() {
		if both {
			h.killGuard()
		}
		if h.process() == p {
			h.kill()
		}
	})
}
