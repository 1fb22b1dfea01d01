package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/gate"
	"had/internal/hook"
	"had/internal/logs"
	"had/internal/peer"
	"had/vip"
)

// Descriptors that had hands to its guard, beside the standard ones.
const (
	socketFD = 3 + iota // SOCK_SEQPACKET: requests and answers
	pageFD              // the memory file of Page
	hadFD               // a pidfd of had
)

// setupPatience bounds the start.
const setupPatience = 5 * time.Second

// Main is the guard's process. It returns nil when there is nothing left to
// guard: had has closed it in an orderly way, or had has died and everything
// is given back.
func Main(stderr io.Writer) error {
	// had's death or its Close end a guard, nothing else: whoever stops a
	// service stops all its processes at once. SIGPIPE would come from logging
	// to a terminal that is gone.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	// It was started as /proc/self/exe, which would make "exe" its name in ps(1).
	if err := os.WriteFile("/proc/self/comm", []byte("had-guard"), 0); err != nil {
		return fmt.Errorf("name the guard's process: %w", err)
	}
	conn, err := openSocket(socketFD)
	if err != nil {
		return fmt.Errorf("open the socket to had (had starts its guard itself, nobody else can): %w", err)
	}
	defer func() { _ = conn.Close() }() // had sees the process end
	s, err := readSetup(conn)
	if err != nil {
		return err
	}
	g, err := open(s, stderr)
	if err != nil {
		return errors.Join(err, send(conn, ready{Failed: err.Error()}))
	}
	defer g.close()
	if err := send(conn, ready{Shortfalls: harden()}); err != nil {
		return err
	}
	return g.run(conn)
}

func openSocket(fd uintptr) (*net.UnixConn, error) {
	f := os.NewFile(fd, "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is a %T", fd, c), c.Close())
	}
	return u, nil
}

func readSetup(conn *net.UnixConn) (s setup, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(setupPatience)); err != nil {
		return s, err
	}
	buf := make([]byte, maxMessage+1)
	n, err := conn.Read(buf)
	if err != nil {
		return s, fmt.Errorf("read what the guard is to know: %w", err)
	}
	if err := decode(buf[:n], &s); err != nil {
		return s, err
	}
	return s, errors.Join(s.check(), conn.SetReadDeadline(time.Time{}))
}

// sendPatience bounds a write to a had that is stopped.
const sendPatience = time.Second

func send(conn *net.UnixConn, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
		return err
	}
	_, err = conn.Write(data)
	return err
}

// process is what the guard has open.
type process struct {
	setup     setup
	page      *Page
	had       *os.File // pidfd
	lock      *os.File
	addresses *vip.Manager
	gate      *gate.Control // nil: there is none
	mounters  *mounters
	services  *services     // nil: there are no control groups
	watchdog  *hostWatchdog // nil: there is none
	alarm     *bootAlarm
	logs      *logWriter
	logger    hclog.Logger
	dialer    *peer.Dialer
	files     *peer.TLSFiles // nil: without TLS
	identity  *peer.Identity
}

func open(s setup, stderr io.Writer) (_ *process, err error) {
	g := &process{setup: s, logs: newLogWriter(stderr)}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.logger = logs.New(logs.Config{Name: "had.guard", Level: hclog.LevelFromString(s.LogLevel), JSON: s.LogJSON, Journal: s.LogJournal, Output: g.logs}).Logger()
	if g.page, err = mapPage(pageFD); err != nil {
		return nil, err
	}
	if err := syscall.SetNonblock(hadFD, true); err != nil { // what makes os.NewFile use the poller
		return nil, fmt.Errorf("watch had's process: %w", err)
	}
	g.had = os.NewFile(hadFD, "pidfd")
	if g.lock, err = lockAsGuard(s.DataDir); err != nil {
		return nil, err
	}
	if g.identity, err = peer.ReadIdentity(s.DataDir, s.Cluster, s.Node, s.Members); err != nil {
		return nil, err
	}
	if s.TLS != nil {
		if g.files, err = peer.LoadTLS(s.TLS.CA, s.TLS.Cert, s.TLS.Key, s.Node); err != nil {
			return nil, err
		}
		g.files.Freeze() // later there may be no disk
	}
	g.dialer = peer.NewDialer(peer.DialerConfig{Identity: g.identity, TLS: g.files, Logger: g.logger, Version: s.Version})
	// It only removes: the lifetime of what it adds doesn't matter.
	if g.addresses, err = vip.New(vip.Config{Lifetime: time.Second}); err != nil {
		return nil, err
	}
	if s.Gate != "" {
		if g.gate, err = gate.Find(gate.Config{Name: s.Gate, Logger: g.logger}); err != nil {
			return nil, fmt.Errorf("find the gate that had has opened: %w", err)
		}
	}
	if err := g.openVolumes(); err != nil {
		return nil, err
	}
	g.alarm, err = newAlarm()
	return g, err
}

