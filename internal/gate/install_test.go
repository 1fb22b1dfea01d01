package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/thread"
)

// TestMain is also the process that arms a gate and is then killed.
func TestMain(m *testing.M) {
	if os.Getenv(armEnv) != "" {
		if err := arm(); err != nil {
			panic(err)
		}
		select {}
	}
	os.Exit(m.Run())
}

const (
	armEnv   = "GATE_TEST_ARM"
	armedFor = 1500 * time.Millisecond
)

func arm() error {
	g, err := Open(config())
	if err != nil {
		return err
	}
	if err := g.Admit(7, both()); err != nil {
		return err
	}
	if err := g.Extend(7, clock.Now().Add(armedFor)); err != nil {
		return err
	}
	_, err = os.Stdout.WriteString("armed\n")
	return err
}

// The process that armed the gate is killed; its filters close all the same,
// and the next process finds them.
func TestAGateOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	here.assignVirtual("eth0")
	cmd := exec.CommandContext(t.Context(), os.Args[0]) // in this thread's namespace
	cmd.Env = append(os.Environ(), armEnv+"=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "armed\n" {
		t.Fatalf("the process that arms the gate said %q, %v", line, err)
	}
	armed := time.Now()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // says that it was killed

	here.echo(vip4)
	client := there.dial(vip4)
	if !answers(t, client, armedFor/2) && time.Since(armed) < armedFor {
		t.Error("the address doesn't answer although its lease lasts")
	}
	<-time.After(time.Until(armed.Add(armedFor)))
	if answers(t, client, brief) {
		t.Error("the address answers after its lease")
	}

	guard, err := Find(config())
	must(t, err)
	defer guard.Close()
	if addrs, err := guard.Guarded(); err != nil || !slices.Equal(addrs, both()) {
		t.Errorf("Guarded() = %v, %v; want what the killed process admitted", addrs, err)
	}
	guard.Shut(7)
	g := open(t)
	if answers(t, client, brief) {
		t.Error("opening the gate anew opened it for packets")
	}
	if l := g.Lease(); l.Epoch != 7 || l.Shut != 7 {
		t.Errorf("the lease that was found is %+v", l)
	}
	if err := g.Admit(7, both()); !errors.Is(err, ErrShut) {
		t.Errorf("Admit of what the guard shut: %v", err)
	}
	must(t, g.Admit(8, both()))
	must(t, g.Extend(8, soon()))
	if !answers(t, client, patient) {
		t.Error("the address doesn't answer in a new epoch")
	}
	guard.Shut(8)
	if answers(t, client, brief) {
		t.Error("what another process shut is open")
	}
}

// Programs are exchanged while a flood comes in: none of it gets through.
func TestTakingOverLeavesNoGap(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	must(t, open(t).Admit(7, both()))
	here.assignVirtual("eth0")
	here.echo(vip4)
	client := there.dial(vip4)
	must(t, there.link.NeighSet(&netlink.Neigh{LinkIndex: there.get("eth0").Attrs().Index,
		State: unix.NUD_PERMANENT, IP: vip4.AsSlice(), HardwareAddr: here.mac()}))
	ctx, stop := context.WithCancel(t.Context())
	flood := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_, _ = client.Write([]byte("let me in"))
		}
		flood <- n
	}()
	reports, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
	must(t, err)
	defer reports.Close()
	for range 20 {
		open(t)
	}
	stop()
	sent := <-flood
	must(t, client.SetReadDeadline(time.Now().Add(brief)))
	if n, err := client.Read(make([]byte, 64)); err == nil {
		t.Errorf("%d bytes of an answer came through while programs were exchanged", n)
	}
	t.Logf("%d packets came in", sent)
	// A gap of microseconds is easily missed; the kernel reports each.
	exchanged := 0
	must(t, reports.SetReceiveTimeout(&unix.Timeval{Usec: brief.Microseconds()}))
	for {
		messages, _, err := reports.Receive()
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		must(t, err)
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_DELTFILTER, unix.RTM_DELQDISC:
				t.Error("a filter was taken away before the new one was there")
			case unix.RTM_NEWTFILTER:
				exchanged++
			}
		}
	}
	if want := 20 * 2 * 2; exchanged != want { // on two interfaces, both ways
		t.Errorf("%d filters were exchanged, want %d", exchanged, want)
	}
}

func TestLaterInterfacesGetTheGate(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	g := open(t)
	run(t, here, g)
	must(t, g.Admit(7, both()))
	here.assignVirtual("eth0")
	here.cable("eth1", there)
	eventually(t, "the gate to be on eth1", func() bool { return here.gated("eth1") })
	there.assign("eth1", "198.51.100.2/24")
	there.route(vip4, "eth1")
	here.echo(vip4)
	client := there.dial(vip4)
	if answers(t, client, brief) {
		t.Error("the address answers on an interface that came later")
	}
	must(t, g.Extend(7, soon()))
	here.assign("eth1", "198.51.100.1/24") // the way back
	if !answers(t, client, patient) {
		t.Error("the address doesn't answer there within its lease")
	}
}

