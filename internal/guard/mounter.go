package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/cgroup"
	"had/internal/clock"
	"had/internal/hook"
	"had/storage"
)

// mounters implements Volumes with a child process, the mounter, because mount(2)
// and its like may hang in the kernel for ever. There is one at a time, it does
// one thing at a time, and idles in between: by itself it does nothing. One that
// hangs is killed, and while that doesn't end it nothing is proven.
//
// Its methods may be called from several goroutines; they take turns.
type mounters struct {
	exe   string        // the program; "" is this process's own
	lock  *mounterLock  // every mounter has it too, for as long as it lives
	group *cgroup.Group // which mounters get a group in; nil: none

	within time.Duration // of task

	turn    chan struct{} // of capacity 1
	current *mounter      // nil: there is none
	number  int

	mu      sync.Mutex
	mounted map[string]string // for storage.Volume.Mounted, by the volume's device
}

// mounter is a mounter's process.
type mounter struct {
	pid   int
	conn  *net.UnixConn
	group *cgroup.Group // nil: none
	dead  chan struct{} // closed when it is dead and reaped
	dying bool          // it was killed
}

const (
	mounterName = "mounter" // of the subcommand

	// killedPatience is how long a call waits for the death of what it has killed.
	killedPatience = time.Second

	// lookPatience is mounters.within where no lease ends.
	lookPatience = time.Second
)

func newMounters(exe string, lock *mounterLock, group *cgroup.Group) *mounters {
	return &mounters{exe: exe, lock: lock, group: group, within: lookPatience, turn: make(chan struct{}, 1)}
}

// Mount implements Volumes.
func (m *mounters) Mount(ctx context.Context, v storage.Volume, clearMMP bool) error {
	r, err := m.call(ctx, task{Op: OpMount, Volumes: []storage.Volume{v}, ClearMMP: clearMMP})
	if err == nil {
		m.note(v, r.Mounted)
	}
	return err
}

// Reserve implements Volumes.
func (m *mounters) Reserve(ctx context.Context, vs []storage.Volume, key uint64) error {
	_, err := m.call(ctx, task{Op: OpReserve, Volumes: vs, Key: key})
	return err
}

// Evict implements Volumes.
func (m *mounters) Evict(ctx context.Context, vs []storage.Volume, key uint64) error {
	_, err := m.call(ctx, task{Op: OpEvict, Volumes: vs, Key: key})
	return err
}

// Unmount implements Volumes.
func (m *mounters) Unmount(ctx context.Context, v storage.Volume) error {
	_, err := m.call(ctx, task{Op: OpUnmount, Volumes: m.noted(v)})
	if err == nil {
		m.note(v, "")
	}
	return err
}

// Secure implements Volumes.
func (m *mounters) Secure(ctx context.Context, vs []storage.Volume) error {
	_, err := m.call(ctx, task{Op: OpSecure, Volumes: m.noted(vs...), Within: m.within})
	if err == nil {
		for _, v := range vs {
			m.note(v, "")
		}
	}
	return err
}

// Abandon implements Volumes. It takes a mounter of its own, which mounts nothing: the
// other may be what waits.
func (m *mounters) Abandon(ctx context.Context, vs []storage.Volume) error {
	ctx, cancel := context.WithTimeout(ctx, killedPatience)
	defer cancel()
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer m.done()
	p, err := m.spawn()
	if err != nil {
		return err
	}
	r := result{Err: "it takes too long"}
	answers := make(chan result, 1)
	go func() { answers <- p.ask(task{Op: opAbandon, Volumes: vs}) }()
	select {
	case r = <-answers:
	case <-ctx.Done(): // end has ask return
	}
	return errors.Join(r.err(), p.end())
}

// note remembers what a volume was mounted from; "": it is unmounted.
func (m *mounters) note(v storage.Volume, from string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounted == nil {
		m.mounted = map[string]string{}
	}
	m.mounted[v.Device] = from
}

func (m *mounters) noted(vs ...storage.Volume) []storage.Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	vs = slices.Clone(vs)
	for i, v := range vs {
		vs[i].Mounted = m.mounted[v.Device]
	}
	return vs
}

// Rest implements Volumes: the idle mounter ends.
func (m *mounters) Rest() {
	select {
	case m.turn <- struct{}{}:
	default:
		return // it isn't idle
	}
	defer m.done()
	if m.current != nil {
		_ = m.current.conn.Close() // it ends by itself, and the next call reaps it
	}
}

func (m *mounters) done() { <-m.turn }

// close ends the mounter and waits for it.
func (m *mounters) close() error {
	m.turn <- struct{}{}
	defer m.done()
	if m.current == nil {
		return nil
	}
	return m.current.end()
}

// call has a mounter do something. It fails while an earlier mounter lives that
// was killed. After an error of ctx, or of the mounter's death, it isn't known
// what came of it.
func (m *mounters) call(ctx context.Context, t task) (result, error) {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	}
	defer m.done()
	p, err := m.ready(ctx)
	if err != nil {
		return result{}, err
	}
	answers := make(chan result, 1)
	go func() { answers <- p.ask(t) }()
	select {
	case r := <-answers:
		if r.Err == "" {
			return r, nil
		}
		// A program that it has started, and given up, may still be at work.
		if err := p.end(); err != nil || r.lost {
			return r, errors.Join(errors.New(r.Err), err)
		}
		return r, r.err()
	case <-ctx.Done():
		err := fmt.Errorf("%s: it was given up: %w", t.Op, context.Cause(ctx))
		return result{}, errors.Join(err, p.end()) // its socket's end ends ask
	}
}

