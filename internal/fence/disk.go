package fence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Key is what a host registers at a disk, in one epoch. The zero Key is none.
type Key uint64

// keyMark is in front of an epoch in every key of had's, for people who read
// them ("had" in ASCII), and to tell them from those of others.
const (
	keyMark  Key = 0x686164 << keyShift
	keyShift     = 40
)

// KeyOf returns the key of an epoch. Epochs beyond 2^40 have none of their own;
// one a second would last for 34,000 years.
func KeyOf(epoch uint64) Key { return keyMark | Key(epoch)&(1<<keyShift-1) }

// Epoch returns the epoch of a key of had's.
func (k Key) Epoch() (epoch uint64, ours bool) {
	return uint64(k & (1<<keyShift - 1)), k>>keyShift == keyMark>>keyShift
}

// String returns the key as sg_persist(8) prints it, and its epoch.
func (k Key) String() string {
	if epoch, ours := k.Epoch(); ours {
		return fmt.Sprintf("0x%x (epoch %d)", uint64(k), epoch)
	}
	return fmt.Sprintf("0x%x", uint64(k))
}

var (
	// ErrNoReservations says that a device doesn't have SCSI-3 persistent
	// reservations.
	ErrNoReservations = errors.New("it has no SCSI-3 persistent reservations")

	// ErrConflict says that the disk refused because of another's reservation,
	// or because this host isn't registered with the key.
	ErrConflict = errors.New("reservation conflict")

	// ErrSuperseded says that a later epoch has the disk.
	ErrSuperseded = errors.New("a later epoch has the disk")
)

// Reservation is what a disk says about who may write to it.
type Reservation struct {
	Generation uint32 // counts the registrations and preemptions that the disk has seen
	Keys       []Key  // of all that are registered, one for each path of a host
	Holder     Key    // of the one that holds the reservation; 0: nobody does
	Type       byte   // as SPC-4 numbers them; meaningless without a holder
}

// registrantsOnly is Write Exclusive, Registrants Only: everybody reads, and
// who is registered writes. SPC-4 and the kernel number it differently.
const (
	registrantsOnly       = 5 // SPC-4, table 70
	registrantsOnlyKernel = 3 // PR_WRITE_EXCLUSIVE_REG_ONLY in linux/pr.h
)

// Exclusive reports whether key's host, and no other, may write.
func (r Reservation) Exclusive(key Key) bool {
	return r.Holder == key && r.Type == registrantsOnly && len(r.Keys) > 0 &&
		!slices.ContainsFunc(r.Keys, func(k Key) bool { return k != key })
}

// Disk is a whole SCSI disk, or a multipath device of such, opened for its
// persistent reservations alone. Every call waits for the disk's answer, which
// may take as long as the kernel tries (minutes), or for ever.
type Disk struct{ file *os.File }

// OpenDisk opens a block device. A partition is refused: a reservation is of
// the whole disk.
func OpenDisk(path string) (*Disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("open %s for its reservations: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("open %s for its reservations: it is no block device", path)
	}
	at := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	if _, err := os.Stat(filepath.Join(at, "partition")); err == nil {
		disk := "the disk"
		if device, err := filepath.EvalSymlinks(at); err == nil {
			disk = "/dev/" + filepath.Base(filepath.Dir(device))
		}
		return nil, fmt.Errorf("open %s for its reservations: it is a partition, and only all of %s can be reserved", path, disk)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a disk for its reservations: %w", err)
	}
	return &Disk{file: f}, nil
}

// Close closes the device. Registrations and the reservation stay.
func (d *Disk) Close() error { return d.file.Close() }

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

// Take makes this host the only one that may write to the disk: it registers
// with the key, reserves, and preempts everybody of an earlier epoch. When it
// returns nil the disk has said so.
//
// The key must be that of this host's own open epoch. When a later epoch has
// the disk, or gets it meanwhile, the error is ErrSuperseded. Keys that aren't
// had's are left alone, and are an error. After an error this host isn't
// registered, unless the error says that taking it back failed.
func (d *Disk) Take(key Key, commands UnderWay) error {
	registered, err := d.take(key, commands)
	if err != nil && registered {
		if undo := d.Unregister(key); !errors.Is(undo, ErrConflict) { // which says that it isn't registered any more
			err = errors.Join(err, undo)
		}
	}
	if err != nil {
		return fmt.Errorf("take the disk %s with key %s: %w", d.file.Name(), key, err)
	}
	return nil
}

// take reports whether it has registered this host.
func (d *Disk) take(key Key, commands UnderWay) (registered bool, err error) {
	for range takeRounds {
		now, err := d.Read()
		if err != nil {
			return registered, err
		}
		if now.Exclusive(key) {
			return registered, nil
		}
		if err := now.mayTake(key); err != nil {
			return registered, err
		}
		if !registered {
			if err := d.Register(key); err != nil {
				return false, err
			}
			registered = true
			continue // this may have changed what the disk says
		}
		if err := d.step(now, key, commands); err != nil && !errors.Is(err, ErrConflict) {
			return true, err
		}
	}
	return registered, fmt.Errorf("others register or reserve all the time: %w", ErrConflict)
}

// mayTake refuses to drive out a later epoch, or others than had.
func (r Reservation) mayTake(key Key) error {
	mine, ours := key.Epoch()
	if !ours {
		return errors.New("it isn't had's")
	}
	all := r.Keys
	if r.Holder != 0 {
		all = append(slices.Clone(all), r.Holder)
	}
	for _, k := range all {
		epoch, ours := k.Epoch()
		switch {
		case !ours:
			return fmt.Errorf("key %s is registered, which isn't had's: does other cluster software use this disk? Otherwise remove it: sg_persist --out --clear", k)
		case epoch > mine:
			return fmt.Errorf("key %s is registered: %w", k, ErrSuperseded)
		}
	}
	if r.Holder != 0 && r.Type != registrantsOnly {
		return fmt.Errorf("it is reserved with type %d instead of %d (Write Exclusive, Registrants Only): remove that: sg_persist --out --clear", r.Type, registrantsOnly)
	}
	return nil
}

// step brings the disk closer to being key's alone.
func (d *Disk) step(now Reservation, key Key, commands UnderWay) error {
	if now.Holder == 0 {
		return d.Reserve(key)
	}
	if now.Holder != key {
		return d.Preempt(key, now.Holder, commands)
	}
	for _, k := range now.Keys {
		if k != key {
			return d.Preempt(key, k, commands)
		}
	}
	return d.Register(key) // holds it, but isn't registered
}
