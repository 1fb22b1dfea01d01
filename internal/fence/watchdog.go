package fence

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoWayOut says that a watchdog was closed and goes on.
var ErrNoWayOut = errors.New("it can't be stopped (nowayout)")

// Watchdog resets this host unless it is fed in time. Nothing but Close stops
// it: not the death of the process that has it open.
// (Linux Documentation/watchdog/watchdog-api.rst)
//
// Feed and Close are not safe to be called concurrently.
type Watchdog struct {
	file    *os.File
	look    func() (WatchdogInfo, error)
	info    WatchdogInfo
	timeout time.Duration
}

// OpenWatchdog arms the watchdog, which feeds it: only a process may that knows
// of nothing on this host that the reset was to end. The timeout is what the
// driver makes of the given one, in whole seconds; see Timeout.
//
// A device is refused that this host couldn't rely on: one that stops when its
// process dies, that is known not to reset, or that can't count to the timeout.
func OpenWatchdog(device string, timeout time.Duration) (*Watchdog, error) {
	return openWatchdog(device, timeout, func() (WatchdogInfo, error) { return lookAtWatchdog("/sys", device) })
}

func openWatchdog(device string, timeout time.Duration, look func() (WatchdogInfo, error)) (*Watchdog, error) {
	info, err := look()
	if err == nil {
		err = info.fit(timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("open the watchdog %s: %w", device, err)
	}
	file, err := os.OpenFile(device, os.O_WRONLY, 0)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: another process feeds it, perhaps systemd (RuntimeWatchdogSec= in /etc/systemd/system.conf) or watchdog(8); had needs one of its own", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the watchdog: %w", err)
	}
	w := &Watchdog{file: file, look: look, info: info, timeout: timeout}
	if err := w.negotiate(); err != nil {
		return nil, errors.Join(fmt.Errorf("set the watchdog %s to %s: %w", device, timeout, err), w.Close())
	}
	return w, nil
}

// negotiate sets the timeout and keeps the one that the driver made of it.
func (w *Watchdog) negotiate() error {
	var driver *unix.WatchdogInfo
	var seconds int
	err := w.control(func(fd int) (err error) {
		if driver, err = unix.IoctlGetWatchdogInfo(fd); err != nil {
			return err
		}
		if driver.Options&unix.WDIOF_SETTIMEOUT != 0 {
			if err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(w.timeout/time.Second)); err != nil {
				return err
			}
		}
		seconds, err = unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
		return err
	})
	switch {
	case err != nil:
		return err
	case seconds <= 0:
		return fmt.Errorf("it says that its timeout is %d seconds", seconds)
	case driver.Options&unix.WDIOF_MAGICCLOSE == 0 && !w.info.NoWayOut: // without both, any close stops it
		return errors.New("it would stop when the process that feeds it dies: load its driver with nowayout=1")
	}
	w.timeout = time.Duration(seconds) * time.Second
	return nil
}

func (w *Watchdog) control(do func(fd int) error) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = do(int(fd)) }), err)
}

// Timeout is how long after it was last fed the watchdog resets the host.
func (w *Watchdog) Timeout() time.Duration { return w.timeout }

// Info is what was seen before it was armed.
func (w *Watchdog) Info() WatchdogInfo { return w.info }

// Feed gives this host another timeout.
func (w *Watchdog) Feed() error {
	// Any byte but the magic 'V' feeds and takes back an earlier 'V'.
	if _, err := w.file.Write([]byte{0}); err != nil {
		return fmt.Errorf("feed the watchdog: %w", err)
	}
	return nil
}

// Close stops the watchdog, and looks whether it did. When it goes on the error
// is ErrNoWayOut: the host is reset unless it is opened again in time.
func (w *Watchdog) Close() error {
	_, err := w.file.Write([]byte{'V'})
	if err = errors.Join(err, w.file.Close()); err != nil {
		return fmt.Errorf("stop the watchdog: %w", err)
	}
	now, err := w.look()
	if err == nil && now.Running {
		err = fmt.Errorf("%w: this host will be reset within %s unless had is started again", ErrNoWayOut, w.timeout)
	}
	if err != nil {
		return fmt.Errorf("stop the watchdog %s: %w", w.info.Device, err)
	}
	return nil
}
