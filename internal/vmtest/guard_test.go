package vmtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"

	"had/internal/fence"
	"had/internal/guard"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// daemonVariable makes this binary a daemon whose guard feeds the watchdog at this
// path.
const daemonVariable = "VMTEST_DAEMON"

// program runs what this binary is started as by itself: a daemon, or its guard.
func program() (is bool, err error) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "guard":
		return true, guard.Main(os.Stderr)
	case len(os.Args) == 2 && os.Args[1] == "mounter":
		return true, guard.MounterMain()
	case os.Getenv(ownerVariable) != "":
		return true, owner(os.Getenv(ownerVariable))
	case os.Getenv(writeVariable) != "":
		return true, writeSynced(os.Getenv(writeVariable))
	case os.Getenv(secureVariable) != "":
		return true, secureServed()
	case os.Getenv(daemonVariable) != "":
		return true, daemon(os.Getenv(daemonVariable))
	}
	return false, nil
}

// daemon is as much of had as arms a watchdog. It obeys a word a line: "stop" ends it
// in order.
func daemon(device string) error {
	ctx := context.Background()
	g, err := startGuard(ctx, "alpha", "/tmp/data", &guard.WatchdogConfig{Device: device, Timeout: timeout})
	if err != nil {
		return err
	}
	if err := g.Arm(ctx); err != nil {
		return err
	}
	fmt.Println("armed", g.Armed())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "kill the guard":
			err = g.Kill()
		case "stop":
			return g.Close(ctx)
		}
		if err != nil {
			return err
		}
		fmt.Println("done")
	}
	return in.Err()
}

// startGuard starts the guard of a daemon of a cluster of one.
func startGuard(ctx context.Context, node, dir string, w *guard.WatchdogConfig) (*guard.Guard, error) {
	const office = "office"
	members := []peer.Member{{Name: node, Address: "127.0.0.1:7400"}}
	id, err := peer.OpenIdentity(dir, office, node, members)
	if err != nil {
		return nil, err
	}
	if _, born := id.Birth(); !born {
		if err := birth(id); err != nil {
			return nil, err
		}
	}
	return guard.Start(ctx, guard.Config{
		Cluster: office, Instance: &hadv1.Instance{Node: node, NodeId: id.NodeID(), BootId: "boot", Nonce: fmt.Sprint(os.Getpid())},
		DataDir: dir, Members: members, Version: "test", Margin: 50 * time.Millisecond, Logger: hclog.NewNullLogger(), LogLevel: hclog.Warn,
		Watchdog: w,
	})
}

// birth is the first meeting of a cluster of one.
func birth(id *peer.Identity) error {
	port, err := peer.Listen(peer.PortConfig{Identity: id, Listen: "127.0.0.1:7400", Logger: hclog.NewNullLogger(), Version: "test"})
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- port.Run(ctx) }()
	_, err = port.Meet(ctx)
	leave()
	<-ended
	return err
}

// startDaemon returns a daemon when its guard has armed the watchdog.
func startDaemon(t *testing.T, device string) (p *os.Process, tell func(word string)) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{daemonVariable + "=" + device}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || strings.TrimSpace(line) != "armed "+timeout.String() {
		t.Fatalf("the daemon said %q: %v", line, err)
	}
	return cmd.Process, func(word string) {
		t.Helper()
		_, err := fmt.Fprintln(in, word)
		must(t, err)
		if line, err := said.ReadString('\n'); err != nil && err != io.EOF {
			t.Fatalf("%s: %q, %v", word, line, err)
		}
	}
}

// The guard feeds the watchdog, and stops it when it ends with nothing left to
// guard: in order, and after the daemon's death. When it is killed itself, the
// machine is reset.
func TestTheGuardsWatchdog(t *testing.T) {
	test(t, sides{
		modules: []string{"softdog"},
		inside: func(t *testing.T) {
			load(t, "softdog", "")
			lo, err := netlink.LinkByName("lo")
			must(t, err)
			must(t, netlink.LinkSetUp(lo))
			const device = "/dev/watchdog"
			stopped := func() bool {
				info, err := fence.LookAtWatchdog(device)
				must(t, err)
				return !info.Running
			}
			_, tell := startDaemon(t, device)
			time.Sleep(2 * timeout)
			if stopped() {
				t.Error("it isn't armed")
			}
			tell("stop")
			if !stopped() {
				t.Error("after an orderly end it goes on")
			}
			p, _ := startDaemon(t, device)
			time.Sleep(timeout)
			must(t, p.Kill())
			for until := time.Now().Add(timeout); !stopped() && time.Now().Before(until); {
				time.Sleep(10 * time.Millisecond)
			}
			if !stopped() {
				t.Error("after the daemon's death it goes on, although nothing was held")
			}
			time.Sleep(2 * timeout)
			_, tell = startDaemon(t, device)
			time.Sleep(timeout)
			tell("kill the guard")
			left(t)
		},
		outside: func(t *testing.T, m *machine) { resets(t, m) },
	})
}
