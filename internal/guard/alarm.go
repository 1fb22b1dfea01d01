package guard

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// bootAlarm is an alarm by CLOCK_BOOTTIME, which the runtime's own timers
// don't follow: they stand still while the host is suspended.
type bootAlarm struct {
	fd   int
	file *os.File // fd, in the runtime's poller
	c    chan struct{}
}

// newAlarm returns an alarm for as long as the process lives.
func newAlarm() (*bootAlarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &bootAlarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd"), c: make(chan struct{}, 1)}
	go a.run()
	return a, nil
}

func (a *bootAlarm) run() {
	var expirations [8]byte
	for {
		if _, err := a.file.Read(expirations[:]); err != nil {
			panic(fmt.Sprintf("wait for a timer: %v", err)) // a guard that can't be woken is none
		}
		select {
		case a.c <- struct{}{}:
		default:
		}
	}
}

// Set implements Alarm.
func (a *bootAlarm) Set(at clock.Instant) {
	// Zero would disarm it; an instant that has passed fires at once.
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(at, 1)))}
	if err := unix.TimerfdSettime(a.fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		panic(fmt.Sprintf("set a timer to %d ns: %v", at, err)) // only a value out of range does
	}
}

// C implements Alarm.
func (a *bootAlarm) C() <-chan struct{} { return a.c }
