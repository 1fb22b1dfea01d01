package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// message is what the kernel delivered at once.
type message struct {
	at        time.Time // when it was read
	data, oob []byte    // valid only while it is taken
	from      unix.Sockaddr
}

// inbox reads a kernel socket, stamping each message the moment it is read.
type inbox struct {
	sock, stop int // stop is an eventfd
	work       sync.WaitGroup
}

// openInbox takes the socket over, also when it fails.
func openInbox(sock int) (*inbox, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create a stop signal: %w", err), unix.Close(sock))
	}
	return &inbox{sock: sock, stop: stop}, nil
}

// start hands every message to take until close. When reading or take fails,
// it tells failed and reads no more.
func (in *inbox) start(take func(message) error, failed func(error)) {
	in.work.Go(func() {
		if err := in.read(take); err != nil {
			failed(err)
		}
	})
}

func (in *inbox) read(take func(message) error) error {
	buf, oob := make([]byte, 64<<10), make([]byte, 256)
	for {
		fds := []unix.PollFd{{Fd: int32(in.sock), Events: unix.POLLIN}, {Fd: int32(in.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the kernel's messages: %w", err)
		}
		if fds[1].Revents != 0 {
			return nil
		}
		n, oobn, _, from, err := unix.Recvmsg(in.sock, buf, oob, unix.MSG_DONTWAIT)
		at := time.Now()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil { // ENOBUFS: some were dropped
			return fmt.Errorf("read the kernel's messages: %w: the record has a hole, judge nothing by it", err)
		}
		if err := take(message{at: at, data: buf[:n], oob: oob[:oobn], from: from}); err != nil {
			return err
		}
	}
}

// close ends the reader and waits for it.
func (in *inbox) close() {
	// An eventfd's write blocks or fails only near 2^64 (eventfd(2)).
	_, _ = unix.Write(in.stop, binary.NativeEndian.AppendUint64(nil, 1))
	in.work.Wait()
	_ = unix.Close(in.stop)
	_ = unix.Close(in.sock)
}
