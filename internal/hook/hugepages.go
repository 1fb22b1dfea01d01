package hook

import (
	"sync"

	"golang.org/x/sys/unix"
)

// hugePages are what had goes without (cmd/had), but not what scripts start:
// the setting is the process's, and children inherit it, a database too
// (PR_SET_THP_DISABLE(2const)).
type hugePages struct {
	forgone bool // by had, and so to be lent

	mu     sync.Mutex
	starts int // under way
}

// lend runs start, which begins another process, and returns its error. Starts
// don't wait for each other: the file of one may be on a disk that hangs.
func (h *hugePages) lend(start func() error) error {
	if !h.forgone {
		return start()
	}
	h.count(1)
	defer h.count(-1)
	return start()
}

// count counts the starts under way: during any, had has huge pages.
func (h *hugePages) count(change int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.starts += change
	forgo := uintptr(0)
	if h.starts == 0 {
		forgo = 1
	}
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, forgo, 0, 0, 0) // what was set once can be set again
}

func forgone() bool {
	off, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	return err == nil && off != 0
}
