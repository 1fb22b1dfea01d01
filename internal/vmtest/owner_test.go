package vmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/storage"
)

// ownerVariable makes this binary a daemon with a guard that mounts: its value is
// the node's name, the device, and the data folder, in which the mount point is.
const ownerVariable = "VMTEST_OWNER"

// owner is as much of had as owns a volume. It obeys a line at a time: "hold EPOCH",
// "reserve EPOCH", "mount EPOCH", "unmount EPOCH", "secure EPOCH", "drop EPOCH", and
// "evict EPOCH" of another's.
func owner(what string) error {
	words := strings.Fields(what)
	node, device, dir := words[0], words[1], words[2]
	volumes := []storage.Volume{{Name: "web", Device: device, Path: dir + "/web", FSType: "ext4"}}
	ctx := context.Background()
	g, err := startGuard(ctx, node, dir, nil)
	for range 4 { // a guard has seconds to start, which an emulated machine may need for it
		if err != nil {
			g, err = startGuard(ctx, node, dir, nil)
		}
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var word string
		var epoch uint64
		if _, err := fmt.Sscan(in.Text(), &word, &epoch); err != nil {
			return err
		}
		switch word {
		case "hold":
			if !g.Extend(epoch, clock.Now().Add(leaseOfOwner)) {
				err = errors.New("the epoch can't be extended")
				break
			}
			err = g.Hold(ctx, epoch, nil, volumes)
		case "reserve":
			err = g.Reserve(ctx, epoch, uint64(keyOf(epoch)))
		case "mount":
			err = g.Mount(ctx, epoch, "web", false)
		case "unmount":
			err = g.Unmount(ctx, epoch, "web")
		case "secure":
			err = g.Secure(ctx, epoch)
		case "drop":
			err = g.Drop(ctx, epoch)
		case "evict":
			err = g.Evict(ctx, volumes, uint64(keyOf(epoch))|1)
		}
		if err != nil {
			fmt.Println("failed:", strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Println("done")
		}
		err = nil
	}
	return nil
}

// leaseOfOwner is long enough for all that a test does, emulated on a busy host.
const leaseOfOwner = 5 * time.Minute

// ownerProcess is such a daemon.
type ownerProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	path string // of its mount
	in   *bufio.Writer
	out  *bufio.Reader
}

func startOwner(t *testing.T, node, device string) *ownerProcess {
	t.Helper()
	dir, err := os.MkdirTemp("", node) //nolint:usetesting // a file system stays mounted there: the machine goes, not the folder
	must(t, err)
	o := &ownerProcess{t: t, cmd: exec.Command("/proc/self/exe"), path: dir + "/web"}
	o.cmd.Env = []string{ownerVariable + "=" + strings.Join([]string{node, device, dir}, " ")}
	o.cmd.Stderr = os.Stderr
	in, err := o.cmd.StdinPipe()
	must(t, err)
	out, err := o.cmd.StdoutPipe()
	must(t, err)
	must(t, o.cmd.Start())
	o.in, o.out = bufio.NewWriter(in), bufio.NewReader(out)
	if line, err := o.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%s said %q: %v", node, line, err)
	}
	return o
}

// try has it do things, and returns what the first failure says; "": none.
func (o *ownerProcess) try(lines ...string) string {
	o.t.Helper()
	for _, line := range lines {
		_, err := o.in.WriteString(line + "\n")
		must(o.t, errors.Join(err, o.in.Flush()))
		answer, err := o.out.ReadString('\n')
		must(o.t, err)
		if answer != "done\n" {
			return line + ": " + strings.TrimSpace(answer)
		}
	}
	return ""
}

func (o *ownerProcess) do(lines ...string) {
	o.t.Helper()
	if failed := o.try(lines...); failed != "" {
		o.t.Fatal(failed)
	}
}

// all returns the processes of a daemon: itself, its guard, and the mounter.
func (o *ownerProcess) all() []int {
	pids := []int{o.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[i]))
		must(o.t, err)
		for word := range strings.FieldsSeq(string(list)) {
			var pid int
			_, err := fmt.Sscan(word, &pid)
			must(o.t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (o *ownerProcess) signal(s unix.Signal) {
	o.t.Helper()
	for _, pid := range o.all() {
		must(o.t, unix.Kill(pid, s))
	}
}

// writer appends numbers to a file as long as it can, each synced before the next.
type writer struct {
	mu    sync.Mutex
	acked []time.Time // number n was begun at acked[n], and is on the disk
	err   error       // that ended it
	stop  chan struct{}
	ended chan struct{}
}

func startWriter(t *testing.T, path string) *writer {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_SYNC, 0o600)
	must(t, err)
	w := &writer{stop: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		defer f.Close()
		for n := 0; ; n++ {
			select {
			case <-w.stop:
				return
			default:
			}
			began := time.Now()
			_, err := fmt.Fprintf(f, "%d\n", n)
			w.mu.Lock()
			w.err = err
			if err == nil {
				w.acked = append(w.acked, began)
			}
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return w
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// wrote waits until it has written so many.
func (w *writer) wrote(t *testing.T, n int) {
	t.Helper()
	for w.count() < n {
		select {
		case <-w.ended:
			t.Fatalf("it ended after %d: %v", w.count(), w.err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// numbersIn reads what a writer has written, up to what is torn.
func numbersIn(t *testing.T, path string) (n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if line != fmt.Sprintf("%d\n", n) {
			return n
		}
		n++
	}
	return n
}

// tool runs a program of the machine's.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command("/usr/sbin/"+name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}
