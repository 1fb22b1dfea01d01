package nettest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
)

// second is a second cluster on the hosts of a site, with daemons of its own.
type second struct {
	s       *site
	vip     netip.Addr
	daemons map[string]*lab.Process
}

// file writes its node file, made of the first cluster's.
func (c second) file(t *testing.T, h *lab.Host, extra string) string {
	t.Helper()
	text, err := os.ReadFile(h.Config())
	must(t, err)
	other := strings.NewReplacer(
		`cluster "lab"`, `cluster "shop"`, ":7400", ":7401", h.DataDir(), h.DataDir()+"2", h.Socket(), c.socket(h),
	).Replace(string(text))
	path := filepath.Join(h.Dir(), "shop.hcl")
	must(t, os.WriteFile(path, []byte(other+extra), 0o600))
	return path
}

func (c second) socket(h *lab.Host) string { return filepath.Join(h.Dir(), "shop.sock") }

func (c second) log(h *lab.Host) string { return filepath.Join(h.Dir(), "shop.log") }

func (c second) start(t *testing.T, h *lab.Host) {
	t.Helper()
	p, err := h.Start(c.log(h), hadBinary, "run", "--config", c.file(t, h, ""))
	must(t, err)
	c.daemons[h.Name] = p
}

// hactl asks the second cluster's daemon of a host.
func (c second) hactl(t *testing.T, h *lab.Host, args ...string) (string, error) {
	t.Helper()
	return h.Exec(within(t), append([]string{hactlBinary, "--socket", c.socket(h)}, args...)...)
}

// owned waits until every node says that the second cluster has an owner, other than
// except, and returns it.
func (c second) owned(t *testing.T, except string) (owner string) {
	t.Helper()
	eventually(t, "the second cluster has an owner", func() error {
		for _, h := range c.s.Servers() {
			if h.Name == except {
				continue
			}
			out, err := c.hactl(t, h, "wait", "--for", "healthy", "--timeout", "1s")
			if err != nil && except == "" {
				return fmt.Errorf("%s: %w", out, err)
			}
			holder, err := c.s.Observer.AwaitHolder(within(t), c.vip, except)
			if err != nil {
				return err
			}
			owner = holder
		}
		return nil
	})
	return owner
}

// TestTwoClustersOnTheSameHosts runs two clusters on three hosts, each with an owner
// of its own, and kills the daemon of one: the other is untouched.
func TestTwoClustersOnTheSameHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})
	shop := second{s, spareVIPs()[0], map[string]*lab.Process{}}
	for _, h := range s.Servers() {
		shop.start(t, h)
	}
	t.Cleanup(func() {
		for _, h := range s.Servers() {
			if t.Failed() {
				log, _ := os.ReadFile(shop.log(h))
				t.Logf("the second cluster on %s:\n%s", h.Name, log)
			}
		}
	})
	first := s.settled(t)
	host := s.Host(s.Servers()[0].Name)
	policy := filepath.Join(t.TempDir(), "shop.hcl")
	must(t, os.WriteFile(policy, []byte(fmt.Sprintf("prefer = [%q]\nvip \"shop\" { address = %q }\n", first, shop.vip)), 0o600))
	eventually(t, "the second cluster takes a policy", func() error {
		out, err := shop.hactl(t, host, "policy", "apply", policy)
		if err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	})
	// Both are owned by one host; then by two.
	owner := shop.owned(t, "")
	if owner != first {
		_, err := shop.hactl(t, host, "move", "--to", first)
		must(t, err)
		owner = shop.owned(t, "")
	}
	epoch, began := s.epoch(t), time.Now()
	// What the other cluster has is refused, and changes nothing.
	shared := filepath.Join(t.TempDir(), "shared.hcl")
	must(t, os.WriteFile(shared, []byte(fmt.Sprintf("vip \"shop\" { address = %q }\nvip \"theirs\" { address = %q }\n", shop.vip, s.vips[0])), 0o600))
	out, err := shop.hactl(t, host, "policy", "apply", "--yes", shared)
	if want := fmt.Sprintf("the cluster \"lab\", which runs on this host, too, has %s in its policy", s.vips[0]); err == nil || !strings.Contains(out+err.Error(), want) {
		t.Errorf("two clusters have one address: %v\n%s", err, out)
	}

	// Its guard and its gate let go, and another host takes over.
	must(t, shop.daemons[owner].Signal(syscall.SIGKILL))
	<-shop.daemons[owner].Done()
	next := shop.owned(t, owner)
	if next == owner {
		t.Fatalf("%s holds %s after its daemon was killed", owner, shop.vip)
	}
	if now := s.settled(t); now != first || s.epoch(t) != epoch {
		t.Errorf("the other cluster has moved from %s to %s, or begun anew", first, now)
	}

	// The killed one comes back, and a stop in order leaves the other alone, too.
	shop.start(t, s.Host(owner))
	if now := shop.owned(t, ""); now != next {
		t.Errorf("the second cluster went from %s to %s when a node came back", next, now)
	}
	for _, h := range s.Servers() {
		must(t, shop.daemons[h.Name].Signal(syscall.SIGTERM))
	}
	for _, h := range s.Servers() {
		must(t, shop.daemons[h.Name].Wait(within(t)))
	}
	must(t, s.Observer.Await(within(t), shop.vip))
	if now := s.settled(t); now != first || s.epoch(t) != epoch {
		t.Errorf("the other cluster has moved from %s to %s, or begun anew", first, now)
	}
	for _, vip := range append(s.vips, shop.vip) {
		s.neverTwoHolders(t, vip, began)
	}
}
