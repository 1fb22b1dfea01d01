package daemon

import (
	"context"
	"fmt"
	"slices"

	"had/cluster"
	"had/internal/failover"
	"had/internal/fence"
	"had/internal/policy"
	"had/storage"
)

// keyMark is what this cluster's reservation keys begin with; before it is born
// there are none.
func (l *localState) keyMark() uint64 {
	birth, born := l.identity.Birth()
	if !born {
		return 0
	}
	return cluster.ReservationMark(birth.Origin())
}

// reservationCheck is what is to be known about the disks of a policy's volumes.
func reservationCheck(p *policy.Policy, mark uint64) inspection {
	q := inspection{Op: inspectWrite, Volumes: failover.StorageVolumes(p)}
	if slices.Contains(p.Fence.Methods, policy.MethodReservation) {
		q.Op, q.Mark = inspectReserve, mark
	}
	return q
}

// unreserved says who has reserved a volume's disk, where the policy doesn't: an
// earlier one, most likely. Then this host could mount it and not write.
func unreserved(ctx context.Context, v storage.Volume) error {
	if v.Network() {
		return nil
	}
	device, err := storage.DeviceOf(ctx, v)
	if err != nil {
		return err
	}
	if err := fence.CheckUnreserved([]string{device}); err != nil {
		return fmt.Errorf("volume %s can't be written here: %w", v.Name, err)
	}
	return nil
}

// reservable says why this host could not reserve a volume's disk.
func reservable(ctx context.Context, v storage.Volume, mark uint64) error {
	device, err := storage.DeviceOf(ctx, v)
	if err != nil {
		return err
	}
	if err := fence.CheckReservations([]string{device}, fence.Key(mark)); err != nil {
		return fmt.Errorf("volume %s can't be fenced by \"reservation\" here: %w", v.Name, err)
	}
	return nil
}
