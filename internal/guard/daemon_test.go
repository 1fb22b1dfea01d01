package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// daemonConfig is what a test's daemon is to be.
type daemonConfig struct {
	Dir     string
	Node    string
	NodeID  string
	Nonce   string
	Members []peer.Member
	TLS     *TLSPaths
	Margin  time.Duration
	Gate    string // "": none
	Exe     string // the guard's program; "": this one
}

// guard is what the daemon starts its guard with.
func (c daemonConfig) guard() Config {
	return Config{
		Cluster: "office", DataDir: c.Dir, Members: c.Members, TLS: c.TLS, Version: "test", Margin: c.Margin,
		Instance: &hadv1.Instance{Node: c.Node, NodeId: c.NodeID, BootId: "a boot", Nonce: c.Nonce},
		Logger:   hclog.NewNullLogger(), LogLevel: hclog.Error, Gate: c.Gate, Exe: c.Exe,
	}
}

// order is what a test asks of its daemon.
type order struct {
	Do        string // see do
	Epoch     uint64
	For       time.Duration
	Addresses []vip.Address
	Volumes   []storage.Volume
	Name      string
	Script    hook.Running
}

// report is its answer.
type report struct {
	Err   string
	OK    bool
	Until clock.Instant
	Pid   int
	Short []string
}

// daemon guards itself and carries out orders until its input ends. It stands
// for had: it calls what had calls, in the same order.
func daemon(config string) error {
	var cfg daemonConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	line := newPipeline(bufio.NewReader(os.Stdin), os.Stdout)
	addresses, err := vip.New(vip.Config{Lifetime: 2 * time.Second})
	if err != nil {
		return err
	}
	g, err := Start(context.Background(), cfg.guard())
	if err != nil {
		return errors.Join(err, line.Encode(report{Err: err.Error()}))
	}
	if err := line.Encode(report{Pid: g.pid, Short: g.Shortfalls()}); err != nil {
		return err
	}
	for {
		var o order
		if err := line.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := do(g, addresses, o)
		if err != nil {
			r.Err = err.Error()
		}
		if err := line.Encode(r); err != nil {
			return err
		}
	}
}

func do(g *Guard, addresses *vip.Manager, o order) (r report, err error) {
	ctx := context.Background()
	r.Until = clock.Now().Add(o.For)
	switch o.Do {
	case "hold": // and put the addresses into the kernel
		if !g.Extend(o.Epoch, r.Until) {
			return r, errors.New("extend reports false")
		}
		if err := g.Hold(ctx, o.Epoch, o.Addresses, o.Volumes); err != nil {
			return r, err
		}
		_, err = addresses.Set(ctx, o.Addresses, func() clock.Instant { return r.Until })
		return r, err
	case "mount":
		return r, g.Mount(ctx, o.Epoch, o.Name, false)
	case "begin mount":
		go func() { _ = g.Mount(ctx, o.Epoch, o.Name, false) }() // it ends with this process
		return r, nil
	case "end": // lets the lease end earlier; the guard sees it at its next look
		for !g.page.deadline.CompareAndSwap(g.page.deadline.Load(), int64(r.Until)) {
		}
		return r, nil
	case "begin unmount":
		go func() { _ = g.Unmount(ctx, o.Epoch, o.Name) }() // likewise
		return r, nil
	case "unmount":
		return r, g.Unmount(ctx, o.Epoch, o.Name)
	case "secure":
		return r, g.Secure(ctx, o.Epoch)
	case "extend":
		r.OK = g.Extend(o.Epoch, r.Until)
		return r, nil
	case "drop": // without removing anything: only the guard is asked
		return r, g.Drop(ctx, o.Epoch)
	case "script":
		return r, g.Script(ctx, o.Script)
	case "alive":
		return r, g.Alive()
	case "died":
		select {
		case <-g.Died():
			return r, nil
		case <-time.After(o.For):
			return r, errors.New("the guard lives on")
		}
	case "kill guard":
		return r, g.Kill()
	case "close":
		return r, g.Close(ctx)
	default:
		return r, fmt.Errorf("%q is no order", o.Do)
	}
}

// running is a daemon under test, seen from the test.
type running struct {
	t     testing.TB
	cmd   *exec.Cmd
	line  pipeline
	guard int // its process ID
	short []string
}

func startDaemon(t testing.TB, cfg daemonConfig) *running {
	t.Helper()
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), daemonVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &running{t: t, cmd: cmd, line: newPipeline(out, in)}
	var r report
	if err := d.line.Decode(&r); err != nil {
		t.Fatalf("the daemon doesn't start: %v", err)
	}
	if r.Err != "" {
		t.Fatalf("the daemon doesn't start: %s", r.Err)
	}
	d.guard, d.short = r.Pid, r.Short
	t.Cleanup(func() {
		_ = syscall.Kill(d.guard, syscall.SIGCONT) // it may be gone
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		defer syscall.Kill(d.guard, syscall.SIGKILL) // one that has nothing left has ended by then
		eventually(t, "the guard to end", d.guardEnded)
	})
	return d
}

// guardEnded reports whether the guard has exited; whoever has to reap it may
// take its time.
func (d *running) guardEnded() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.guard))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// ask carries out an order that must succeed.
func (d *running) ask(o order) report {
	d.t.Helper()
	r := d.try(o)
	if r.Err != "" {
		d.t.Fatalf("%s: %s", o.Do, r.Err)
	}
	return r
}

func (d *running) try(o order) report {
	d.t.Helper()
	if err := d.line.Encode(o); err != nil {
		d.t.Fatalf("%s: %v", o.Do, err)
	}
	var r report
	if err := d.line.Decode(&r); err != nil {
		d.t.Fatalf("%s: %v", o.Do, err)
	}
	return r
}

func (d *running) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

func (d *running) signalGuard(s syscall.Signal) {
	d.t.Helper()
	if err := syscall.Kill(d.guard, s); err != nil {
		d.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-tick.C
	}
}
