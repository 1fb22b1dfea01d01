package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is the kernel's default capacity of a pipe (pipe(7)): no more than
// this can be left in it by a script that has exited.
const pipeSize = 64 << 10

// longAgo is a deadline that has passed.
func longAgo() time.Time { return time.Unix(1, 0) }

// tail keeps the last limit bytes of what is written to it. Its memory is
// bounded by twice the limit, however much is written.
type tail struct {
	limit int
	buf   []byte
	total uint64
}

func (t *tail) add(p []byte) {
	t.total += uint64(len(p))
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
	}
	if len(t.buf)+len(p) > 2*t.limit {
		t.buf = append(t.buf[:0], t.last(t.limit-len(p))...)
	}
	t.buf = append(t.buf, p...)
}

// last returns at most the last n bytes kept.
func (t *tail) last(n int) []byte {
	return t.buf[max(0, len(t.buf)-n):]
}

// output collects what a script prints.
type output struct {
	tail tail
	r    *os.File
	done chan struct{} // closed when collect has returned
	eof  bool          // valid once done is closed
}

// newOutput returns the collector and the pipe's other end for the script,
// which the caller closes once the script has it.
func newOutput(limit int) (*output, *os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe for a hook's output: %w", err)
	}
	// Only our end is non-blocking. The flag belongs to the open file, so the
	// script would see it on its end, and few scripts expect EAGAIN.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pipe for a hook's output: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	o := &output{
		tail: tail{limit: limit},
		r:    os.NewFile(uintptr(fds[0]), "hook output"),
		done: make(chan struct{}),
	}
	return o, os.NewFile(uintptr(fds[1]), "hook output"), nil
}

// collect reads until nobody holds the other end, or stop is called.
func (o *output) collect() {
	defer close(o.done)
	buf := make([]byte, pipeSize)
	for {
		n, err := o.r.Read(buf)
		o.tail.add(buf[:n])
		if err != nil {
			o.eof = errors.Is(err, io.EOF)
			return
		}
	}
}

// stop ends the collection once the script is gone and takes what it left in
// the pipe. It reports whether processes the script left behind still hold the
// other end; what they print from now on is not the script's.
func (o *output) stop() (held bool, err error) {
	if err := o.r.SetReadDeadline(longAgo()); err != nil {
		return false, fmt.Errorf("stop reading a hook's output: %w", err)
	}
	<-o.done
	if o.eof {
		return false, nil
	}
	if err := o.r.SetReadDeadline(time.Time{}); err != nil {
		return false, fmt.Errorf("read the rest of a hook's output: %w", err)
	}
	raw, err := o.r.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("read the rest of a hook's output: %w", err)
	}
	buf := make([]byte, pipeSize)
	for left := pipeSize; left > 0; {
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, readErr = unix.Read(int(fd), buf[:left])
			return true // never wait: EAGAIN means that the pipe is empty
		})
		switch err := errors.Join(err, readErr); {
		case errors.Is(err, syscall.EAGAIN):
			return true, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("read the rest of a hook's output: %w", err)
		case n == 0:
			return false, nil
		}
		o.tail.add(buf[:n])
		left -= n
	}
	return true, nil
}

// drains reads and discards what services print that a script left running
// with its output as theirs. Without a reader their next line would kill them
// (SIGPIPE), and with one that doesn't read they would hang.
type drains struct {
	mu     sync.Mutex
	files  map[*os.File]struct{}
	closed bool
	wg     sync.WaitGroup
}

// take makes the drains the owner of f.
func (d *drains) take(f *os.File) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		f.Close()
		return
	}
	if d.files == nil {
		d.files = make(map[*os.File]struct{})
	}
	d.files[f] = struct{}{}
	d.wg.Go(func() {
		// Ends with the last writer, or with close.
		_, _ = io.Copy(io.Discard, f)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.files, f)
		f.Close()
	})
}

// close ends all drains and waits until they have ended.
func (d *drains) close() {
	d.mu.Lock()
	d.closed = true
	for f := range d.files {
		f.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}
