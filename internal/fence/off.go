package fence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Device can switch one host off, and see whether it is off. Its methods may
// be called concurrently. They return when ctx ends.
type Device interface {
	// String names the device as an operator knows it. It holds no secret.
	String() string

	// Off asks the device to switch the host off. Whether it says that it did
	// so proves nothing.
	Off(ctx context.Context) error

	// IsOff asks the device whether the host is off: nil means that it says
	// so. The error is ErrOn when it says the contrary.
	IsOff(ctx context.Context) error

	// Check finds what can be known to be wrong before the device is needed.
	// It switches nothing and doesn't need the device to answer.
	Check(ctx context.Context) error
}

// Level is devices that belong together, such as the outlets of two power
// supplies: the host is off when all of them say so.
type Level []Device

// ErrOn says that a device was asked, and says that the host isn't off.
var ErrOn = errors.New("the host is still on")

const (
	rounds = 3               // how often Off tries all levels
	pause  = 2 * time.Second // between two of them: some boards refuse a second session for a moment
)

// Off switches a host off by the first level that can. It returns nil only
// when every device of one level was asked after all of that level had been
// told to switch off, and said that the host is off. Otherwise the error says
// of each device what it said last; nothing is known about the host then.
//
// A level that fails is followed by the next at once. When all have failed
// they are tried again from the first, three times altogether.
func Off(ctx context.Context, levels ...Level) error {
	if len(levels) == 0 {
		return errors.New("switch a host off: there is no device for it")
	}
	var failed []error
	for round := range rounds {
		if round > 0 && !wait(ctx, pause) {
			break
		}
		failed = failed[:0]
		for i, l := range levels {
			err := l.off(ctx)
			if err == nil {
				return nil
			}
			if len(levels) > 1 {
				err = fmt.Errorf("level %d: %w", i+1, err)
			}
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// off tells all devices of a level to switch off, then asks all.
func (l Level) off(ctx context.Context) error {
	if len(l) == 0 {
		return errors.New("switch a host off: a level without a device proves nothing")
	}
	told := l.each(func(d Device) error { return d.Off(ctx) })
	asked := l.each(func(d Device) error { return d.IsOff(ctx) })
	var failed []error
	for i, err := range asked {
		if err != nil {
			// The cause is often in what it said when told to switch off.
			failed = append(failed, told[i], err)
		}
	}
	return errors.Join(failed...)
}

// each does the same with all devices at once and returns what came of it, in
// the order of the devices.
func (l Level) each(do func(Device) error) []error {
	errs := make([]error, len(l))
	var all sync.WaitGroup
	for i, d := range l {
		all.Go(func() { errs[i] = do(d) })
	}
	all.Wait()
	return errs
}

// Check checks the devices of all levels; see Device.
func Check(ctx context.Context, levels ...Level) error {
	var failed []error
	for _, l := range levels {
		failed = append(failed, l.each(func(d Device) error { return d.Check(ctx) })...)
	}
	return errors.Join(failed...)
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// DeviceError is what went wrong with one device.
type DeviceError struct {
	Device string // as Device.String has it
	Doing  string // a verb phrase
	Said   string // what its program printed last, without secrets, in one line; may be empty
	Err    error
}

// Error says which device, what was tried, what came of it and what it said.
func (e *DeviceError) Error() string {
	s := fmt.Sprintf("%s: %s: %v", e.Device, e.Doing, e.Err)
	if e.Said != "" {
		s += ": it said: " + e.Said
	}
	return s
}

// Unwrap returns the cause.
func (e *DeviceError) Unwrap() error { return e.Err }
