package simtest

import (
	"fmt"
	"math/rand/v2"
	"time"

	"had/internal/hook"
)

// fault is one thing that goes wrong, or is asked for, at a time. A schedule
// of them is drawn from the seed before anything runs.
type fault struct {
	after time.Duration // since the one before it
	what  string        // for people
	do    func(w *world)
}

// victim is whom a fault strikes; who that is shows when it strikes.
type victim struct {
	owner bool // the owner or, when there is none, the leader
	index int  // else this host
}

func (v victim) String() string {
	if v.owner {
		return "the owner"
	}
	return names[v.index]
}

func (v victim) host(w *world) *host {
	if v.owner {
		if p := w.owner(); p != nil {
			return p.h
		}
		if p := w.leader(); p != nil {
			return p.h
		}
	}
	return w.hosts[v.index]
}

// drawFaults makes the schedule of a seed.
func drawFaults(l layout, length time.Duration) []fault {
	r := rng(l.seed, "faults")
	var out []fault
	for t := time.Duration(0); t < length; {
		f := drawFault(l, r)
		// Often in quick succession, sometimes with time to settle.
		f.after = time.Duration(r.Int64N(int64(3 * time.Second)))
		if r.IntN(4) == 0 {
			f.after += time.Duration(r.Int64N(int64(10 * time.Second)))
		}
		t += f.after
		out = append(out, f)
	}
	return out
}

func drawFault(l layout, r *rand.Rand) fault {
	v := victim{owner: r.IntN(2) == 0, index: r.IntN(l.nodes())}
	other := (v.index + 1 + r.IntN(l.nodes()-1)) % l.nodes()
	length := time.Duration(r.Int64N(int64(8 * time.Second)))
	side := r.IntN(1 << l.nodes())
	point := 1 + r.IntN(300) // at which a stopped process is in what it does
	on := func(what string, do func(w *world, h *host)) fault {
		return fault{what: fmt.Sprintf("%s: %s", v, what), do: func(w *world) { do(w, v.host(w)) }}
	}
	kind := r.IntN(28)
	if l.fence == "lease" && kind >= 20 && kind <= 25 {
		kind = 0 // time proves something only where guards do their work
	}
	switch kind {
	case 20, 21:
		return on("SIGKILL of the guard", func(_ *world, h *host) { h.killGuard() })
	case 22:
		return on("SIGKILL of daemon and guard, started again after "+length.String(), func(w *world, h *host) {
			h.killGuard()
			h.kill()
			w.after(length, h.start)
		})
	case 23:
		return on("SIGSTOP of the guard for "+length.String(), func(w *world, h *host) {
			if g := h.guardian(); g != nil {
				w.stopIn(g.life, min(point, 20))
				w.after(length, g.cont)
			}
		})
	case 24:
		return on("SIGSTOP of daemon and guard for "+length.String(), func(w *world, h *host) {
			for _, l := range h.lives() {
				w.stopIn(l, point)
				w.after(length, l.cont)
			}
		})
	case 25:
		return on("SIGKILL of a daemon whose guard is stopped for "+length.String(), func(w *world, h *host) {
			if g := h.guardian(); g != nil {
				w.stop(g.life)
				w.after(length, g.cont)
			}
			h.kill()
			w.after(length/2, h.start)
		})
	case 26:
		return on("gate off an interface for "+length.String(), func(w *world, h *host) {
			h.kernel.halve(true)
			w.after(length, func() { h.kernel.halve(false) })
		})
	case 27:
		return on("disk full for "+length.String(), func(w *world, h *host) {
			h.disk.fill(true)
			w.after(length, func() { h.disk.fill(false) })
		})
	case 0, 1:
		return on("SIGKILL, started again after "+length.String(), func(w *world, h *host) {
			h.kill()
			w.after(length, h.start)
		})
	case 2:
		return on("SIGTERM, started again after "+length.String(), func(w *world, h *host) {
			h.terminate()
			w.after(length, h.start)
		})
	case 3:
		return on("power lost for "+length.String(), func(w *world, h *host) {
			h.powerOff()
			w.after(length, h.start)
		})
	case 4, 5:
		return on("SIGSTOP for "+length.String(), func(w *world, h *host) {
			if p := h.process(); p != nil {
				w.stopIn(p.life, point)
				w.after(length, p.cont)
			}
		})
	case 6, 7:
		return on("cut off from all others", func(w *world, h *host) { w.network.isolate(h.name) })
	case 8:
		return fault{what: fmt.Sprintf("network split %b", side), do: func(w *world) {
			w.network.split(func(name string) bool { return side>>w.index(name)&1 == 1 })
		}}
	case 9:
		return on("unheard by "+names[other], func(w *world, h *host) { w.network.sever(h.name, w.hosts[other].name, true) })
	case 10, 11, 12:
		return fault{what: "network healed", do: func(w *world) { w.network.heal() }}
	case 13:
		loss, delay, stray := r.Float64()*0.3, time.Duration(r.Int64N(int64(l.slowest()/2))), r.Float64()*0.05
		return fault{what: fmt.Sprintf("network: %.2f lost, up to %v late, %.2f strays", loss, delay, stray), do: func(w *world) {
			w.network.degrade(loss, delay, stray)
		}}
	case 14, 15:
		target := names[other]
		if r.IntN(2) == 0 {
			target = ""
		}
		return fault{what: fmt.Sprintf("move to %q", target), do: func(w *world) { w.move(target) }}
	case 16:
		n := 1 + r.IntN(len(vips))
		return fault{what: fmt.Sprintf("policy with %d addresses", n), do: func(w *world) { w.policy(n) }}
	case 17:
		stages := []hook.Stage{hook.Test, hook.PreAcq, hook.PostAcq, hook.PreRel, hook.PostRel}
		stage, fail, longest := stages[r.IntN(len(stages))], r.Float64(), time.Duration(r.Int64N(int64(3*time.Second)))
		return on(fmt.Sprintf("%s fails in %.2f, scripts take up to %v", stage, fail, longest), func(w *world, h *host) {
			h.scripts.misbehave(stage, fail, longest)
			w.after(10*time.Second, h.scripts.behave)
		})
	case 18:
		return on("no carrier for "+length.String(), func(w *world, h *host) {
			h.kernel.link(false)
			w.after(length, func() { h.kernel.link(true) })
		})
	default:
		slow := time.Duration(r.Int64N(int64(2 * l.slowest())))
		return on(fmt.Sprintf("a disk that takes up to %v for %v", slow, length), func(w *world, h *host) {
			h.disk.slow(0, slow)
			w.after(length, func() { h.disk.slow(0, 0) })
		})
	}
}

func (w *world) index(name string) int {
	for i, h := range w.hosts {
		if h.name == name {
			return i
		}
	}
	return -1
}

// endure plays a schedule, then heals everything.
func (w *world) endure(schedule []fault) {
	for _, f := range schedule {
		w.elapse(f.after)
		if w.checker.failed() {
			return
		}
		w.diary.fault("%s", f.what)
		f.do(w)
	}
	w.heal()
}
