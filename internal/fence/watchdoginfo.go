package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// WatchdogInfo is what can be known of a watchdog without opening it, which
// would arm it. (Linux Documentation/ABI/testing/sysfs-class-watchdog)
type WatchdogInfo struct {
	Device   string        // its path
	Identity string        // of the driver or of the device
	Timeout  time.Duration // as it is set now
	Min, Max time.Duration // 0: the driver doesn't say
	Running  bool          // somebody has armed it
	NoWayOut bool          // once armed it can't be stopped
	Reset    bool          // it caused this host's last reset; few drivers know
	Disarmed string        // why it wouldn't reset this host; empty when nothing is known against it
}

// LookAtWatchdog tells about a watchdog and changes nothing.
func LookAtWatchdog(device string) (WatchdogInfo, error) {
	info, err := lookAtWatchdog("/sys", device)
	if err != nil {
		return WatchdogInfo{}, fmt.Errorf("look at the watchdog %s: %w", device, err)
	}
	return info, nil
}

// legacyMajor and legacyMinor are of /dev/watchdog, which is watchdog0 under an
// older name (Linux drivers/watchdog/watchdog_dev.c).
const (
	legacyMajor = 10
	legacyMinor = 130
)

func lookAtWatchdog(sys, device string) (WatchdogInfo, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return WatchdogInfo{}, fmt.Errorf("%w: load the driver of this host's watchdog, or softdog (modprobe softdog)", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return WatchdogInfo{}, errors.New("it is no character device")
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	dir := filepath.Join(sys, "dev/char", fmt.Sprintf("%d:%d", major, minor))
	if major == legacyMajor && minor == legacyMinor {
		dir = filepath.Join(sys, "class/watchdog/watchdog0")
	}
	a := attributes{dir: dir}
	info := WatchdogInfo{
		Device:   device,
		Identity: a.text("identity"),
		Timeout:  a.seconds("timeout"),
		Min:      a.limit("min_timeout"),
		Max:      a.limit("max_timeout"),
		Running:  a.text("state") == "active",
		NoWayOut: a.number("nowayout", 10) != 0,
		Reset:    a.number("bootstatus", 10)&unix.WDIOF_CARDRESET != 0,
	}
	if len(a.failed) > 0 {
		return WatchdogInfo{}, fmt.Errorf("it is no watchdog, or its driver doesn't tell about it: %w", errors.Join(a.failed...))
	}
	if b, err := os.ReadFile(filepath.Join(sys, "module/softdog/parameters/soft_noboot")); err == nil &&
		info.Identity == "Software Watchdog" && strings.TrimSpace(string(b)) != "0" {
		info.Disarmed = "softdog was loaded with soft_noboot=1, so that it only logs"
	}
	return info, nil
}

// fit says why this host can't rely on the watchdog with a timeout.
func (i WatchdogInfo) fit(timeout time.Duration) error {
	switch {
	case i.Disarmed != "":
		return fmt.Errorf("it resets nothing: %s", i.Disarmed)
	case timeout < time.Second:
		return fmt.Errorf("timeout %s: it counts whole seconds, at least 1s", timeout)
	case timeout < i.Min:
		return fmt.Errorf("timeout %s: it can't count less than %s", timeout, i.Min)
	case i.Max > 0 && timeout > i.Max:
		return fmt.Errorf("timeout %s: it can't count more than %s", timeout, i.Max)
	}
	return nil
}

// attributes reads the files of one device below /sys.
type attributes struct {
	dir    string
	failed []error
}

func (a *attributes) text(name string) string {
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.failed = append(a.failed, err)
	}
	return strings.TrimSpace(string(b))
}

func (a *attributes) number(name string, base int) uint64 {
	text := a.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, base, 64)
	if err != nil {
		a.failed = append(a.failed, fmt.Errorf("%s: %w", name, err))
	}
	return n
}

func (a *attributes) seconds(name string) time.Duration {
	return time.Duration(a.number(name, 10)) * time.Second
}

// limit reads what older kernels don't tell.
func (a *attributes) limit(name string) time.Duration {
	if _, err := os.Stat(filepath.Join(a.dir, name)); errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return a.seconds(name)
}
