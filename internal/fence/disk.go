package fence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoReservations says that a device doesn't have SCSI-3 persistent
	// reservations.
	ErrNoReservations = errors.New("it has no SCSI-3 persistent reservations")

	// ErrConflict says that the disk refused because of another's reservation,
	// or because this host isn't registered with the key.
	ErrConflict = errors.New("reservation conflict")

	// ErrSuperseded says that a later epoch has the disk, or who seeks evidence about this one.
	ErrSuperseded = errors.New("a later epoch has the disk")
)

// Reservation is what a disk says about who may write to it.
type Reservation struct {
	Generation uint32 // counts the registrations and preemptions that the disk has seen
	Keys       []Key  // of all that are registered, one for each path of a host
	Holder     Key    // of the one that holds the reservation; 0: nobody does
	Type       byte   // as SPC-4 numbers them; meaningless without a holder
}

// RegistrantsOnly is Write Exclusive, Registrants Only: everybody reads, and
// who is registered writes. SPC-4 and the kernel number it differently.
const (
	RegistrantsOnly       = 5 // SPC-4, table 70
	registrantsOnlyKernel = 3 // PR_WRITE_EXCLUSIVE_REG_ONLY in linux/pr.h
)

// Exclusive reports whether key's host, and no other, may write.
func (r Reservation) Exclusive(key Key) bool {
	return r.Holder == key && r.Type == RegistrantsOnly && len(r.Keys) > 0 &&
		!slices.ContainsFunc(r.Keys, func(k Key) bool { return k != key })
}

// Disk is a whole SCSI disk, or a multipath device of such, opened for its
// persistent reservations alone. Every call waits for the disk's answer, which
// may take as long as the kernel tries (minutes), or for ever.
type Disk struct {
	file  *os.File
	paths []*Disk // of a multipath device
}

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
	d := &Disk{file: f}
	if !isMultipath(at) {
		return d, nil
	}
	paths, err := os.ReadDir(filepath.Join(at, "slaves"))
	for _, p := range paths {
		path, openErr := OpenDisk("/dev/" + strings.ReplaceAll(p.Name(), "!", "/"))
		if err = openErr; err != nil {
			break
		}
		d.paths = append(d.paths, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the paths of %s: %w", path, err), d.Close())
	}
	return d, nil
}

// Close closes the device. Registrations and the reservation stay.
func (d *Disk) Close() error {
	err := d.file.Close()
	for _, p := range d.paths {
		err = errors.Join(err, p.Close())
	}
	return err
}

// byEachPath does something by each path, also if one fails. The kernel would do it
// for a multipath device, but take back all registrations when one fails: the
// reservation's, too, if this host holds it.
func (d *Disk) byEachPath(do func(d *Disk) error) error {
	if len(d.paths) == 0 {
		return do(d)
	}
	var err error
	for _, p := range d.paths {
		err = errors.Join(err, do(p))
	}
	return err
}
