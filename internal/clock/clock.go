// Package clock reads CLOCK_BOOTTIME, the only clock a lease may be measured
// with: it is monotonic, no one can set it, and it counts the time a host was
// suspended (clock_gettime(2)). Wall-clock times in had are shown to people
// and never compared.
package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Instant is a reading of one host's CLOCK_BOOTTIME: the time since that host
// booted. Instants of different hosts or boots can't be compared.
type Instant time.Duration

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns how long i is after j; negative when it is before.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Before reports whether i is earlier than j.
func (i Instant) Before(j Instant) bool { return i < j }

// Source reads a clock. Now is the one daemons use; a simulation passes the
// clock of its virtual host.
type Source func() Instant

// Now reads this host's CLOCK_BOOTTIME. The call can't fail on the kernels
// had supports (Linux 2.6.39 and later).
func Now() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Without this clock no lease can be held safely.
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return Instant(ts.Nano())
}

// BootID returns the random ID the kernel drew at boot (random(4)).
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the kernel's boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// CheckNoOffset returns an error when this process is in a time namespace
// that shifts CLOCK_BOOTTIME (time_namespaces(7)): two processes of one host
// would then disagree on a deadline.
func CheckNoOffset() error {
	b, err := os.ReadFile("/proc/self/timens_offsets")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without time namespaces
	}
	if err != nil {
		return fmt.Errorf("read the time namespace's offsets: %w", err)
	}
	return checkOffsets(string(b))
}

// checkOffsets reads lines of "clock-id seconds nanoseconds".
func checkOffsets(text string) error {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "boottime" && (f[1] != "0" || f[2] != "0") {
			return fmt.Errorf("CLOCK_BOOTTIME is shifted by %s.%09s s in this time namespace: leases can't be measured here; run had in the host's own time namespace", f[1], f[2])
		}
	}
	return nil
}

// Slew returns how much faster (positive) or slower than its oscillator this
// host's clocks are made to run at present, as a fraction: 1e-4 is 100 ppm.
// It is what adjtimex(2) has in `tick` and `freq`, which a time daemon sets and
// which changes CLOCK_BOOTTIME as well.
func Slew() (float64, error) {
	var t unix.Timex // modes 0: read only
	if _, err := unix.Adjtimex(&t); err != nil {
		return 0, fmt.Errorf("read the clock's adjustment: %w", err)
	}
	return slew(t.Tick, t.Freq), nil
}

// slew takes tick in µs a USER_HZ (10,000 when nobody adjusts it), freq in
// 2^-16 ppm.
func slew(tick, freq int64) float64 {
	return (1+float64(tick-10_000)/10_000)*(1+float64(freq)/65536/1e6) - 1
}
