package nettest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

const (
	// detect is the clusters' one knob where owners fail: a machine that stalls
	// for longer than a lease, twice as long, makes one fault more.
	detect = 300 * time.Millisecond
	// steady is for clusters whose owner must not change by itself.
	steady = time.Second
	// patience is far beyond what any single wait needs. A takeover from a
	// silent owner needs most: its lease and its addresses' lifetime, some
	// 4 s, and an election.
	patience = 30 * time.Second
	// glance is the time between two looks at what can only be polled.
	glance = 50 * time.Millisecond
)

// site is a cluster of real daemons and everything that judges it.
type site struct {
	*lab.Lab
	vips    []netip.Addr // that the policy of newSite names, one of each family
	hooks   *hookFolder
	wire    *lab.Wire
	clients map[netip.Addr]*lab.Client
	// noLedger: the policy's scripts are others than those of hooks.
	noLedger bool
}

// spareVIPs are watched from the start, for policies that name more addresses.
func spareVIPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.77.0.101"), netip.MustParseAddr("fd77::101")}
}

// newLab returns a lab whose hosts run no daemon yet. When the test has failed
// its daemons' logs are shown.
func newLab(t *testing.T, cfg lab.Config) *lab.Lab {
	t.Helper()
	cfg.HadBinary = hadBinary
	if cfg.VIPs == nil {
		cfg.VIPs = append(lab.DefaultVIPs(), spareVIPs()...)
	}
	if cfg.Detect == 0 {
		cfg.Detect = detect
	}
	l, err := lab.New(cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, l)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// newSite returns a cluster that serves an address of each family, with hooks
// that keep a ledger and a client that asks for each address.
func newSite(t *testing.T, cfg lab.Config) *site {
	t.Helper()
	s := newIdleSite(t, cfg)
	s.apply(t, s.Servers()[0].Name, s.policy(s.vips...))
	s.settled(t)
	return s
}

// newIdleSite returns a running cluster without a policy.
func newIdleSite(t *testing.T, cfg lab.Config) *site {
	t.Helper()
	s := newSilentSite(t, cfg)
	s.startAll(t)
	return s
}

// newSilentSite returns a cluster whose daemons have yet to be started.
func newSilentSite(t *testing.T, cfg lab.Config) *site {
	t.Helper()
	s := &site{Lab: newLab(t, cfg), vips: lab.DefaultVIPs(), clients: map[netip.Addr]*lab.Client{}}
	s.hooks = newHookFolder(t, s.VIPs())
	t.Cleanup(func() {
		if t.Failed() {
			s.showHistory(t)
		}
	})
	var err error
	s.wire, err = s.WatchWire()
	must(t, err)
	t.Cleanup(s.wire.Close)
	for _, vip := range s.vips {
		s.clients[vip], err = s.Client.Measure(lab.ClientConfig{Target: vip})
		must(t, err)
	}
	return s
}

// startAll starts the daemons and waits until the cluster is born.
func (s *site) startAll(t *testing.T) {
	t.Helper()
	for _, h := range s.Servers() {
		must(t, h.StartDaemon())
	}
	for _, h := range s.Servers() {
		eventually(t, h.Name+" is a member of a born cluster", func() error {
			st, err := s.status(t, h.Name)
			if err == nil && st.GetOwnership().GetState() != hadv1.Ownership_STATE_NO_POLICY {
				err = describe(st)
			}
			return err
		})
	}
}

// policy returns a policy with these addresses and the site's hooks.
func (s *site) policy(vips ...netip.Addr) string {
	var b strings.Builder
	for i, vip := range vips {
		fmt.Fprintf(&b, "vip \"v%d\" {\n  address = %q\n}\n", i, vip)
	}
	fmt.Fprintf(&b, "hooks {\n  dir     = %q\n  timeout = \"10s\"\n}\n", s.hooks.dir)
	return b.String()
}

// scenario runs one fault on a site that is well before it. Whatever the fault
// has left broken is mended after it, and then the invariants are judged.
func (s *site) scenario(t *testing.T, name string, fault func(t *testing.T, owner string)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		s.mend(t)
		owner := s.settled(t)
		since := time.Now()
		fault(t, owner)
		s.mend(t)
		s.judge(t, since)
	})
}

