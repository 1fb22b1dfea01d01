package guard

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// Page is the memory that had and its guard share. A renewal is a store into
// it, so that no renewal waits for the guard, and the guard sees the newest one
// at whatever moment it looks.
//
// Invariants: within an epoch the deadline only grows; once the guard has ended
// it, nobody can extend it. Only the guard begins and clears an epoch.
type Page struct {
	*words
	mapped []byte // nil when the page is in this process's own memory
}

// words is the layout of the page.
type words struct {
	// deadline is an instant of CLOCK_BOOTTIME in ns, or one of the values
	// below, neither of which is an instant at which anything can be held.
	deadline atomic.Int64
	// looked is when the guard last looked at the page.
	looked atomic.Int64
	// watchdog is the timeout of the watchdog that the guard feeds, in ns; 0: none.
	watchdog atomic.Int64
}

const (
	nothingHeld = 0
	overForGood = -1
	pageSize    = 4096
)

// NewPage returns a page for a had and a guard in one process: a simulation.
func NewPage() *Page { return &Page{words: new(words)} }

// makePage makes a page that a guard can be given: a memory file, sealed so
// that nobody can cut the ground from under the other (memfd_create(2)).
func makePage() (p *Page, fd int, err error) {
	fd, err = unix.MemfdCreate("had-guard", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, -1, fmt.Errorf("make the page shared with the guard: %w", err)
	}
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		return nil, -1, errors.Join(fmt.Errorf("size the page shared with the guard: %w", err), unix.Close(fd))
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, -1, errors.Join(fmt.Errorf("seal the page shared with the guard: %w", err), unix.Close(fd))
	}
	p, err = mapPage(fd)
	if err != nil {
		return nil, -1, errors.Join(err, unix.Close(fd))
	}
	return p, fd, nil
}

// mapPage maps the page that fd holds.
func mapPage(fd int) (*Page, error) {
	m, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the page shared between had and its guard: %w", err)
	}
	return &Page{words: (*words)(unsafe.Pointer(&m[0])), mapped: m}, nil
}

// unmap gives the mapping back; the page must not be used after it.
func (p *Page) unmap() error {
	if p.mapped == nil {
		return nil
	}
	return unix.Munmap(p.mapped)
}

// begin opens an epoch: the guard's side.
func (p *Page) begin(until clock.Instant) { p.deadline.Store(int64(until)) }

// clear says that nothing is held: the guard's side.
func (p *Page) clear() { p.deadline.Store(nothingHeld) }

// extend moves the deadline to until, never back, unless the guard has ended
// the epoch or none is held: then it reports false. had's side.
func (p *Page) extend(until clock.Instant) bool {
	for {
		d := p.deadline.Load()
		if d <= 0 {
			return false
		}
		if int64(until) <= d || p.deadline.CompareAndSwap(d, int64(until)) {
			return true
		}
	}
}

// due ends the epoch if the clock reads at or after its deadline minus lead,
// and otherwise returns the instant at which it will. After true no extension
// succeeds. The guard's side.
func (p *Page) due(now clock.Instant, lead clock.Instant) (ended bool, at clock.Instant) {
	for {
		d := p.deadline.Load()
		if d <= 0 {
			return d == overForGood, 0
		}
		if at := clock.Instant(d) - lead; now.Before(at) {
			return false, at
		}
		if p.deadline.CompareAndSwap(d, overForGood) {
			return true, 0
		}
	}
}

// look notes that the guard is awake.
func (p *Page) look(now clock.Instant) { p.looked.Store(int64(now)) }

// lastLook returns when the guard last looked; 0 before its first look.
func (p *Page) lastLook() clock.Instant { return clock.Instant(p.looked.Load()) }