// A burst of interfaces overflows the buffer for the kernel's reports.
func TestLostReportsAreMadeUpFor(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	g := open(t)
	g.hooks.receiveBuffer = 1 // the kernel makes it the smallest there is
	run(t, here, g)
	const burst = 20
	for i := range burst {
		here.cable(fmt.Sprintf("eth%d", i+1), there)
	}
	for i := range burst {
		name := fmt.Sprintf("eth%d", i+1)
		eventually(t, "the gate to be on "+name, func() bool { return here.gated(name) })
	}
}

// Whoever takes the gate off an interface finds it there again.
func TestWhatIsTakenOffIsPutBack(t *testing.T) {
	t.Parallel()
	here := newHost(t)
	g := open(t)
	takeOff := func() { must(t, here.link.QdiscDel(clsact(here.get("lo")))) }
	takeOff()
	if missing, err := g.Check(); err != nil || !slices.Equal(missing, []string{"lo ingress", "lo egress"}) {
		t.Errorf("Check() = %v, %v; want what was taken off", missing, err)
	}
	if missing, err := g.Check(); err != nil || len(missing) > 0 {
		t.Errorf("Check() = %v, %v; want nothing missing", missing, err)
	}
	run(t, here, g)
	takeOff()
	eventually(t, "the gate to be back", func() bool { return here.gated("lo") })
	must(t, here.link.FilterDel(here.ours("lo", egress)))
	eventually(t, "the egress filter to be back", func() bool { return here.gated("lo") })
}

// A local client must not be served by the former owner either.
func TestLoopbackIsGated(t *testing.T) {
	t.Parallel()
	here := newHost(t)
	g := open(t)
	must(t, g.Admit(7, both()))
	here.assignVirtual("lo")
	for _, addr := range both() {
		here.echo(addr)
		if answers(t, here.dial(addr), brief) {
			t.Errorf("%s answers a client on its host before Extend", addr)
		}
	}
	must(t, g.Extend(7, soon()))
	for _, addr := range both() {
		if !answers(t, here.dial(addr), patient) {
			t.Errorf("%s doesn't answer a client on its host", addr)
		}
	}
}

// A connection stands still at the deadline: no data, no reset.
func TestAConnectionStandsStill(t *testing.T) {
	t.Parallel()
	here, there := newPair(t)
	g := open(t)
	must(t, g.Admit(7, both()))
	must(t, g.Extend(7, soon()))
	here.assignVirtual("eth0")
	server, err := net.Listen("tcp", netip.AddrPortFrom(vip6, 7).String())
	must(t, err)
	defer server.Close()
	var client net.Conn
	there.in(func() {
		client, err = net.DialTimeout("tcp", server.Addr().String(), patient)
	})
	must(t, err)
	defer client.Close()
	conn, err := server.Accept()
	must(t, err)
	buf := make([]byte, 8)
	_, err = conn.Write([]byte("in time"))
	must(t, err)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "in time" {
		t.Fatalf("read %q, %v within the lease", buf[:n], err)
	}
	g.Shut(7)
	_, err = conn.Write([]byte("too late"))
	must(t, err)
	must(t, conn.Close())
	must(t, client.SetReadDeadline(time.Now().Add(4*brief)))
	if n, err := client.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %q, %v after the lease; want silence", buf[:n], err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	if err := Probe(); err != nil {
		t.Errorf("this host runs the tests of the gate, but: %v", err)
	}
}

// Each refusal by a host says what the host lacks.
func TestWhatAHostLacks(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&ebpf.VerifierError{Cause: unix.EINVAL}, "Linux 5.8"},
		{fmt.Errorf("create a map: %w", ebpf.ErrNotSupported), "Linux 5.8"},
		{unix.EPERM, "run as root"},
		{unix.ENOSYS, "CONFIG_BPF_SYSCALL"},
		{unix.ENOENT, "CONFIG_NET_SCH_INGRESS"},
		{unix.EIO, "could not be put in place"},
	} {
		got := explain(c.err)
		if !errors.Is(got, ErrUnavailable) || !errors.Is(got, c.err) || !strings.Contains(got.Error(), c.want) {
			t.Errorf("explain(%v) = %v; want it to say %q", c.err, got, c.want)
		}
	}
}

// ours is the gate's filter on an interface, nil if there is none.
func (h *host) ours(iface string, d direction) netlink.Filter {
	h.t.Helper()
	filters, err := h.link.FilterList(h.get(iface), d.parent())
	must(h.t, err)
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == "had-gate/test" {
			return f
		}
	}
	return nil
}

func (h *host) gated(iface string) bool {
	h.t.Helper()
	return h.ours(iface, ingress) != nil && h.ours(iface, egress) != nil
}

// run runs the gate's task until the test ends.
func run(t *testing.T, h *host, g *Gate) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	thread.Go(func() {
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- g.Run(ctx)
	})
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
