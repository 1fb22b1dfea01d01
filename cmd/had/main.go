//go:build !manual

// Whether the host has fewer CPUs for it now is nothing to wake up for once a
// second, with reads of cgroup files: that was some 3 % of what an idle owner cost.
//
//go:debug updatemaxprocs=0

// Command had is the high-availability daemon.
package main

import (
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	forgoHugePages()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// forgoHugePages keeps the heap of this process, and of the guard and the
// mounter that it starts, in pages of 4 kB. Where the kernel is set to use
// transparent huge pages always, as Debian's is, a few used bytes fill 2 MB: an
// idle owner's daemon and guard had 19 MB of their own and now have 14. What the
// daemon used before it came to this stays in two such pages, and the guard
// inherits the setting. A kernel without them may refuse.
func forgoHugePages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }
