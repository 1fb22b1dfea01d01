package token

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells that files in some folders may have changed (inotify(7)). It
// says when to look, never what was changed: events get lost when there are too
// many, and a folder that is replaced brings none.
type Watcher struct {
	file    *os.File
	changed chan struct{} // capacity 1
}

// settle is how long a folder must be quiet before somebody looks: a service
// that writes a file in pieces is done then.
const settle = 100 * time.Millisecond

// NewWatcher returns a watcher of nothing yet. Close, or the end of Run, ends it.
func NewWatcher() (*Watcher, error) {
	// Nonblocking, so that a read waits in the runtime's poller and Close ends it.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for changes of tokens: %w", err)
	}
	return &Watcher{file: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}, nil
}

// Changed receives when something in a watched folder has changed and been quiet
// for a moment since.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Watch adds a folder. One that is watched already, and still is the same, stays
// so.
func (w *Watcher) Watch(dir string) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	added := error(nil)
	err = raw.Control(func(fd uintptr) {
		// What a finished write, a rename into place and a new mode look like.
		const events = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_ATTRIB | unix.IN_ONLYDIR
		_, added = unix.InotifyAddWatch(int(fd), dir, events)
	})
	if err = errors.Join(err, added); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

// Run reads the kernel's events until ctx ends, and closes the watcher.
func (w *Watcher) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.Close() }) // ends the read below
	defer stop()
	events := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.debounce(events)
	}()
	defer func() { close(events); <-done }()
	buffer := make([]byte, 16<<10)
	for {
		_, err := w.file.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("watch for changes of tokens: %w", err), w.file.Close())
		}
		events <- struct{}{}
	}
}

// debounce passes on that there were events once none has come for a while.
func (w *Watcher) debounce(events <-chan struct{}) {
	var quiet <-chan time.Time
	for {
		select {
		case _, more := <-events:
			if !more {
				return
			}
			quiet = time.After(settle)
		case <-quiet:
			quiet = nil
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}