// openVolumes opens what volumes take. Until one is held that is a file, and no
// process.
func (g *process) openVolumes() error {
	lock, err := openMounterLock(g.setup.DataDir)
	if err != nil {
		return err
	}
	g.mounters = newMounters("", lock, ownGroup())
	g.mounters.within = g.setup.Margin / 2
	if g.setup.Watchdog != nil {
		g.watchdog = &hostWatchdog{cfg: *g.setup.Watchdog, lock: lock}
	}
	s, err := servicesOf(g.setup.DataDir)
	if err != nil {
		g.logger.Debug("hooks get no control groups", "error", err)
		return nil
	}
	g.services = &s
	return nil
}

// close writes the last lines of the log. The kernel frees the rest.
func (g *process) close() { g.logs.close() }

// run serves had until there is nothing left to guard.
func (g *process) run(conn *net.UnixConn) error {
	cfg := WardenConfig{
		Instance: g.setup.instance(), Margin: g.setup.Margin, Page: g.page, Now: clock.Now, Alarm: g.alarm,
		Kernel: g.addresses, Kill: hook.KillOrphan, Spool: folder(g.setup.DataDir), Logger: g.logger,
		Teller: &peers{names: g.identity.Others, dial: g.dialer.DialRPC, logger: g.logger},
	}
	if g.gate != nil {
		cfg.Gate = g.gate
	}
	cfg.Volumes = g.mounters
	if g.services != nil {
		cfg.Services = g.services
	}
	if g.watchdog != nil {
		cfg.Watchdog = g.watchdog
	}
	w := NewWarden(cfg)
	calls := make(chan Call)
	died := make(chan struct{})
	failed := make(chan error, 1)
	served := make(chan struct{})
	over := make(chan struct{})
	go func() {
		if err := untilExit(g.had); err != nil {
			failed <- err
			return
		}
		// What had said before is in the socket: that nothing is left of an
		// epoch, or that a script runs.
		timer := time.NewTimer(hearPatience)
		defer timer.Stop()
		select {
		case <-served:
		case <-timer.C:
		}
		close(died)
	}()
	go func() {
		defer close(served)
		g.serve(conn, calls, over)
	}()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		select {
		case err := <-failed:
			cancel(err) // a guard that can't see had's death is none
		case <-ctx.Done():
		}
	}()
	err := w.Run(ctx, calls, died)
	if err == nil && g.watchdog != nil { // nothing is left to guard
		if err := g.watchdog.Disarm(); err != nil {
			g.logger.Error("the watchdog goes on", "error", err)
		}
	}
	g.mounters.Rest()
	close(over)
	// The answer to had's Close is still on its way.
	if e := conn.SetReadDeadline(time.Unix(1, 0)); e == nil {
		<-served
	}
	return err
}

// hearPatience bounds the wait for the end of a dead had's socket, which comes
// with its death unless another process has the socket too.
const hearPatience = 100 * time.Millisecond

// serve passes had's requests on until the socket ends, fast ones one at a time.
// That had closed it proves nothing: had may live on, so the guard does too.
func (g *process) serve(conn *net.UnixConn, calls chan<- Call, over <-chan struct{}) {
	var slow sync.WaitGroup // answers that are being sent
	defer slow.Wait()
	buf := make([]byte, maxMessage+1)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // had died with an answer unread, and what it sent comes now (unix_release_sock in the Linux sources)
		}
		if err != nil {
			return
		}
		m, err := decodeMessage(buf[:n])
		if err != nil {
			// had malfunctions. Nothing is dropped and nothing is held for a
			// message that may mean anything; the lease's end comes all the same.
			g.logger.Error("had sent what is no request; nothing is changed by it", "error", err)
			g.answer(conn, m.Number, err)
			continue
		}
		if m.Request.Op == OpCertify {
			g.answer(conn, m.Number, g.certify(m.Request.TLS))
			continue
		}
		if m.Request.Op == OpEnrol {
			g.answer(conn, m.Number, g.enrol(m.Request.Members))
			continue
		}
		done := make(chan error, 1)
		c := Call{Request: m.Request, Reply: func(err error) { done <- err }}
		if m.Request.Slow() {
			c.Reply = func(err error) { slow.Go(func() { g.answer(conn, m.Number, err) }) }
		}
		select {
		case calls <- c:
		case <-over:
			return
		}
		if !m.Request.Slow() {
			g.answer(conn, m.Number, <-done)
		}
	}
}

func (g *process) answer(conn *net.UnixConn, number uint64, err error) {
	a := answer{Number: number}
	if err != nil {
		a.Refused, a.NotMounted = err.Error(), errors.Is(err, ErrNotMounted)
	}
	if err := send(conn, a); err != nil {
		g.logger.Warn("had was not answered", "error", err)
	}
}

// untilExit returns nil when the process of the pidfd has ended: all its
// threads, and with them every system call they were in (pidfd_open(2)).
func untilExit(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch had's process: %w", err)
	}
	if err := raw.Read(exited); err != nil {
		return fmt.Errorf("watch had's process: %w", err)
	}
	return nil
}