// ready returns an idle mounter, once no other lives.
func (m *mounters) ready(ctx context.Context) (*mounter, error) {
	if p := m.current; p != nil && p.usable() {
		return p, nil
	} else if p != nil {
		if err := p.end(); err != nil {
			return nil, err
		}
		m.current = nil
	}
	if err := m.lock.take(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	p, err := m.spawn()
	m.current = p
	return p, err
}

// usable reports whether a mounter waits for something to do.
func (p *mounter) usable() bool {
	select {
	case <-p.dead:
		return false
	default:
	}
	// Rest has closed the socket.
	return !p.dying && p.conn.SetWriteDeadline(time.Time{}) == nil
}

// ask sends a task and waits for the answer.
func (p *mounter) ask(t task) result {
	if err := send(p.conn, t); err != nil {
		return result{Err: fmt.Sprintf("%s: tell the mounter: %v", t.Op, err), lost: true}
	}
	buf := make([]byte, maxMessage+1)
	n, err := p.conn.Read(buf)
	if err != nil {
		return result{Err: fmt.Sprintf("%s: the mounter has died: %v", t.Op, err), lost: true}
	}
	var r result
	if err := decode(buf[:n], &r); err != nil {
		return result{Err: err.Error(), lost: true}
	}
	return r
}

// end kills the mounter with all that it has started, and waits. After nil all
// of it is dead: whatever it had asked of the kernel has ended.
func (p *mounter) end() error {
	p.dying = true
	_ = p.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), killedPatience)
	defer cancel()
	kill := func(ctx context.Context) error { return killSession(ctx, p.pid) }
	if p.group != nil {
		kill = p.group.Kill
	}
	err := kill(ctx)
	if err == nil {
		select {
		case <-p.dead:
		case <-ctx.Done():
			err = fmt.Errorf("process %d doesn't end: %w", p.pid, context.Cause(ctx))
		}
	}
	if err != nil {
		return fmt.Errorf("a mounter was killed and lives on, stuck in the kernel, most likely on a device or a server that doesn't answer: %w", err)
	}
	if p.group != nil {
		return p.group.Remove()
	}
	return nil
}

// killSession kills all of a session and waits until nobody of it is left.
func killSession(ctx context.Context, session int) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		left, err := hook.InSession(session)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // the next look tells
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v don't end: %w", left, context.Cause(ctx))
		case <-again.C:
		}
	}
}

// spawn starts a mounter.
func (m *mounters) spawn() (*mounter, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make the socket to the mounter: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	defer theirs.Close()
	conn, err := openSocket(uintptr(pair[0]))
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the mounter's standard input: %w", err), conn.Close())
	}
	defer null.Close()
	exe := m.exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	attr := &os.ProcAttr{
		Dir: "/",
		// For mount(8), fsck(8) and the like. Messages are answers: it prints
		// nothing, and nobody may read what the guard's standard error is.
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Files: []*os.File{null, null, null, theirs, m.lock.file},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	p := &mounter{conn: conn, dead: make(chan struct{})}
	if m.group != nil {
		m.number++ // one that was killed may refuse new members
		g := m.group.Child(fmt.Sprintf("%s-%d", mounterName, m.number))
		if err := g.Make(); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		dir, err := g.Open()
		if err != nil {
			return nil, errors.Join(err, g.Remove(), conn.Close())
		}
		defer dir.Close()
		p.group = &g
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
	}
	var proc *os.Process
	err = clock.Unrelaxed(func() (err error) {
		proc, err = os.StartProcess(exe, []string{"had", mounterName}, attr)
		return err
	})
	if err != nil {
		err = errors.Join(fmt.Errorf("start the mounter: %w", err), conn.Close())
		if p.group != nil {
			err = errors.Join(err, p.group.Remove())
		}
		return nil, err
	}
	p.pid = proc.Pid
	go func() {
		_, _ = proc.Wait() // how it ended doesn't matter
		close(p.dead)
	}()
	return p, nil
}

// mounterFile is in the data folder. Its lock (flock(2)) is held by a guard and
// by each of its mounters, for as long as one of them lives: a mounter may
// outlive a guard that was killed.
const mounterFile = "mounter.lock"

// mounterLock is that lock. The file is opened once: later there may be no disk.
type mounterLock struct {
	file *os.File

	mu    sync.Mutex
	taken bool
}

func openMounterLock(dir string) (*mounterLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, mounterFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the mounter's lock: %w", err)
	}
	return &mounterLock{file: f}, nil
}

// take fails while a mounter of another guard lives.
func (l *mounterLock) take() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken {
		return nil
	}
	err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("an earlier mounter still lives (`fuser %s` shows it): it is stuck in the kernel, most likely on a device or a server that doesn't answer", l.file.Name())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", l.file.Name(), err)
	}
	l.taken = true
	return nil
}

// close lets go of the lock; a mounter that lives keeps it.
func (l *mounterLock) close() error { return l.file.Close() }

// ownGroup returns the guard's own control group, in which mounters get theirs;
// nil: it is in had's.
func ownGroup() *cgroup.Group {
	g, err := cgroup.Own()
	if err != nil || !strings.HasPrefix(g.Name(), "had-guard-") {
		return nil
	}
	return &g
}
