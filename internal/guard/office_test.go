package guard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"

	"had/internal/clock"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// office is a cluster that was born: alpha is the daemon under test, the
// others listen on real ports.
type office struct {
	t       testing.TB
	members []peer.Member
	dir     string // alpha's
	nodeID  string
	tls     *TLSPaths // alpha's
	heard   chan heard
}

type heard struct {
	by       string
	at       clock.Instant
	farewell *hadv1.Farewell
	secured  *hadv1.Secured
}

// vacate removes the control groups that the next start of had would remove.
func (o *office) vacate() {
	guards, err := guardGroup(o.dir)
	if err != nil {
		return // this host has none
	}
	services, err := servicesOf(o.dir)
	if err != nil {
		o.t.Error(err)
		return
	}
	eventually(o.t, "the control groups to be empty", func() bool {
		return errors.Join(clearOut(guards), clearOut(services.Group)) == nil
	})
}

func newOffice(t testing.TB, files func(node string) *peer.TLSFiles) *office {
	t.Helper()
	o := &office{t: t, heard: make(chan heard, 16)}
	t.Cleanup(o.vacate)
	a, b := 16+rand.IntN(200), 1+rand.IntN(250)
	names := []string{"alpha", "beta", "gamma"}
	for i, n := range names {
		o.members = append(o.members, peer.Member{Name: n, Address: fmt.Sprintf("127.%d.%d.%d:7400", a, b, i+1)})
	}
	var meetings sync.WaitGroup
	var leave context.CancelFunc // alpha's port
	for i, n := range names {
		dir := filepath.Join(t.TempDir(), "data")
		id, err := peer.OpenIdentity(dir, "office", n, o.members)
		if err != nil {
			t.Fatal(err)
		}
		cfg := peer.PortConfig{Identity: id, Listen: o.members[i].Address, Logger: hclog.NewNullLogger(), Version: "test"}
		if files != nil {
			cfg.TLS = files(n)
		}
		port, err := peer.Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := port.Run(ctx); err != nil {
				t.Errorf("%s: %v", n, err)
			}
		})
		t.Cleanup(func() { cancel(); ended.Wait() })
		if n == "alpha" {
			o.dir, o.nodeID, leave = dir, id.NodeID(), cancel
		} else {
			o.serve(n, port)
		}
		meetings.Go(func() {
			if _, err := port.Meet(ctx); err != nil {
				t.Errorf("%s: %v", n, err)
			}
		})
	}
	meetings.Wait()
	leave()
	return o
}

// serve answers TakeFarewell for a node.
func (o *office) serve(node string, port *peer.Port) {
	s := grpc.NewServer()
	hadv1.RegisterPeerServer(s, &listener{office: o, node: node})
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(port.RPCListener()) }) // ends with the port
	o.t.Cleanup(func() { s.Stop(); served.Wait() })
}

type listener struct {
	hadv1.UnimplementedPeerServer
	office *office
	node   string
}

func (l *listener) TakeFarewell(_ context.Context, r *hadv1.TakeFarewellRequest) (*hadv1.TakeFarewellResponse, error) {
	l.office.heard <- heard{by: l.node, at: clock.Now(), farewell: r.GetFarewell()}
	return &hadv1.TakeFarewellResponse{}, nil
}

func (l *listener) TakeSecured(_ context.Context, r *hadv1.TakeSecuredRequest) (*hadv1.TakeSecuredResponse, error) {
	l.office.heard <- heard{by: l.node, at: clock.Now(), secured: r.GetSecured()}
	return &hadv1.TakeSecuredResponse{}, nil
}

func (o *office) config() daemonConfig {
	return daemonConfig{Dir: o.dir, Node: "alpha", NodeID: o.nodeID, Nonce: "0123456789abcdef", Members: o.members, TLS: o.tls, Margin: 50 * time.Millisecond}
}

// visit returns the office for one test of several: as if nothing had happened.
func (o *office) visit(t testing.TB) *office {
	t.Helper()
	if _, err := Settle(t.Context(), o.dir); err != nil {
		t.Fatal(err)
	}
	if err := ForgetFarewell(o.dir); err != nil {
		t.Fatal(err)
	}
	for len(o.heard) > 0 {
		<-o.heard
	}
	visited := *o
	visited.t = t
	return &visited
}

func (o *office) guard() Config { return o.config().guard() }

// farewells waits until both others have heard and returns when the last had.
func (o *office) farewells(epoch uint64) (last clock.Instant) {
	o.t.Helper()
	by := map[string]bool{}
	for len(by) < 2 {
		select {
		case h := <-o.heard:
			by[h.by] = true
			last = max(last, h.at)
			r := h.farewell.GetReleased()
			if r.GetEpoch() != epoch || r.GetKind() != hadv1.Evidence_KIND_RELEASED || !r.GetForced() ||
				h.farewell.GetNodeId() != o.nodeID || r.GetReporter().GetNonce() != "0123456789abcdef" || r.GetReporter().GetNode() != "alpha" {
				o.t.Errorf("%s heard %v", h.by, h.farewell)
			}
		case <-time.After(10 * time.Second):
			o.t.Fatalf("only %v were told", by)
		}
	}
	return last
}

// secured waits until both others have heard that the volumes of an epoch are
// safe, and returns when the last had.
func (o *office) secured(epoch uint64) (last clock.Instant) {
	o.t.Helper()
	by := map[string]bool{}
	for len(by) < 2 {
		select {
		case h := <-o.heard:
			by[h.by] = true
			last = max(last, h.at)
			if s := h.secured; s.GetEpoch() != epoch || s.GetKind() != hadv1.Secured_KIND_GUARD || s.GetInstance().GetNodeId() != o.nodeID || s.GetBy() != "alpha" {
				o.t.Errorf("%s heard %v and %v", h.by, s, h.farewell)
			}
		case <-time.After(10 * time.Second):
			o.t.Fatalf("only %v were told", by)
		}
	}
	return last
}

// silent fails when anybody was told anything.
func (o *office) silent() {
	o.t.Helper()
	select {
	case h := <-o.heard:
		o.t.Errorf("%s was told %v and %v", h.by, h.farewell, h.secured)
	default:
	}
}

// virtual returns n addresses of each family on eth0.
func virtual(n int) []vip.Address {
	var out []vip.Address
	for i := range n {
		out = append(out,
			vip.Address{Addr: netip.AddrFrom4([4]byte{192, 0, 2 + byte(i>>8), byte(i)}), Interface: "eth0"},
			vip.Address{Addr: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)}), Interface: "eth0"})
	}
	return out
}

// present counts which of the addresses this host has.
func present(t testing.TB, addrs []vip.Address) (n int) {
	t.Helper()
	found, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	has := map[netip.Addr]bool{}
	for _, a := range found {
		ip, _ := netip.AddrFromSlice(a.IP)
		has[ip.Unmap()] = true
	}
	for _, a := range addrs {
		if has[a.Addr] {
			n++
		}
	}
	return n
}

// gone waits until none of the addresses is there and returns when the last
// look began that saw one.
func gone(t testing.TB, addrs []vip.Address) (last clock.Instant) {
	t.Helper()
	deadline := clock.Now().Add(10 * time.Second)
	for {
		now := clock.Now()
		if present(t, addrs) == 0 {
			return last
		}
		if last = now; deadline.Before(now) {
			t.Fatal("the addresses stay")
		}
	}
}
