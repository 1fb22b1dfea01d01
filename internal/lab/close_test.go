package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"had/internal/cgroup"
)

// helperEnv makes the test binary build a lab, say so and wait to be killed.
const helperEnv = "HAD_LAB_HELPER"

func helper() int {
	l, err := New(Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, h := range l.hosts() {
		p, err := h.Start(os.DevNull, "sleep", "1000")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(p.Pid())
	}
	fmt.Println(l.Dir())
	select {}
}

// graveyard tells when namespaces are gone for good: the kernel forgets the
// number it knew one by when it destroys it, and not before. A namespace that
// a forgotten socket, descriptor or process still holds keeps its number.
type graveyard struct {
	ns *namespace
	nl *netlink.Handle
	n  int
}

func newGraveyard(t *testing.T) *graveyard {
	t.Helper()
	ns, err := newNamespace()
	must(t, err)
	h, err := netlink.NewHandleAt(ns.fd, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() {
		h.Close()
		must(t, ns.close())
	})
	return &graveyard{ns: ns, nl: h}
}

func (g *graveyard) add(t *testing.T, fd int) {
	t.Helper()
	g.n++
	must(t, g.nl.SetNetNsIdByFd(fd, g.n))
}

// alive returns how many of the namespaces still exist.
func (g *graveyard) alive(t *testing.T) (n int) {
	t.Helper()
	must(t, g.ns.do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
		req.AddData(&nl.RtGenMsg{})
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
		n = len(msgs)
		return err
	}))
	return n
}

// awaitNone polls, because the kernel says nothing when it is done.
func (g *graveyard) awaitNone(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for g.alive(t) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d namespaces still exist", g.alive(t), g.n)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func linkNames(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func TestCloseLeavesNothing(t *testing.T) {
	g := newGraveyard(t)
	files, links := openFiles(t), linkNames(t)
	l := newLab(t, Config{})
	for _, h := range l.hosts() {
		g.add(t, int(h.ns.fd))
	}
	g.add(t, int(l.fabric.ns.fd))
	if got := g.alive(t); got != len(l.hosts())+1 {
		t.Fatalf("%d namespaces exist, want %d", got, len(l.hosts())+1)
	}
	if got := linkNames(t); !slices.Equal(got, links) {
		t.Errorf("the lab shows in the host's own namespace: links %v, were %v", got, links)
	}

	// A service that survives its parent, and a stopped process.
	orphan := filepath.Join(t.TempDir(), "pid")
	_, err := l.Host("alpha").Exec(t.Context(), "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $! > "+orphan)
	must(t, err)
	stopped, err := l.Host("beta").Start(os.DevNull, "sleep", "1000")
	must(t, err)
	must(t, stopped.Signal(syscall.SIGSTOP))
	client, err := l.Client.Measure(ClientConfig{Target: l.VIPs()[0]})
	must(t, err)

	must(t, l.Close())
	client.Stop()
	text, err := os.ReadFile(orphan)
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	for _, pid := range []int{pid, stopped.Pid()} {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	g.awaitNone(t)
	if got := openFiles(t); got != files {
		t.Errorf("%d open files, were %d", got, files)
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary directory is still there: %v", err)
	}
	if _, err := l.Host("alpha").Start(os.DevNull, "true"); !errors.Is(err, ErrClosed) {
		t.Errorf("starting a process in a closed lab: %v, want %v", err, ErrClosed)
	}
	must(t, l.Close())
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestKilledLabLeavesNothing(t *testing.T) {
	g := newGraveyard(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()

	var pids []int
	lines := bufio.NewScanner(out)
	for len(pids) < 4 && lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		must(t, err)
		pids = append(pids, pid)
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err)
		g.add(t, fd)
		must(t, unix.Close(fd))
	}
	if !lines.Scan() {
		t.Fatal("the helper ended before its lab was up")
	}
	dir := lines.Text()
	t.Cleanup(func() {
		must(t, os.RemoveAll(dir))
		own, err := cgroup.Own()
		must(t, err)
		groups, err := own.Children()
		must(t, err)
		for _, g := range groups {
			if strings.HasPrefix(g.Name(), slicePrefix(dir)) {
				must(t, (&slice{group: g}).close())
			}
		}
	})
	if got := g.alive(t); got != 4 {
		t.Fatalf("%d namespaces exist, want 4", got)
	}

	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // "signal: killed"
	g.awaitNone(t) // a process in a namespace would keep it
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d survived its lab", pid)
		}
	}
}
