package cluster

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
)

// TestThreeNodesOverTCPAndDisk runs what a host runs: sockets, files and
// CLOCK_BOOTTIME. Each node in turn is restarted from its disk.
func TestThreeNodesOverTCPAndDisk(t *testing.T) {
	const detect = 400 * time.Millisecond
	network, dir := newNetwork(), t.TempDir()
	type running struct {
		*Node
		stop func()
	}
	start := func(name string, run int) running {
		storage := openTestStorage(t, filepath.Join(dir, name))
		n, err := Open(Config{
			Birth: dataNodes(), Instance: instance(name, run), Timing: TimingFor(detect), Storage: storage,
			Transport: NewTransport(name, network.join(t, name), TimingFor(detect), hclog.New(&hclog.LoggerOptions{Output: io.Discard})),
			Clock:     clock.Now, Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		return running{n, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("stop %s: %v", name, err)
			}
		}}
	}
	up := map[string]running{}
	for _, m := range dataNodes().GetMembers() {
		up[m.GetName()] = start(m.GetName(), 1)
	}
	defer func() {
		for _, n := range up {
			n.stop()
		}
	}()

	// propose finds the leader and commits through it. A leader may lose
	// office on a busy machine: then the next one is asked.
	version := uint64(0)
	propose := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, n := range up {
				if !n.Leadership().Ready {
					continue
				}
				_, err := n.Propose(ctx, policyCmd(version, fmt.Sprintf("policy %d", version)))
				if v, _ := n.View(); err == nil || v.Policy.GetVersion() == version+1 {
					version++
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("no leader committed policy %d", version)
			}
		}
	}
	caughtUp := func(n *Node) {
		t.Helper()
		limit := time.NewTimer(20 * time.Second)
		defer limit.Stop()
		for {
			v, changed := n.View()
			if v.Policy.GetVersion() == version {
				return
			}
			select {
			case <-changed:
			case <-limit.C:
				t.Fatalf("%s is at policy %d, want %d", n.cfg.Instance.GetNode(), v.Policy.GetVersion(), version)
			}
		}
	}

	propose()
	for _, name := range []string{"alpha", "beta", "gamma"} {
		up[name].stop()
		delete(up, name)
		propose() // two of three go on, with a new leader if need be
		n := start(name, 2)
		up[name] = n
		caughtUp(n.Node)
		if v, _ := n.View(); v.Birth.GetClusterId() != "c-1" {
			t.Errorf("%s came back without the birth: %v", name, v.Birth)
		}
	}
	propose()
	for _, n := range up {
		caughtUp(n.Node)
	}
}
