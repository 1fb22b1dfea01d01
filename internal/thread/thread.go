// Package thread runs what changes a thread for good, such as its namespaces, on
// one that ends with it.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Go starts f locked to a thread that ends when f does, and is never the
// process's first. That one can't end (the runtime parks it for ever), and
// /proc/self and /proc/PID show its namespaces as if they were the whole
// process's.
func Go(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		started := make(chan struct{})
		go func() { // can't be the first thread: it is taken until started
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}
