package packagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/cgroup"
)

const (
	root       = "../../build/packages/root" // made by root.sh
	patience   = 3 * time.Minute             // for one command of the page
	userPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	bridge     = "office"
	clientAddr = "10.0.0.1/24"
)

// addresses are those of the page, and who has them.
var addresses = map[string]string{"alpha": "10.0.0.11", "beta": "10.0.0.12", "gamma": "10.0.0.13"}

// host is a Debian with systemd: namespaces around an init.
type host struct {
	name string
	init int // its number here
}

// command is a shell's in the host, as root in root's home folder.
func (h *host) command(ctx context.Context, script string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(h.init), "--all", "--wdns=/root",
		"env", "-i", userPath, "HOME=/root", "LANG=C.UTF-8", "bash", "-euo", "pipefail", "-c", script)
}

// run runs a script in the host to its end and returns what it printed.
func (h *host) run(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return output(t, h.name, h.command(ctx, script))
}

// output is what a command prints, on both of its streams.
func output(t *testing.T, where string, cmd *exec.Cmd) string {
	t.Helper()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %v: %v\n%s", where, cmd.Args[len(cmd.Args)-1], err, out)
	}
	return string(out)
}

// local runs a program of this machine, in the test's own network.
func local(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	return output(t, "this machine", exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// isolated fails the test unless it may change its network and its mounts.
func isolated(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"net", "mnt"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", os.Getppid(), kind)); err != nil || theirs == own {
			t.Fatalf("run this by make test-packages: it needs namespaces of its own (%s: %v)", kind, err)
		}
	}
}

// startHosts makes the network and boots the hosts of the page.
func startHosts(t *testing.T) map[string]*host {
	t.Helper()
	local(t, "ip", "link", "set", "lo", "up")
	local(t, "ip", "link", "add", bridge, "type", "bridge")
	local(t, "ip", "address", "add", clientAddr, "dev", bridge)
	local(t, "ip", "link", "set", bridge, "up")
	own, err := cgroup.Own()
	if err != nil {
		t.Fatalf("systemd needs control groups of version 2: %v", err)
	}
	group := own.Child("had-packages-" + strconv.Itoa(os.Getpid()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := group.End(ctx); err != nil {
			t.Error(err)
		}
	})
	hosts := map[string]*host{}
	for name, address := range addresses {
		h := boot(t, name, group.Child(name))
		hosts[name] = h
		local(t, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.init))
		local(t, "ip", "link", "set", name, "master", bridge, "up")
		h.run(t, "ip link set lo up; ip address add "+address+"/24 dev eth0; ip link set eth0 up")
	}
	for _, h := range hosts {
		h.await(t, "systemctl is-system-running --wait | grep -E 'running|degraded'")
	}
	return hosts
}

// boot starts a host and returns when its shell can be used.
func boot(t *testing.T, name string, group cgroup.Group) *host {
	t.Helper()
	if err := group.Make(); err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--net",
		"./boot.sh", base, name, group.Path())
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() && said.Len() > 0 {
			t.Logf("%s said: %s", name, said.String())
		}
	})
	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	h := &host{name: name}
	eventually(t, name+" boots", func() error {
		text, err := os.ReadFile(children)
		if err != nil {
			return err
		}
		if h.init, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			return err
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.init))
		if err == nil && strings.TrimSpace(string(comm)) != "systemd" {
			err = errors.New("its init isn't there yet")
		}
		return err
	})
	return h
}

// await waits until a script succeeds in the host.
func (h *host) await(t *testing.T, script string) {
	t.Helper()
	eventually(t, h.name+": "+script, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := h.command(ctx, script)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// eventually asks again and again, for what tells nobody when it comes.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func unmount(path string) error {
	return os.NewSyscallError("umount", unix.Unmount(path, unix.MNT_DETACH))
}
