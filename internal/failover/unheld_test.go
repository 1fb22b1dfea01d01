package failover

import (
	"context"
	"errors"
	"testing"
	"time"

	"had/internal/clock"
	"had/storage"
	"had/vip"
)

// deafGuard doesn't take an epoch, and knows nothing of one that it wasn't told of.
type deafGuard struct{ Volumes }

func (deafGuard) Hold(context.Context, uint64, []vip.Address, []storage.Volume) error {
	return errors.New("the guard doesn't answer")
}
func (deafGuard) Extend(uint64, clock.Instant) bool  { return true }
func (deafGuard) Drop(context.Context, uint64) error { return nil }
func (deafGuard) Alive() error                       { return nil }

func (deafGuard) Unmount(context.Context, uint64, string) error { return errors.New("not held") }
func (deafGuard) Secure(context.Context, uint64) error          { return errors.New("not held") }

// What the guard was never asked to mount isn't mounted: an epoch that ends before
// that is released like any other.
func TestWhatWasNeverAskedForNeedsNoProof(t *testing.T) {
	run(t, func(r *rig) {
		g := deafGuard{}
		r.controller.holder.guard = g
		r.controller.executor.mounts.guard = g
		r.policy("", withVolumes)
		time.Sleep(time.Second)
		rel := r.releases()
		if v, _ := r.log.View(); len(v.Open) != 0 || len(rel) != 1 || rel[0].GetForced() || r.journal.tenure != nil {
			t.Errorf("open %v, releases %v, tenure %v: %s", v.Open, rel, r.journal.tenure, r.controller.Why())
		}
	})
}
