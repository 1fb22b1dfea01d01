package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"had/internal/fence"
	"had/storage"
)

// takeDisks takes the disks of volumes. From then on this host may write to them, so
// nothing of them may be mounted here, in particular not by an earlier epoch that
// was driven out: nobody else mounts a volume, and this process doesn't before it
// has returned.
func takeDisks(ctx context.Context, op Op, vs []storage.Volume, key fence.Key) error {
	var devices, disks []string
	for _, v := range vs {
		if err := storage.Unused(ctx, v); err != nil {
			return err
		}
		device, err := storage.DeviceOf(ctx, v)
		if err != nil {
			return err
		}
		on, err := fence.DisksOf(device)
		if err != nil {
			return err
		}
		devices, disks = append(devices, device), append(disks, on...)
	}
	if err := nothingOn(disks); err != nil {
		return err
	}
	if op == OpEvict {
		return fence.Evict(ctx, devices, key)
	}
	return fence.Reserve(devices, key)
}

// nothingOn returns an error while another file system than a volume is mounted from
// one of the disks.
func nothingOn(disks []string) error {
	mounts, err := storage.Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		on, err := fence.DisksOfNumber(m.Major, m.Minor)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has no device, or none any more
		}
		if err != nil {
			return err
		}
		for _, d := range on {
			if slices.Contains(disks, d) {
				return fmt.Errorf("%s is mounted on %s from %s, which is to be reserved: a host takes a disk only while nothing of it is mounted", m.Source, m.Mountpoint, d)
			}
		}
	}
	return nil
}
