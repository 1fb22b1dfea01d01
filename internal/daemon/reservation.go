package daemon

import (
	"context"
	"fmt"

	"had/cluster"
	"had/internal/fence"
	"had/storage"
)

// keyMark is what this cluster's reservation keys begin with; before it is born
// there are none.
func (l *localState) keyMark() uint64 {
	birth, born := l.identity.Birth()
	if !born {
		return 0
	}
	return cluster.ReservationMark(birth.ID)
}

// checkReservation says why this host could not reserve a volume's disk.
func checkReservation(ctx context.Context, v storage.Volume, mark uint64) error {
	device, err := storage.DeviceOf(ctx, v)
	if err != nil {
		return err
	}
	if err := fence.CheckReservations([]string{device}, fence.Key(mark)); err != nil {
		return fmt.Errorf("volume %s can't be fenced by \"reservation\" here: %w", v.Name, err)
	}
	return nil
}
