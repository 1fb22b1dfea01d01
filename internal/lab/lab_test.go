package lab

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testTimeout is far beyond what any step of these tests needs.
const testTimeout = 20 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	os.Exit(m.Run())
}

// newLab returns a lab that the test closes, whatever happens in it.
func newLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hostPrefix returns the form in which a VIP is put on a link: alone, so that
// it never is the primary address of a subnet.
func hostPrefix(vip netip.Addr) netip.Prefix { return netip.PrefixFrom(vip, vip.BitLen()) }

// expectReach checks whether from gets answers of a server, by both families.
// An answer may take a while: a host asks for a neighbour again only after a
// second (retrans_time_ms, arp(7)).
func expectReach(t *testing.T, from, to *Host, want bool) {
	t.Helper()
	patience := testTimeout
	if !want {
		patience = 150 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clients := map[netip.Addr]*Client{}
	for _, target := range []netip.Addr{to.V4, to.V6} {
		c, err := from.Measure(ClientConfig{Target: target})
		must(t, err)
		defer c.Stop()
		clients[target] = c
	}
	for target, c := range clients {
		_, err := c.AwaitAnswer(ctx, time.Time{})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if got := err == nil; got != want {
			t.Errorf("%s reaches %s at %s: %t, want %t", from.Name, to.Name, target, got, want)
		}
	}
}

func TestEveryHostReachesEveryServer(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	for _, from := range l.hosts() {
		for _, to := range l.Servers() {
			expectReach(t, from, to, true)
		}
	}
}

func TestWebServiceSaysWhoItIs(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	for _, url := range []string{"http://10.77.0.12/", "http://[fd77::12]/"} {
		body, err := l.Client.Get(t.Context(), url)
		if err != nil || body != "hello from beta\n" {
			t.Errorf("GET %s = %q, %v", url, body, err)
		}
	}
}

func TestReachabilityFollowsTheMatrix(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha, beta, gamma := l.Host("alpha"), l.Host("beta"), l.Host("gamma")

	must(t, l.SplitServers())
	expectReach(t, alpha, beta, false)
	expectReach(t, l.Client, alpha, true)
	expectReach(t, l.Client, beta, true)

	must(t, l.Heal())
	expectReach(t, alpha, beta, true)

	must(t, l.Isolate("beta"))
	expectReach(t, l.Client, beta, false)
	expectReach(t, beta, gamma, false)
	expectReach(t, alpha, gamma, true)

	must(t, l.Heal())
	must(t, l.CutBoth("alpha", "gamma"))
	expectReach(t, gamma, alpha, false)
	expectReach(t, gamma, beta, true)
}

// A path that is cut one way still carries the other: frames arrive that can't
// be answered.
func TestCutIsOneWay(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha, beta := l.Host("alpha"), l.Host("beta")
	expectReach(t, alpha, beta, true) // both know each other's MAC from here on
	must(t, l.Cut("beta", "alpha"))
	before := received(t, beta)
	expectReach(t, alpha, beta, false)
	if got := received(t, beta) - before; got < 10 {
		t.Errorf("beta received %d frames over the direction that isn't cut, want at least 10", got)
	}
	must(t, l.Heal())
	expectReach(t, alpha, beta, true)
}

func received(t *testing.T, h *Host) uint64 {
	t.Helper()
	eth, err := h.nl.LinkByName(iface)
	must(t, err)
	return eth.Attrs().Statistics.RxPackets
}

func TestLossDropsAboutItsShare(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	expectReach(t, l.Client, l.Host("alpha"), true) // resolved before the loss
	must(t, l.Loss("client", "alpha", 50))
	c, err := l.Client.Measure(ClientConfig{Target: l.Host("alpha").V4})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for c.Report().Sent < 400 {
		_, err := c.AwaitAnswer(ctx, time.Now())
		must(t, err)
	}
	r := c.Stop()
	// 400 fair coins leave this range once in 10^14 times.
	if share := float64(r.Answers["alpha"]) / float64(r.Sent); share < 0.3 || share > 0.7 {
		t.Errorf("%.0f %% of %d requests were answered, want about half", 100*share, r.Sent)
	}
}

func TestLinkDownTakesTheCarrier(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	alpha := l.Host("alpha")
	for _, up := range []bool{false, true} {
		set := l.LinkDown
		if up {
			set = l.LinkUp
		}
		must(t, set("alpha"))
		if carrier, err := alpha.Carrier(); err != nil || carrier != up {
			t.Errorf("carrier = %t, %v; want %t", carrier, err, up)
		}
		expectReach(t, l.Client, alpha, up)
	}
}

func TestUnknownHostIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	for name, err := range map[string]error{
		"cut":     l.Cut("alpha", "delta"),
		"isolate": l.Isolate("delta"),
		"link":    l.LinkDown("delta"),
		"loss":    l.Loss("alpha", "beta", 101),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	expectReach(t, l.Host("alpha"), l.Host("beta"), true) // nothing changed
}

func TestConfigIsRefused(t *testing.T) {
	for _, cfg := range []Config{
		{Names: []string{"alpha", "alpha"}},
		{Names: []string{"client"}},
		{Names: []string{"a-name-that-is-too-long"}},
		{Names: []string{"alpha"}, Witnesses: []string{"beta"}},
	} {
		if l, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeded, closing: %v", cfg, l.Close())
		}
	}
}

