package simtest

import (
	"context"
	"sync"
	"time"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/guard"
	"had/internal/policy"
)

// carry gives a daemon what volumes take, as internal/daemon does.
func (p *process) carry(recovery *failover.RecoverConfig, ring *failover.Config, guards *guard.Supervisor) {
	if p.h.w.layout.volumes == 0 {
		return
	}
	ring.Off, ring.Answers = p.h.w.pdu.offBy(p), p.answers
	if guards == nil {
		return
	}
	ring.Guard, ring.Volumes = seenGuard{guards, p.h}, guards
	if p.h.w.layout.fence == "reservation" {
		ring.Reservations, ring.KeyMark = guards, cluster.ReservationMark(p.h.w.birth.GetClusterId())
	}
	ring.Services, recovery.Volumes = ender{p}, leftVolumes{p}
	ring.CheckVolumes = func(*policy.Policy) []string {
		if p.h.shelf.now().absent {
			return []string{"simulation: the volumes' devices are not on this host"}
		}
		return nil
	}
}

// seenGuard is a daemon's guard; the checker sees what it is told.
type seenGuard struct {
	*guard.Supervisor
	h *host
}

func (g seenGuard) Extend(epoch uint64, until clock.Instant) bool {
	extended := g.Supervisor.Extend(epoch, until)
	if extended {
		g.h.w.checker.extended(g.h.name, epoch, until)
	}
	return extended
}

// leftovers are the volumes of an earlier run of which it isn't proven that this
// host can't write to them, as in internal/daemon.
type leftovers struct {
	p *process

	mu  sync.Mutex
	why string // empty: nothing is left
}

const leftoversEvery = 5 * time.Second

func (l *leftovers) run(ctx context.Context, recovery failover.RecoverConfig, wake func()) error {
	for len(l.trouble()) > 0 {
		_ = wait(ctx, leftoversEvery, l.p.dead) // seen below
		if ctx.Err() != nil || l.p.pass() != nil {
			return nil //nolint:nilerr // it is dead, which is no error of its own
		}
		r, err := failover.Recover(ctx, recovery)
		if err != nil {
			r.Unproven = err.Error()
		}
		l.mu.Lock()
		l.why = r.Unproven
		l.mu.Unlock()
	}
	wake()
	return nil
}

func (l *leftovers) trouble() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == "" {
		return nil
	}
	return []string{l.why}
}