// mend ends every fault: cuts, unplugged links, stopped and dead daemons.
func (s *site) mend(t *testing.T) {
	t.Helper()
	must(t, s.Heal())
	s.hooks.mend(t)
	for _, h := range s.Servers() {
		must(t, s.LinkUp(h.Name))
		if err := h.Resume(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		revive(t, h)
	}
}

// revive starts a host's daemon unless it runs. A host that a fence switches off
// meanwhile stays without one.
func revive(t *testing.T, h *lab.Host) {
	t.Helper()
	if h.Running() {
		return
	}
	if err := h.StartDaemon(); !errors.Is(err, lab.ErrOff) {
		must(t, err)
	}
}

// kill ends a daemon as a crash would and waits until it is dead.
func (s *site) kill(t *testing.T, host string) {
	t.Helper()
	must(t, s.Host(host).Kill(syscall.SIGKILL))
	<-s.Host(host).Daemon().Done()
}

// stop ends a daemon in order.
func (s *site) stop(t *testing.T, host string) {
	t.Helper()
	must(t, s.Host(host).Kill(syscall.SIGTERM))
	if err := s.Host(host).Wait(within(t)); err != nil {
		t.Errorf("had on %s didn't end well after SIGTERM: %v", host, err)
	}
}

// others returns the servers but the named ones.
func (s *site) others(names ...string) []string {
	var out []string
	for _, h := range s.Servers() {
		if !slices.Contains(names, h.Name) {
			out = append(out, h.Name)
		}
	}
	return out
}

// takenOver returns the host that holds all the addresses, once it is another
// than the old owner, the nodes that can be asked agree, and clients that it
// can hear are answered by it.
func (s *site) takenOver(t *testing.T, old string) string {
	t.Helper()
	return s.served(t, "another than "+old+" serves, and the nodes that can be asked agree", func() (string, error) {
		return s.agreed(t, old)
	})
}

// settled returns the owner, once every node says, confirmed by a quorum, that
// it serves, no other host holds an address, and the client is answered by
// it.
func (s *site) settled(t *testing.T) string {
	t.Helper()
	return s.served(t, "all nodes and the observer agree on one owner", func() (string, error) { return s.agreed(t) })
}

// served returns the owner that look finds, once clients are answered by it. A
// busy machine may cost it its lease before: then the next one counts.
func (s *site) served(t *testing.T, what string, look func() (string, error)) (owner string) {
	t.Helper()
	var err error
	for range 3 {
		eventually(t, what, func() (err error) {
			owner, err = look()
			return err
		})
		if err = s.answers(t, owner); err == nil {
			return owner
		}
	}
	t.Fatal(err)
	return ""
}

// agreed returns the owner that the observer sees now, and every node but the
// excepted ones and those that have ended. No excepted node is the owner.
func (s *site) agreed(t *testing.T, except ...string) (owner string, err error) {
	t.Helper()
	for _, node := range s.others(except...) {
		if len(except) > 0 && !s.Host(node).Running() {
			continue
		}
		said, err := s.ownerSaidBy(t, node)
		if err != nil {
			return "", err
		}
		if owner != "" && said != owner {
			return "", fmt.Errorf("one node says that %s owns, %s says %s", owner, node, said)
		}
		owner = said
	}
	if owner == "" || slices.Contains(except, owner) {
		return "", fmt.Errorf("the nodes say that %q owns", owner)
	}
	for _, vip := range s.vips {
		h, err := s.Observer.History(t.Context(), vip)
		if err != nil {
			return "", err
		}
		if !slices.Equal(h.Holders(), []string{owner}) {
			return "", fmt.Errorf("the nodes say that %s owns; %s is on %v", owner, vip, h.Holders())
		}
	}
	return owner, nil
}

// holder waits until one host, not among except, holds every address.
func (s *site) holder(t *testing.T, except ...string) string {
	t.Helper()
	owner, err := s.Observer.AwaitHolder(within(t), s.vips[0], except...)
	must(t, err)
	for _, vip := range s.vips[1:] {
		must(t, s.Observer.Await(within(t), vip, owner))
	}
	return owner
}

// vacant waits until no host holds any of the addresses.
func (s *site) vacant(t *testing.T) {
	t.Helper()
	for _, vip := range s.vips {
		must(t, s.Observer.Await(within(t), vip))
	}
}

// agrees waits until a node says that owner serves.
func (s *site) agrees(t *testing.T, node, owner string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s says that %s owns", node, owner), func() error {
		said, err := s.ownerSaidBy(t, node)
		if err == nil && said != owner {
			err = fmt.Errorf("it says that %s owns", said)
		}
		return err
	})
}

// answers waits until the client has, from now on, an answer of owner for every
// address.
func (s *site) answers(t *testing.T, owner string) error {
	t.Helper()
	since := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	for _, vip := range s.vips {
		if _, err := s.clients[vip].AwaitAnswer(ctx, since, s.others(owner)...); err != nil {
			return fmt.Errorf("the client gets no answer of %s from %s: %w", vip, owner, err)
		}
	}
	return nil
}

// within returns a context that ends when patience does.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually looks until it is so, and fails with the latest reason why not. On a
// busy machine looks take long, as does all that is waited for, and so patience
// lasts for a number of them.
func eventually(t *testing.T, what string, look func() error) {
	t.Helper()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for looks := 1; ; looks++ {
		err := look()
		if err == nil {
			return
		}
		if looks > int(patience/glance)/4 && time.Now().After(deadline) {
			t.Fatalf("never came about: %s\n%v", what, err)
		}
		<-tick.C
	}
}
