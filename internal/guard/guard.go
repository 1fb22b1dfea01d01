package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// Config is what a guard is started with.
type Config struct {
	Cluster  string
	Instance *hadv1.Instance // of this run of had
	DataDir  string          // with the identity of a node that is born
	Members  []peer.Member   // had.hcl's whole list
	TLS      *TLSPaths       // nil: none, as had's own port
	Version  string
	Watchdog *WatchdogConfig // nil: this host has none
	Gate     string          // name of the daemon's packet gate, open when the guard starts; "": none

	Margin time.Duration // how long before a lease's end had itself begins to give up; see Lead

	Logger     hclog.Logger
	LogLevel   hclog.Level // of the guard's own lines on Stderr
	LogJSON    bool
	LogJournal bool     // Stderr is read by systemd's journal
	Stderr     *os.File // nil: os.Stderr. It must not be a pipe that had itself reads.

	Exe  string   // program to start; "" is this process's own
	Args []string // its arguments; nil is "guard"
}

// Guard is a running guard.
type Guard struct {
	*Client
	conn       *net.UnixConn
	pid        int
	kill       func() error
	died       chan struct{}
	exit       error // why it ended; set before died is closed
	shortfalls []string
	group      *group // nil: it is in had's own

	mu      sync.Mutex
	number  uint64
	waiting map[uint64]chan error
}

// Simulated returns a guard whose process is simulated: it shares the page,
// answers what ask carries to it, ends by kill, and closes died when it has
// ended.
func Simulated(page *Page, ask func(ctx context.Context, r Request) error, kill func() error, died chan struct{}, now clock.Source) *Guard {
	return &Guard{Client: NewClient(page, ask, now), kill: kill, died: died, exit: errDied}
}

// askPatience bounds the wait for the guard's answer: it answers in well under
// a millisecond.
const askPatience = time.Second

var (
	// errDied is the cause of what fails because the guard has ended.
	errDied = errors.New("the guard has died")
	// errNothingLeft: it ended because it had nothing left to guard.
	errNothingLeft = fmt.Errorf("%w: it had nothing left to guard", errDied)
)

// Start starts a guard of this process. After nil it guards: it has answered.
func Start(ctx context.Context, cfg Config) (_ *Guard, err error) {
	page, pageFile, err := makePage()
	if err != nil {
		return nil, err
	}
	files := []*os.File{os.NewFile(uintptr(pageFile), "page")}
	defer func() { closeAll(files) }()
	had, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open this process for the guard to watch: %w", err), page.unmap())
	}
	files = append(files, os.NewFile(uintptr(had), "pidfd"))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket to the guard: %w", err), page.unmap())
	}
	files = append(files, os.NewFile(uintptr(pair[1]), "socket"))
	conn, err := openSocket(uintptr(pair[0]))
	if err != nil {
		return nil, errors.Join(err, page.unmap())
	}
	g := &Guard{conn: conn, died: make(chan struct{}), waiting: map[uint64]chan error{}}
	g.Client = NewClient(page, g.request, clock.Now)
	if err := g.spawn(cfg, files[2], files[0], files[1]); err != nil {
		return nil, errors.Join(err, conn.Close(), page.unmap())
	}
	if err := g.introduce(ctx, cfg); err != nil {
		err = errors.Join(fmt.Errorf("start the guard: %w", err), g.kill())
		<-g.died
		return nil, err
	}
	go g.receive()
	return g, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // the guard has its own
	}
}

// spawn starts the process.
func (g *Guard) spawn(cfg Config, socket, page, had *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the guard's standard input: %w", err)
	}
	defer null.Close()
	stderr := cfg.Stderr
	if stderr == nil {
		stderr = os.Stderr //nolint:forbidigo // handed to the child, not written to
	}
	exe, args := cfg.Exe, cfg.Args
	if exe == "" {
		exe = "/proc/self/exe" // also when the file was replaced by a newer one
	}
	if args == nil {
		args = []string{"guard"}
	}
	attr := &os.ProcAttr{
		Dir: "/",
		// Nothing of had's environment: it may carry the mark of a hook script
		// that started had. What the guard's heap grew to stays locked, so it
		// collects garbage early; its live heap is 2 MB.
		Env:   []string{"GOGC=20", "GOMEMLIMIT=16MiB"},
		Files: []*os.File{null, null, stderr, socket, page, had},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	group, groupErr := newGroup(cfg.DataDir)
	if groupErr == nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(group.dir.Fd())
		g.group = group
	} else {
		g.shortfalls = append(g.shortfalls, groupErr.Error())
	}
	var p *os.Process
	err = clock.Unrelaxed(func() (err error) {
		p, err = os.StartProcess(exe, append([]string{"had"}, args...), attr)
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("start the guard: %w", err), g.group.remove())
	}
	g.pid, g.kill = p.Pid, p.Kill
	go func() {
		state, err := p.Wait()
		switch {
		case err != nil:
			g.exit = fmt.Errorf("%w: %w", errDied, err)
		case state.Success():
			g.exit = errNothingLeft
		default:
			g.exit = fmt.Errorf("%w: %s", errDied, state)
		}
		close(g.died)
	}()
	return nil
}

