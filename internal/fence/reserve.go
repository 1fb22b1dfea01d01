package fence

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls and structures of linux/pr.h.
const (
	iocRegister     = 1<<30 | 24<<16 | 'p'<<8 | 200
	iocReserve      = 1<<30 | 16<<16 | 'p'<<8 | 201
	iocRelease      = 1<<30 | 16<<16 | 'p'<<8 | 202
	iocPreempt      = 1<<30 | 24<<16 | 'p'<<8 | 203
	iocPreemptAbort = 1<<30 | 24<<16 | 'p'<<8 | 204
	iocClear        = 1<<30 | 16<<16 | 'p'<<8 | 205

	ignoreKey = 1 // PR_FL_IGNORE_KEY
)

type (
	prReservation struct {
		key         uint64
		kind, flags uint32
	}
	prRegistration struct {
		oldKey, newKey uint64
		flags, pad     uint32
	}
	// What linux/pr.h calls old_key is this host's own, and new_key the one that
	// is driven out, whatever its documentation says: SCSI and NVMe take them so.
	prPreempt struct {
		ownKey, otherKey uint64
		kind, flags      uint32
	}
	prClear struct {
		key        uint64
		flags, pad uint32
	}
)

// Register registers this host with the key, in place of any that it had
// registered, by all of its paths. If it held the reservation it still does, also
// after an error, when some are registered and some aren't.
func (d *Disk) Register(key Key) error {
	return d.byEachPath(func(d *Disk) error {
		arg := prRegistration{newKey: uint64(key), flags: ignoreKey}
		return d.reserveCall("register key "+key.String(), iocRegister, unsafe.Pointer(&arg))
	})
}

// Unregister takes this host's registration away, and its reservation.
func (d *Disk) Unregister(key Key) error {
	return d.byEachPath(func(d *Disk) error {
		arg := prRegistration{oldKey: uint64(key)}
		return d.reserveCall("unregister key "+key.String(), iocRegister, unsafe.Pointer(&arg))
	})
}

// Reserve reserves the disk for those who are registered, of whom this host is
// one with the key: only they may write. It is no error if they have it.
func (d *Disk) Reserve(key Key) error {
	arg := prReservation{key: uint64(key), kind: registrantsOnlyKernel}
	return d.reserveCall("reserve with key "+key.String(), iocReserve, unsafe.Pointer(&arg))
}

// Release gives the reservation back. This host stays registered.
func (d *Disk) Release(key Key) error {
	arg := prReservation{key: uint64(key), kind: registrantsOnlyKernel}
	return d.reserveCall("release with key "+key.String(), iocRelease, unsafe.Pointer(&arg))
}

// Preempt drives out whoever is registered with the other key. If it held the
// reservation this host, registered with the key, holds it from then on.
func (d *Disk) Preempt(key, other Key, commands UnderWay) error {
	request := uintptr(iocPreemptAbort)
	if commands == Finish {
		request = iocPreempt
	}
	arg := prPreempt{ownKey: uint64(key), otherKey: uint64(other), kind: registrantsOnlyKernel}
	return d.reserveCall(fmt.Sprintf("preempt key %s with key %s", other, key), request, unsafe.Pointer(&arg))
}

// Clear takes away the reservation and all registrations, of every host. This
// host must be registered with the key.
func (d *Disk) Clear(key Key) error {
	arg := prClear{key: uint64(key)}
	return d.reserveCall("clear with key "+key.String(), iocClear, unsafe.Pointer(&arg))
}

const (
	callTries = 5 // a disk answers the first command after a change with "unit attention"

	// What the calls return besides 0 and errno: a SCSI status in the lowest
	// byte, notes of the kernel's in the next, and the state of the way to the
	// disk above. Since Linux 6.4 it is a pr_status, which reads the same.
	statusMask     = 0xff00ff
	statusCheck    = 0x02
	statusConflict = 0x18
)

func (d *Disk) reserveCall(doing string, request uintptr, arg unsafe.Pointer) error {
	var status uintptr
	var err error
	for range callTries {
		status, err = d.ioctl(request, arg)
		if status &= statusMask; err != nil || status != statusCheck {
			break
		}
	}
	switch {
	case err == nil && status == 0:
		return nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: %w", ErrNoReservations, err)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: it must be a whole disk, and had must run as root", err)
	case err != nil:
	case status == statusConflict:
		err = ErrConflict
	default:
		err = fmt.Errorf("the disk or the way to it failed (status 0x%x; dmesg says more)", status)
		// A disk that doesn't know the command fails in the same way.
		if _, readErr := d.Read(); errors.Is(readErr, ErrNoReservations) {
			err = ErrNoReservations
		}
	}
	return fmt.Errorf("%s at %s: %w", doing, d.file.Name(), err)
}

// ioctl returns what the kernel returned: these calls fail with positive
// numbers, too.
func (d *Disk) ioctl(request uintptr, arg unsafe.Pointer) (uintptr, error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var r uintptr
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		for {
			if r, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)); errno != unix.EINTR {
				return
			}
		}
	})
	runtime.KeepAlive(arg)
	if err == nil && errno != 0 {
		err = errno
	}
	return r, err
}
