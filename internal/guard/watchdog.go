package guard

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/fence"
)

// Watchdog resets this host unless it is fed in time. A call may take as long as
// the device does.
type Watchdog interface {
	// Arm opens it, which feeds it, and returns how long after it was last fed it
	// resets the host.
	Arm() (timeout time.Duration, err error)
	Feed() error
	// Disarm stops it. An error says that it goes on.
	Disarm() error
}

// feeding is the guard's watchdog.
//
// Invariant: it is armed by a guard that has nothing mounted, and fed only while
// nothing is, or while the lease lives.
type feeding struct {
	armed bool
	busy  chan struct{} // of capacity 1: one feeds at a time
}

// arm arms the watchdog, unless something may be mounted that its reset was to
// end: an earlier guard may have stopped feeding it for that.
func (w *Warden) arm() error {
	switch {
	case w.cfg.Watchdog == nil:
		return errors.New("arm the watchdog: none is configured")
	case w.feeding.armed:
		return nil
	case len(w.disks.all) > 0:
		return fmt.Errorf("arm the watchdog: epoch %d has volumes", w.epoch)
	}
	timeout, err := w.cfg.Watchdog.Arm()
	if err != nil {
		return fmt.Errorf("arm the watchdog: %w", err)
	}
	w.feeding.armed = true
	w.cfg.Page.watchdog.Store(int64(timeout))
	return nil
}

// disarm stops the watchdog, unless an epoch may count on it.
func (w *Warden) disarm() error {
	switch {
	case !w.feeding.armed:
		return nil
	case len(w.disks.all) > 0:
		return fmt.Errorf("stop the watchdog: epoch %d has volumes", w.epoch)
	}
	w.cfg.Page.watchdog.Store(0)
	w.feeding.armed = false
	return w.cfg.Watchdog.Disarm()
}

// feed feeds the watchdog if it may be fed at this instant. A guard that is stopped
// in between feeds late, but once: the next look comes after it (docs/protocol.md,
// "Time as evidence").
func (w *Warden) feed(now clock.Instant) {
	if !w.feeding.armed {
		return
	}
	if len(w.disks.maybe) > 0 || w.disks.work != nil {
		if over, _ := w.cfg.Page.due(now, w.lead()); over {
			return
		}
	}
	select {
	case w.feeding.busy <- struct{}{}:
	default:
		return // the device is slow
	}
	dog, logger, busy := w.cfg.Watchdog, w.cfg.Logger, w.feeding.busy
	go func() { // not joined: a device that hangs must not hold the guard
		defer func() { <-busy }()
		if err := dog.Feed(); err != nil {
			logger.Error("the watchdog was not fed", "error", err)
		}
	}()
}

// unfed stops the watchdog once nothing is left that its reset was to end: what is
// told then may wait for a disk, and nobody feeds.
func (w *Warden) unfed() {
	if !w.feeding.armed {
		return
	}
	w.feeding.armed = false
	dog, logger := w.cfg.Watchdog, w.cfg.Logger
	go func() { // not joined: as feeding; the guard's process stops it once more at its end
		if err := dog.Disarm(); err != nil {
			logger.Error("the watchdog goes on", "error", err)
		}
	}()
}

// WatchdogConfig is the watchdog of this host.
type WatchdogConfig struct {
	Device  string        `json:"device"`
	Timeout time.Duration `json:"timeout"` // to ask the driver for
}

// hostWatchdog implements Watchdog.
type hostWatchdog struct {
	cfg  WatchdogConfig
	lock *mounterLock

	mu   sync.Mutex
	open *fence.Watchdog // nil: it isn't armed
}

// Arm implements Watchdog. It fails while a mounter of an earlier guard lives.
func (h *hostWatchdog) Arm() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open != nil {
		return h.open.Timeout(), nil
	}
	if err := h.lock.take(); err != nil {
		return 0, err
	}
	w, err := fence.OpenWatchdog(h.cfg.Device, h.cfg.Timeout)
	if err != nil {
		return 0, err
	}
	h.open = w
	return w.Timeout(), nil
}

// Feed implements Watchdog.
func (h *hostWatchdog) Feed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		return nil
	}
	return h.open.Feed()
}

// Disarm implements Watchdog.
func (h *hostWatchdog) Disarm() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		return nil
	}
	w := h.open
	h.open = nil
	return w.Close()
}
