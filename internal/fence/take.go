package fence

import (
	"errors"
	"fmt"
	"slices"
)

const takeRounds = 8 // two that take a disk at once settle within a few

// UnderWay says what becomes of the commands of a host that is driven out,
// which the disk has accepted and not yet carried out.
type UnderWay int

const (
	// Abort has the disk abort them.
	Abort UnderWay = iota

	// Finish lets them end by themselves, soon. It is for disks that can't abort: a
	// LIO target for "loopback" or "vhost" hangs over it for ever (Linux 5.13 and
	// later: its PREEMPT AND ABORT waits for the queue that it runs in).
	Finish
)

// Reservable is a disk's side of Take; Disk is one.
type Reservable interface {
	Read() (Reservation, error)
	Register(key Key) error
	Unregister(key Key) error
	Reserve(key Key) error
	Preempt(key, other Key, commands UnderWay) error
}

// Take makes those who are registered with the key, and this host is, the only
// ones that may write to the disk: it registers, reserves, and preempts every lower
// key. When it returns nil the disk has said so.
//
// Nothing of the disk may be mounted on this host, nor become so meanwhile: from
// Take on the host may write. When a higher key of the cluster's has the disk, or
// gets it meanwhile, the error is ErrSuperseded. Keys that aren't this cluster's
// are left alone, and are an error. Where this host holds the reservation after an
// error it keeps it: without any, all that were ever driven out could write.
func (d *Disk) Take(key Key, commands UnderWay) error {
	err := deadPath(d.file.Name())
	if err == nil {
		err = Take(d, key, commands)
	}
	if err != nil {
		return fmt.Errorf("take the disk %s with key %s: %w", d.file.Name(), key, err)
	}
	return nil
}

// Take is Disk.Take for any disk.
func Take(d Reservable, key Key, commands UnderWay) error {
	registered, err := tryTake(d, key, commands)
	if err == nil || !registered {
		return err
	}
	now, readErr := d.Read()
	if readErr != nil || now.Holder == key {
		return errors.Join(err, readErr)
	}
	// It can't become the holder by somebody else's doing.
	if undo := d.Unregister(key); !errors.Is(undo, ErrConflict) { // which says that it isn't registered any more
		err = errors.Join(err, undo)
	}
	return err
}

// tryTake reports whether it has registered this host.
func tryTake(d Reservable, key Key, commands UnderWay) (registered bool, err error) {
	for range takeRounds {
		now, err := d.Read()
		if err != nil {
			return registered, err
		}
		if err := now.mayTake(key); err != nil {
			return registered, err
		}
		if !registered {
			// Also if the key is there: it may be another nexus's, which this
			// host had before it booted.
			if err := d.Register(key); err != nil {
				return false, err
			}
			registered = true
			continue // this may have changed what the disk says
		}
		if now.Exclusive(key) {
			return true, nil
		}
		if err := now.step(d, key, commands); err != nil && !errors.Is(err, ErrConflict) {
			return true, err
		}
	}
	return registered, fmt.Errorf("others register or reserve all the time: %w", ErrConflict)
}

// mayTake refuses to drive out a higher key, or others than this cluster.
func (r Reservation) mayTake(key Key) error {
	if !key.ours() {
		return errors.New("it isn't had's")
	}
	all := r.Keys
	if r.Holder != 0 {
		all = append(slices.Clone(all), r.Holder)
	}
	for _, k := range all {
		switch {
		case !k.ours():
			return fmt.Errorf("key %s is registered, which isn't had's: does other cluster software use this disk? Otherwise remove it: sg_persist --out --clear", k)
		case !k.kin(key):
			return fmt.Errorf("key %s is registered, which is another cluster's of had: if there is no such cluster any more remove it: sg_persist --out --clear", k)
		case k > key:
			return fmt.Errorf("key %s is registered: %w", k, ErrSuperseded)
		}
	}
	if r.Holder != 0 && r.Type != RegistrantsOnly {
		return fmt.Errorf("it is reserved with type %d instead of %d (Write Exclusive, Registrants Only): remove that: sg_persist --out --clear", r.Type, RegistrantsOnly)
	}
	return nil
}

// step brings the disk closer to being key's alone. The holder goes first: then
// there is always one.
func (r Reservation) step(d Reservable, key Key, commands UnderWay) error {
	switch {
	case r.Holder == 0:
		return d.Reserve(key)
	case r.Holder != key:
		return d.Preempt(key, r.Holder, commands)
	}
	for _, k := range r.Keys {
		if k != key {
			return d.Preempt(key, k, commands)
		}
	}
	return d.Register(key) // holds it, but isn't registered
}
