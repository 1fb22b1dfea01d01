package hook

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalName returns a signal's name as "SIGTERM"; the real-time ones, which have
// none of their own (signal(7)), are "SIG34".
func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(s))
}
