package simtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// host is a machine: what survives the death of a daemon.
type host struct {
	w      *world
	name   string
	member *hadv1.Member
	timing cluster.Timing
	disk   *disk
	// journal is the daemon's durable memory on that disk.
	journal *journalFile
	kernel  *kernel
	scripts *scripts
	health  health
	// shelf and services are there where volumes are.
	shelf    *shelf
	services *services

	mu     sync.Mutex
	random *rand.Rand
	rate   float64 // of this host's clock against virtual time
	booted time.Time
	offset time.Duration // its clock's reading at booted
	boots  int
	starts int
	proc   *process  // the daemon that runs; nil: none
	guard  *guardian // the guard that runs; nil: none
	// farewell is what a guard left on the disk.
	farewell *hadv1.Farewell
	off      bool // it was switched off, and is to be switched on again
	// disturbedAt is when its guard was last kept from its work, or began it.
	disturbedAt time.Time
}

func newHost(w *world, m *hadv1.Member, detect time.Duration, random *rand.Rand) *host {
	h := &host{
		w: w, name: m.GetName(), member: m, timing: cluster.TimingFor(detect), random: random,
		// Two hosts differ by ρ at the most.
		rate: 1 + (random.Float64()-0.5)*cluster.ClockRateError,
	}
	if rate := w.layout.tamper.rate; rate != nil {
		h.rate = rate(len(w.hosts))
	}
	h.disk = newDisk(h)
	h.journal = newJournalFile(m.GetNodeId())
	h.kernel = &kernel{h: h}
	if w.layout.gated(len(w.hosts)) && !m.GetWitness() {
		h.kernel.gate = newKernelGate(h)
	}
	h.scripts = newScripts(h)
	h.shelf = newShelf(h)
	h.services = newServices(h, w.layout.groups > len(w.hosts))
	h.boot()
	return h
}

func (h *host) boot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.boots++
	h.booted, h.offset = time.Now(), time.Duration(h.random.Int64N(int64(time.Hour)))
}

// now reads the host's CLOCK_BOOTTIME.
func (h *host) now() clock.Instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := clock.Instant(h.offset + time.Duration(float64(time.Since(h.booted))*h.rate))
	h.w.diary.traced("clock of %s: %d", h.name, now)
	return now
}

// draw returns a random duration up to limit.
func (h *host) draw(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Duration(h.random.Int64N(int64(limit)))
}

// process returns the daemon that runs, nil when none does.
func (h *host) process() *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc
}

// restartDelay is what the service manager waits before it starts a daemon
// again that has ended by itself.
const restartDelay = time.Second

// start starts a daemon unless one runs.
func (h *host) start() {
	h.mu.Lock()
	if h.proc != nil || h.off || isClosed(h.w.ended) {
		if h.proc != nil {
			h.proc.again = h.proc.asked // as systemctl start does while it stops
		}
		h.mu.Unlock()
		return
	}
	h.starts++
	p := newProcess(h, &hadv1.Instance{
		Node: h.name, NodeId: h.member.GetNodeId(),
		BootId: bootID(h.name, h.boots), Nonce: fmt.Sprintf("run-%d", h.starts),
	})
	h.proc = p
	h.mu.Unlock()
	h.w.tasks.Go(func() {
		err := p.run()
		h.mu.Lock()
		crashed := h.proc == p
		if crashed {
			h.proc = nil
		}
		asked, again := p.asked, p.again
		h.mu.Unlock()
		p.die() // nothing of it may act any more
		if crashed {
			h.w.network.hangUp(h.name)
		}
		switch {
		case again:
			h.start()
		case crashed && !asked:
			h.w.diary.fault("the daemon on %s ended by itself: %v", h.name, err)
			h.w.after(restartDelay, h.start)
		}
	})
}

// kill is SIGKILL: from this instant on nothing of the daemon acts.
func (h *host) kill() {
	h.vanish()
	h.w.network.hangUp(h.name)
}

// vanish ends the daemon, and nobody is told.
func (h *host) vanish() {
	h.mu.Lock()
	p := h.proc
	h.proc = nil
	h.mu.Unlock()
	if p != nil {
		p.die()
	}
}

// guardian returns the guard that runs, nil when none does.
func (h *host) guardian() *guardian {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guard
}

// killGuard is SIGKILL for the guard.
func (h *host) killGuard() {
	if g := h.guardian(); g != nil {
		g.die()
	}
}

// lives returns the processes that run.
func (h *host) lives() []*life {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*life
	if h.proc != nil {
		out = append(out, h.proc.life)
	}
	if h.guard != nil {
		out = append(out, h.guard.life)
	}
	return out
}

// unsaid reports whether a guard's farewell waits to be told.
func (h *host) unsaid() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.farewell != nil
}

// terminate is SIGTERM.
func (h *host) terminate() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc != nil {
		h.proc.asked = true
		h.proc.term()
	}
}

// powerOff ends all processes and empties the kernel; another boot follows.
func (h *host) powerOff() {
	h.killGuard() // before it sees its daemon die
	h.vanish()
	h.kernel.clear()
	h.shelf.crash()
	h.services.crash()
	h.scripts.forget()
	h.boot()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wait waits for d, or until one of the contexts or channels ends the wait.
func wait(ctx context.Context, d time.Duration, dead <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-dead:
		return errDead
	}
}
