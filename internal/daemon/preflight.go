package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/failover"
	"had/internal/fence"
	"had/internal/policy"
)

// preflight looks whether this host could mount a policy's volumes, and could
// switch the other nodes off: before it has to. A look may take long, so whoever
// asks gets what the last one found, and has the next one begun.
type preflight struct {
	volumes func(ctx context.Context, p *policy.Policy) []string
	fences  func(ctx context.Context, p *policy.Policy) []string
	now     clock.Source
	wanted  chan struct{} // capacity 1

	mu    sync.Mutex
	of    *policy.Policy // what is asked for
	found findings       // zero: nothing was looked at yet
}

type findings struct {
	of      *policy.Policy
	at      clock.Instant
	volumes []string // why this host could not mount them, whole sentences
	fences  []string // why it could not switch another node off, likewise
}

const (
	preflightEvery = 20 * time.Second
	preflightLimit = 15 * time.Second
)

func newPreflight(self string, others func() []string, look *inspector, mark uint64, now clock.Source) *preflight {
	p := &preflight{now: now, wanted: make(chan struct{}, 1)}
	p.volumes = func(ctx context.Context, pol *policy.Policy) []string {
		wrong, err := look.ask(ctx, inspection{Op: inspectCheck, Volumes: failover.StorageVolumes(pol)})
		if err == nil && len(wrong) == 0 {
			wrong, err = look.ask(ctx, reservationCheck(pol, mark))
		}
		if err != nil {
			return []string{err.Error()}
		}
		return wrong
	}
	p.fences = func(ctx context.Context, pol *policy.Policy) (out []string) {
		for _, node := range others() {
			for _, m := range pol.Fence.Methods {
				levels, err := fenceLevels(pol.Fence, m, node)
				if err != nil || node == self {
					continue // the policy was checked: another method has it
				}
				if err := fence.Check(ctx, levels...); err != nil {
					out = append(out, "it could not switch "+node+" off: "+err.Error())
				}
			}
		}
		return out
	}
	return p
}

// run looks whenever it is asked and the last look is too old.
func (p *preflight) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wanted:
		}
		p.mu.Lock()
		of := p.of
		fresh := p.found.of == of && p.now().Sub(p.found.at) < preflightEvery
		p.mu.Unlock()
		if fresh {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, preflightLimit)
		f := findings{of: of, volumes: p.volumes(limited, of), fences: p.fences(limited, of)}
		cancel()
		f.at = p.now()
		p.mu.Lock()
		p.found = f
		p.mu.Unlock()
	}
}

// CheckVolumes says why this host could not mount a policy's volumes, as far as is
// known. What isn't known yet keeps nobody from trying.
func (p *preflight) CheckVolumes(of *policy.Policy) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of = of
	select {
	case p.wanted <- struct{}{}:
	default:
	}
	if p.found.of != of {
		return nil
	}
	return slices.Clone(p.found.volumes)
}

// problems says why this host could not switch another node off.
func (p *preflight) problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.found.fences)
}
