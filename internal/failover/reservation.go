package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"had/internal/evidence"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// Reservations are those of the disks that volumes are on, in the hands of the
// guard, which mounts: a host that may write to a disk and has it mounted must not
// be able to get lost in between. guard.Supervisor is one.
type Reservations interface {
	// Reserve takes the disks of all volumes that Hold named, before the first
	// Mount: after nil they refuse everybody else's writes.
	Reserve(ctx context.Context, epoch, key uint64) error
	// Evict takes disks from another epoch's owner: after nil they refuse whatever it
	// writes.
	Evict(ctx context.Context, volumes []storage.Volume, key uint64) error
}

// reservationMark is what the key of an epoch by a policy begins with; 0: it
// reserves no disks.
func (x *executor) reservationMark(p *policy.Policy) uint64 {
	if x.reservations == nil || !slices.Contains(p.Fence.Methods, policy.MethodReservation) {
		return 0
	}
	return x.keyMark
}

// reserve takes the disks of epoch's volumes, if that is in its terms. It comes
// after volumesFree: it would drive out an owner that still unmounts.
func (x *executor) reserve(ctx context.Context, epoch uint64, t *turn) error {
	view, _ := x.log.View()
	key := view.Claim(epoch).GetTerms().GetReservationKey()
	if key == 0 {
		return nil
	}
	return t.timeline.Run("reserve_disks", func() error {
		if !x.keeper.holds(epoch) {
			return errLeaseOver
		}
		ctx, cancel := context.WithTimeout(ctx, mountLimit)
		defer cancel()
		x.doing("reserving the disks")
		if err := x.reservations.Reserve(ctx, epoch, key); err != nil {
			return fmt.Errorf("reserve the disks: %w", err)
		}
		return nil
	})
}

// evict is what takes the disks of a silent owner.
func (c Config) evict() evidence.Evict {
	return func(ctx context.Context, volumes []*hadv1.HeldVolume, key uint64) error {
		if c.Reservations == nil {
			return errors.New("this host has no guard that could take the disks")
		}
		return c.Reservations.Evict(ctx, asStorage(volumes), key)
	}
}
