package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lineReader reads lines of a file that may never end, such as a terminal,
// and yet ends with its context: it asks poll(2) before it reads. The file is
// left as it was, blocking or not.
type lineReader struct {
	file *os.File
	wake int // an eventfd, ready when the context has ended
	rest []byte
	eof  bool
}

func newLineReader(f *os.File) (*lineReader, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a wake-up signal: %w", err)
	}
	return &lineReader{file: f, wake: wake}, nil
}

// next returns the next line without its end; false at the end of the file.
// The error is the context's cause, or what reading ran into.
func (r *lineReader) next(ctx context.Context) (line string, ok bool, err error) {
	stop := context.AfterFunc(ctx, func() {
		// Blocks or fails only near 2^64 (eventfd(2)).
		_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer stop()
	for {
		if head, tail, found := bytes.Cut(r.rest, []byte{'\n'}); found {
			r.rest = tail
			return string(head), true, nil
		}
		if r.eof {
			line, r.rest = string(r.rest), nil
			return line, line != "", nil
		}
		if err := r.read(ctx); err != nil {
			return "", false, err
		}
	}
}

func (r *lineReader) read(ctx context.Context) error {
	fd := int(r.file.Fd())
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(r.wake), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for a command: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if fds[0].Revents == 0 {
		return nil
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case errors.Is(err, unix.EIO): // the terminal is gone, or this is a background job
		n = 0
	case err != nil:
		return fmt.Errorf("read a command: %w", err)
	}
	r.eof = n == 0
	r.rest = append(r.rest, buf[:n]...)
	return nil
}

func (r *lineReader) close() { _ = unix.Close(r.wake) }