// introduce tells the guard what it must know and waits until it is ready.
func (g *Guard) introduce(ctx context.Context, cfg Config) error {
	stop := context.AfterFunc(ctx, func() { _ = g.conn.SetReadDeadline(time.Unix(1, 0)) }) // fails only when it is closed
	defer stop()
	i := cfg.Instance
	err := send(g.conn, setup{
		DataDir: cfg.DataDir, Cluster: cfg.Cluster, Members: cfg.Members, TLS: cfg.TLS, Version: cfg.Version, Gate: cfg.Gate, Watchdog: cfg.Watchdog,
		Node: i.GetNode(), NodeID: i.GetNodeId(), BootID: i.GetBootId(), Nonce: i.GetNonce(),
		Margin: cfg.Margin, LogLevel: cfg.LogLevel.String(), LogJSON: cfg.LogJSON, LogJournal: cfg.LogJournal,
	})
	if err != nil {
		return fmt.Errorf("tell it what to guard: %w", err)
	}
	if err := g.conn.SetReadDeadline(time.Now().Add(setupPatience)); err != nil {
		return err
	}
	buf := make([]byte, maxMessage+1)
	n, err := g.conn.Read(buf)
	if err != nil {
		return fmt.Errorf("it doesn't answer: %w", err)
	}
	var r ready
	if err := decode(buf[:n], &r); err != nil {
		return err
	}
	if r.Failed != "" {
		return errors.New(r.Failed)
	}
	g.shortfalls = append(g.shortfalls, r.Shortfalls...)
	return g.conn.SetReadDeadline(time.Time{})
}

// receive hands the guard's answers to those who wait for them, until the
// socket ends.
func (g *Guard) receive() {
	buf := make([]byte, maxMessage+1)
	for {
		n, err := g.conn.Read(buf)
		if err != nil {
			return
		}
		var a answer
		if err := decode(buf[:n], &a); err != nil {
			continue // whoever waits for it will give up
		}
		g.mu.Lock()
		c := g.waiting[a.Number]
		delete(g.waiting, a.Number)
		g.mu.Unlock()
		if c == nil {
			continue
		}
		if a.Refused != "" {
			c <- refusal(a)
		} else {
			c <- nil
		}
	}
}

// request sends r and waits for its answer.
func (g *Guard) request(ctx context.Context, r Request) error {
	if err := r.check(); err != nil {
		return err
	}
	if !r.Slow() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askPatience)
		defer cancel()
	}
	answered := make(chan error, 1)
	g.mu.Lock()
	g.number++
	n := g.number
	g.waiting[n] = answered
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.waiting, n)
	}()
	if err := send(g.conn, message{Number: n, Request: r}); err != nil {
		return fmt.Errorf("ask the guard to %s: %w", r.Op, err)
	}
	select {
	case err := <-answered:
		return err
	case <-g.died:
		return fmt.Errorf("ask the guard to %s: %w", r.Op, g.exit)
	case <-ctx.Done():
		return fmt.Errorf("ask the guard to %s: it doesn't answer: %w", r.Op, context.Cause(ctx))
	}
}

// Alive returns nil while the guard guards, or why it doesn't.
func (g *Guard) Alive() error {
	select {
	case <-g.died:
		return g.exit
	default:
		return g.Awake()
	}
}

// Died is closed when the guard's process has ended and is reaped.
func (g *Guard) Died() <-chan struct{} { return g.died }

// Shortfalls says what the guard has to do without on this host, a sentence
// each.
func (g *Guard) Shortfalls() []string { return g.shortfalls }

// Kill ends the guard at once, also a stopped one, and returns when its
// process is gone.
func (g *Guard) Kill() error {
	if err := g.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the guard: %w", err)
	}
	<-g.died
	return g.release()
}

// Close ends the guard in an orderly way and waits for it. The guard refuses
// while an epoch is held or a script runs: then it stays, and gives back what
// there is when this process has ended.
func (g *Guard) Close(ctx context.Context) error {
	// It may be gone before its answer is read.
	if err := g.ask(ctx, Request{Op: OpClose}); err != nil && !errors.Is(err, errNothingLeft) {
		return fmt.Errorf("close the guard: %w", err)
	}
	select {
	case <-g.died:
		return g.release()
	case <-ctx.Done():
		return fmt.Errorf("close the guard: it doesn't end: %w", context.Cause(ctx))
	}
}

// release frees what is left of a guard that has ended. The page stays mapped:
// somebody may be extending a lease in it.
func (g *Guard) release() error {
	if g.conn == nil { // a simulated guard
		return nil
	}
	return errors.Join(g.conn.Close(), g.group.remove())
}
