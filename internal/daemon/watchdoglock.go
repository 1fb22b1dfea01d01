package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"had/internal/policy"
)

// A host's watchdog is fed by one guard. Two clusters that name the same device
// would find that out when the second arms it, in the middle of a failover: so each
// daemon holds a lock beside its socket, named after the device, for as long as it
// runs.

// takeWatchdog takes that lock. release is never nil.
func takeWatchdog(f *policy.NodeFile) (release func() error, err error) {
	none := func() error { return nil }
	if f.Watchdog.Device == "" || f.Self().Witness {
		return none, nil
	}
	path := watchdogLock(f)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as for the socket
		return none, fmt.Errorf("create the folder of the watchdog's lock: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return none, fmt.Errorf("open the watchdog's lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return none, errors.Join(watchdogTaken(f, file), file.Close())
	}
	if err == nil {
		err = errors.Join(file.Truncate(0), writeName(file, f.Cluster))
	}
	if err != nil {
		return none, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	return file.Close, nil
}

func writeName(file *os.File, cluster string) error {
	_, err := file.WriteAt([]byte(cluster), 0)
	return err
}

// WatchdogTaken says that another cluster of this host uses the watchdog that a node
// file names, as far as this process may look.
func WatchdogTaken(f *policy.NodeFile) error {
	if f.Watchdog.Device == "" || f.Self().Witness {
		return nil
	}
	file, err := os.Open(watchdogLock(f))
	if err != nil {
		return nil // none has run since this host came up, or only root may look
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return nil // nobody holds it
	}
	return watchdogTaken(f, file)
}

// watchdogTaken names who holds the lock; nil: it is this cluster's own daemon.
func watchdogTaken(f *policy.NodeFile, file *os.File) error {
	name := make([]byte, 256)
	n, _ := file.ReadAt(name, 0) // what can't be read isn't told
	holder := strings.TrimSpace(string(name[:n]))
	if holder == f.Cluster {
		return nil
	}
	return fmt.Errorf("use the watchdog %s: the cluster %q on this host has it, and one watchdog serves one cluster: name another device in watchdog { device = … } of one of them (ls /dev/watchdog*), or leave the block out where no fence counts on it", f.Watchdog.Device, holder)
}

// watchdogLock is the lock of the device, by whatever name it is called.
func watchdogLock(f *policy.NodeFile) string {
	return filepath.Join(filepath.Dir(f.Socket), strings.ReplaceAll(strings.TrimPrefix(watchdogID(f.Watchdog.Device), "/"), "/", "-")+".lock")
}

// watchdogID is the kernel's name for the device, else its path. /dev/watchdog is
// watchdog0 for old programs (watchdog-api in the kernel's documentation).
func watchdogID(device string) string {
	if path, err := filepath.EvalSymlinks(device); err == nil {
		device = path
	}
	if device == "/dev/watchdog" {
		return "/dev/watchdog0"
	}
	return device
}
