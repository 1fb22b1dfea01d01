package fence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// settle is how long the commands of a host that was driven out are waited for
// where the disk can't abort them.
const settle = 5 * time.Second

// Reserve takes the disks of devices with a key, for who will mount them; see
// Disk.Take.
func Reserve(devices []string, key Key) error {
	return each(devices, func(d *Disk, commands UnderWay) error { return d.Take(key, commands) })
}

// Evict takes the disks of devices with a seeker's key. After nil no host writes
// to them that has had one mounted until now, whatever it does.
func Evict(ctx context.Context, devices []string, key Key) error {
	finish := false
	err := each(devices, func(d *Disk, commands UnderWay) error {
		finish = finish || commands == Finish
		return d.Take(key, commands)
	})
	if err != nil || !finish {
		return err
	}
	wait := time.NewTimer(settle)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for what was under way to the disks: %w", context.Cause(ctx))
	}
}

// CheckReservations says why Reserve would fail with keys of front's cluster; nil:
// as far as can be seen without changing anything it wouldn't.
func CheckReservations(devices []string, front Key) error {
	return each(devices, func(d *Disk, _ UnderWay) error {
		if err := errors.Join(deadPath(d.file.Name()), d.capable()); err != nil {
			return err
		}
		now, err := d.Read()
		if err != nil {
			return err
		}
		if err := now.mayTake(front | (1<<keyTurnBits - 1)); err != nil {
			return fmt.Errorf("%s: %w", d.file.Name(), err)
		}
		return nil
	})
}

// CheckUnreserved says who has reserved a disk of devices; nil: nobody has, as far as
// they say.
func CheckUnreserved(devices []string) error {
	return each(devices, func(d *Disk, _ UnderWay) error {
		now, err := d.Read()
		if err != nil || now.Holder == 0 {
			return nil //nolint:nilerr // without reservations there is none
		}
		return fmt.Errorf("%s is reserved with key %s, and the policy's fence has no \"reservation\": clear it as docs/fencing.md says (\"Leaving reservations\")", d.file.Name(), now.Holder)
	})
}

// each does something with every disk of devices.
func each(devices []string, do func(d *Disk, commands UnderWay) error) error {
	var disks []string
	for _, device := range devices {
		below, err := DisksOf(device)
		if err != nil {
			return err
		}
		disks = append(disks, below...)
	}
	slices.Sort(disks)
	for _, path := range slices.Compact(disks) {
		d, err := OpenDisk(path)
		if err != nil {
			return err
		}
		if err := errors.Join(do(d, CommandsOf(path)), d.Close()); err != nil {
			return err
		}
	}
	return nil
}