func TestProcessesRunInTheirHost(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	beta := l.Host("beta")
	out, err := beta.Exec(t.Context(), "cat", "/proc/sys/kernel/hostname", "/proc/self/net/fib_trie")
	must(t, err)
	if !strings.HasPrefix(out, "beta\n") || !strings.Contains(out, beta.V4.String()) {
		t.Errorf("a command doesn't see beta's name and address:\n%s", out)
	}
	_, err = beta.Exec(t.Context(), "cat", "no-such-file")
	if err == nil || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("error of a failed command = %v, want its standard error in it", err)
	}
}

func TestDaemonLifecycle(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	// A stand-in that keeps what it was called with, then waits.
	daemon := t.TempDir() + "/daemon"
	must(t, os.WriteFile(daemon, []byte("#!/bin/sh\necho \"$@\"\nexec sleep 1000\n"), 0o700))
	l := newLab(t, Config{HadBinary: daemon, Witnesses: []string{"gamma"}, Dir: t.TempDir()})
	alpha := l.Host("alpha")

	must(t, alpha.StartDaemon())
	if alpha.StartDaemon() == nil {
		t.Error("a second daemon started beside the first")
	}
	must(t, alpha.Pause())
	must(t, alpha.Kill(syscall.SIGKILL))
	if err := alpha.Wait(ctx); err == nil {
		t.Error("a killed daemon ended without an error")
	}
	if alpha.Running() {
		t.Error("a dead daemon counts as running")
	}
	must(t, alpha.Restart(ctx)) // from dead
	first := alpha.Daemon().Pid()
	must(t, alpha.Restart(ctx)) // from running
	if alpha.Daemon().Pid() == first || !alpha.Running() {
		t.Error("restart didn't replace the daemon")
	}

	config, err := os.ReadFile(alpha.Config())
	must(t, err)
	for _, want := range []string{`cluster "lab" {`, `node "beta" {`, `"10.77.0.12:7400"`, `"witness"`, `detect = "500ms"`, "insecure = true"} {
		if !strings.Contains(string(config), want) {
			t.Errorf("had.hcl lacks %s:\n%s", want, config)
		}
	}
}

func TestHexDigitsKeepTheDecimalOnes(t *testing.T) {
	if got := []byte{hexDigits(11), hexDigits(19), hexDigits(91)}; !slices.Equal(got, []byte{0x11, 0x19, 0x91}) {
		t.Errorf("hexDigits of 11, 19, 91 = %x", got)
	}
}
