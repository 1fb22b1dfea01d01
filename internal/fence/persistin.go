package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PERSISTENT RESERVE IN (SPC-4, 6.15): linux/pr.h had no call for it before
// Linux 7, so it is sent through SG_IO (scsi/sg.h).
const (
	persistIn       = 0x5e
	readKeys        = 0
	readReservation = 1
	reportAbilities = 2

	sgIO         = 0x2285
	fromDevice   = -3
	readBytes    = 8 << 10 // room for 1023 keys
	readTimeout  = 30_000  // ms
	illegal      = 5       // sense key ILLEGAL REQUEST
	unitAttend   = 6       // sense key UNIT ATTENTION
	senseBytes   = 64
	headerBytes  = 8
	fixedSense   = 0x70
	describSense = 0x72
)

// sgHeader is struct sg_io_hdr of scsi/sg.h.
type sgHeader struct {
	interfaceID    int32
	direction      int32
	commandLength  uint8
	maxSense       uint8
	iovecCount     uint16
	dataLength     uint32
	data           unsafe.Pointer
	command        unsafe.Pointer
	sense          unsafe.Pointer
	timeout        uint32
	flags          uint32
	packID         int32
	userPointer    unsafe.Pointer
	status         uint8
	maskedStatus   uint8
	messageStatus  uint8
	senseWritten   uint8
	hostStatus     uint16
	driverStatus   uint16
	residual       int32
	duration, info uint32
}

// Read asks the disk who is registered and who holds the reservation. The error
// is ErrNoReservations for a device that isn't a SCSI disk with them.
func (d *Disk) Read() (Reservation, error) {
	for try := 0; ; try++ {
		r, err := d.read()
		if errors.Is(err, errChanged) && try < callTries {
			continue
		}
		if err != nil {
			return Reservation{}, fmt.Errorf("read the reservations of %s: %w", d.file.Name(), err)
		}
		return r, nil
	}
}

func (d *Disk) read() (Reservation, error) {
	keys, err := d.persistIn(readKeys)
	if err != nil {
		return Reservation{}, err
	}
	held, err := d.persistIn(readReservation)
	if err != nil {
		return Reservation{}, err
	}
	return parseReservation(keys, held)
}

// errChanged says that the two commands saw two generations.
var errChanged = errors.New("they change all the time")

// parseReservation reads the parameter data of both (SPC-4, 6.15.2 and 6.15.3).
func parseReservation(keys, held []byte) (Reservation, error) {
	list, err := persistData(keys)
	if err != nil {
		return Reservation{}, err
	}
	r := Reservation{Generation: binary.BigEndian.Uint32(keys)}
	for ; len(list) >= 8; list = list[8:] {
		r.Keys = append(r.Keys, Key(binary.BigEndian.Uint64(list)))
	}
	if list, err = persistData(held); err != nil {
		return Reservation{}, err
	}
	if binary.BigEndian.Uint32(held) != r.Generation {
		return Reservation{}, errChanged
	}
	if len(list) >= 16 {
		r.Holder, r.Type = Key(binary.BigEndian.Uint64(list)), list[13]&0xf
	}
	return r, nil
}

// persistData returns what follows the header.
func persistData(b []byte) ([]byte, error) {
	if len(b) < headerBytes {
		return nil, fmt.Errorf("an answer of %d bytes is too short", len(b))
	}
	n := binary.BigEndian.Uint32(b[4:])
	if uint64(n) > uint64(len(b)-headerBytes) {
		return nil, fmt.Errorf("an answer of %d bytes is too short for %d", len(b), n)
	}
	return b[headerBytes:][:n], nil
}

// capable returns an error for a disk that says it can't do what Take asks of it.
func (d *Disk) capable() error {
	b, err := d.persistIn(reportAbilities)
	if errors.Is(err, ErrNoReservations) {
		if _, readErr := d.persistIn(readKeys); readErr == nil {
			return nil // it doesn't say; taking it will tell
		}
	}
	if err == nil {
		err = unable(b)
	}
	if err != nil {
		return fmt.Errorf("ask %s what reservations it has: %w", d.file.Name(), err)
	}
	return nil
}

// unable reads the parameter data of REPORT CAPABILITIES (SPC-4, 6.15.4).
func unable(b []byte) error {
	switch {
	case len(b) < headerBytes:
		return fmt.Errorf("an answer of %d bytes is too short", len(b))
	case b[2]&1 == 0: // PTPL_C
		return fmt.Errorf("%w that outlast a loss of its power", ErrNoReservations)
	case b[3]&0x80 != 0 && b[4]&(1<<RegistrantsOnly) == 0: // TMV, the types' mask
		return fmt.Errorf("%w of type %d (Write Exclusive, Registrants Only)", ErrNoReservations, RegistrantsOnly)
	}
	return nil
}

func (d *Disk) persistIn(action byte) ([]byte, error) {
	for try := 0; ; try++ {
		b, key, err := d.sendPersistIn(action)
		if err != nil && key == unitAttend && try < callTries {
			continue
		}
		return b, err
	}
}

// sendPersistIn returns the answer, or an error with its sense key.
func (d *Disk) sendPersistIn(action byte) (answer []byte, senseKey byte, err error) {
	data, sense := make([]byte, readBytes), make([]byte, senseBytes)
	command := [10]byte{persistIn, action}
	binary.BigEndian.PutUint16(command[7:], readBytes)
	h := sgHeader{
		interfaceID: 'S', direction: fromDevice,
		commandLength: uint8(len(command)), command: unsafe.Pointer(&command),
		maxSense: senseBytes, sense: unsafe.Pointer(&sense[0]),
		dataLength: readBytes, data: unsafe.Pointer(&data[0]),
		timeout: readTimeout,
	}
	var pins runtime.Pinner // the kernel finds them through h
	defer pins.Unpin()
	pins.Pin(&command)
	pins.Pin(&data[0])
	pins.Pin(&sense[0])
	if _, err := d.ioctl(sgIO, unsafe.Pointer(&h)); err != nil {
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: it is no SCSI disk: %w", ErrNoReservations, err)
		}
		return nil, 0, err
	}
	switch {
	case h.status == statusConflict:
		return nil, 0, ErrConflict
	case h.status == statusCheck:
		key := senseKeyOf(sense[:min(int(h.senseWritten), senseBytes)])
		if key == illegal {
			return nil, key, ErrNoReservations
		}
		return nil, key, fmt.Errorf("the disk refused (sense key %d)", key)
	case h.status != 0 || h.hostStatus != 0:
		return nil, 0, fmt.Errorf("the disk or the way to it failed (status 0x%x, host status 0x%x)", h.status, h.hostStatus)
	}
	return data[:readBytes-max(0, min(int(h.residual), readBytes))], 0, nil
}

// senseKeyOf reads fixed and descriptor sense data (SPC-4, 4.5).
func senseKeyOf(sense []byte) byte {
	switch {
	case len(sense) > 2 && sense[0]&0x7e == fixedSense:
		return sense[2] & 0xf
	case len(sense) > 1 && sense[0]&0x7e == describSense:
		return sense[1] & 0xf
	}
	return 0
}
