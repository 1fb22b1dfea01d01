package checkup

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/fence"
	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// aNetwork is a host's with eth0, on which all is well unless a test says otherwise.
type aNetwork struct {
	resolve, carrier, ask error
	down                  bool
	here                  vip.Presence
	foreign               []vip.Conflict
}

func (n *aNetwork) Resolve(want []vip.Wanted) []vip.Resolved {
	out := make([]vip.Resolved, len(want))
	for i, w := range want {
		out[i] = vip.Resolved{Address: vip.Address{Addr: w.Addr, Interface: "eth0"}, Err: n.resolve}
	}
	return out
}
func (n *aNetwork) Carrier(string) (bool, error) { return !n.down, n.carrier }
func (n *aNetwork) Holders(context.Context, []vip.Address, time.Duration, []net.HardwareAddr) ([]vip.Conflict, error) {
	return n.foreign, n.ask
}
func (n *aNetwork) Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error) {
	out := map[netip.Addr]vip.Presence{}
	for _, a := range addrs {
		out[a] = n.here
	}
	return out, nil
}

// aDevice says of its host what a test wants.
type aDevice struct{ check, isOff error }

func (aDevice) String() string                   { return "fence_test ip=10.0.9.12" }
func (aDevice) Off(context.Context) error        { panic("a checkup switches nothing off") }
func (d aDevice) IsOff(context.Context) error    { return d.isOff }
func (d aDevice) Check(context.Context) error    { return d.check }
func (d aDevice) levels() ([]fence.Level, error) { return []fence.Level{{d}}, nil }

const text = `
vip "web" { address = "192.0.2.10" }
volume "data" {
  device = "LABEL=data"
  path   = "/srv/data"
  fstype = "ext4"
}
fence {
  methods = ["agent"]
  agent "alpha" { program = "fence_test" }
  agent "beta" { program = "fence_test" }
}
hooks { dir = "HOOKS" }
check "tcp" "site" {
  address = "127.0.0.1:80"
  on      = "all"
}
check "tcp" "service" {
  address = "127.0.0.1:81"
  on      = "owner"
}
sync "docs" {
  command = ["rsync"]
  every   = "10m"
}
reconnect_token "tls" { location = "/srv/tls" }
`

type rig struct {
	Config
	Options
	network *aNetwork
	device  aDevice
	held    uint64
	broken  []string // volumes
	hooks   string
	checks  []*hadv1.CheckStatus
	sync    *hadv1.SyncStatus
	token   *hadv1.TokenPlace
	trouble []string // of syncs and tokens
	drained string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{network: &aNetwork{here: vip.Inactive}, device: aDevice{isOff: fence.ErrOn}, hooks: t.TempDir()}
	r.checks = []*hadv1.CheckStatus{{Name: "site", State: hadv1.CheckStatus_STATE_PASSING, Times: 3}}
	r.sync = &hadv1.SyncStatus{Name: "docs", State: hadv1.SyncStatus_STATE_WAITING, Copied: true, AgeMs: 90_000}
	r.token = &hadv1.TokenPlace{Name: "tls", Version: 2}
	p, diags := policy.ParsePolicy("policy.hcl", []byte(strings.Replace(text, "HOOKS", r.hooks, 1)))
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	r.Options = Options{Alive: []string{"beta"}}
	r.Config = Config{
		Node: "alpha", Others: []string{"beta"}, DataDir: t.TempDir(), Network: r.network,
		Policy:     func() (*policy.Policy, uint64, error) { return p, 3, nil },
		Held:       func() uint64 { return r.held },
		Volumes:    func(context.Context, *policy.Policy) ([]string, error) { return r.broken, nil },
		Devices:    func(policy.Fence, policy.Method, string) ([]fence.Level, error) { return r.device.levels() },
		Tests:      func(context.Context) ([]hook.Result, error) { return nil, nil },
		Safeguards: func() (layers, missing []string) { return []string{"lifetime", "guard"}, nil },
		Trouble:    func() []string { return nil },
		Drained:    func() string { return r.drained },
		Checks:     func() []*hadv1.CheckStatus { return r.checks },
		Syncs:      func(*policy.Policy) ([]*hadv1.SyncStatus, []string) { return []*hadv1.SyncStatus{r.sync}, r.trouble },
		Tokens: func(*policy.Policy) (*hadv1.TokenHealth, []string) {
			return &hadv1.TokenHealth{Places: []*hadv1.TokenPlace{r.token}}, nil
		},
		Watchdog: func(*policy.Policy) []string { return nil },
		Slew:     func() (float64, error) { return 0.0001, nil }, MaxSlew: 0.001,
	}
	return r
}

func (r *rig) script(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	dir := filepath.Join(r.hooks, "192.0.2.10")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAHostThatIsWell(t *testing.T) {
	r := newRig(t)
	r.script(t, "Test", 0o755)
	found := map[string]bool{}
	for _, f := range Run(t.Context(), r.Config, r.Options) {
		found[f.GetCheck()] = true
		// A temporary folder may be somebody else's to write, if root doesn't run this.
		if l := f.GetLevel(); l != hadv1.Finding_LEVEL_OK && f.GetCheck() != "Test" && f.GetCheck() != "hooks" && f.GetCheck() != "check service" && f.GetCheck() != "data folder" {
			t.Errorf("of a host that is well: %v", f)
		}
		if f.GetCheck() == "Test" && f.GetLevel() != hadv1.Finding_LEVEL_SKIPPED {
			t.Errorf("a Test ran unasked: %v", f)
		}
	}
	for _, check := range []string{"policy", "interface", "addresses", "network", "hooks", "Test", "check site", "check service", "volume data", "sync docs", "token tls", "fence beta", "clock", "data folder", "safeguards"} {
		if !found[check] {
			t.Errorf("nothing is said of %s", check)
		}
	}
}

func TestWhatIsWrongIsFound(t *testing.T) {
	const fail, warn, ok = hadv1.Finding_LEVEL_FAIL, hadv1.Finding_LEVEL_WARN, hadv1.Finding_LEVEL_OK
	for name, c := range map[string]struct {
		change func(t *testing.T, r *rig)
		check  string
		level  hadv1.Finding_Level
		words  string
	}{
		"no policy": {func(_ *testing.T, r *rig) {
			r.Policy = func() (*policy.Policy, uint64, error) { return nil, 0, nil }
		}, "policy", fail, "there is none yet"},
		"a policy of a newer had": {func(_ *testing.T, r *rig) {
			r.Policy = func() (*policy.Policy, uint64, error) { return nil, 4, errors.New("can't read it") }
		}, "policy", fail, "can't read it"},
		"no interface":   {func(_ *testing.T, r *rig) { r.network.resolve = errors.New("no subnet") }, "interface", fail, `vip "web": no subnet`},
		"no link":        {func(_ *testing.T, r *rig) { r.network.down = true }, "interface", fail, "eth0 for web has no link"},
		"a left address": {func(_ *testing.T, r *rig) { r.network.here = vip.Active }, "addresses", fail, "192.0.2.10 is on this host although"},
		"the owner has its addresses": {func(_ *testing.T, r *rig) {
			r.network.here, r.held = vip.Active, 7
		}, "addresses", ok, "1 of 1 are on this host, which has epoch 7"},
		"somebody else has an address": {func(_ *testing.T, r *rig) {
			r.network.foreign = []vip.Conflict{{Address: vip.Address{Addr: netip.MustParseAddr("192.0.2.10"), Interface: "eth0"}, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}
		}, "network", fail, "192.0.2.10 on eth0 is answered by 02:00:00:00:00:09"},
		"the network can't be asked":             {func(_ *testing.T, r *rig) { r.network.ask = errors.New("no address") }, "network", warn, "no address"},
		"a script that others can write":         {func(t *testing.T, r *rig) { r.script(t, "PreAcq10", 0o777) }, "hooks", fail, "had won't run PreAcq10, which a takeover needs"},
		"a release script that others can write": {func(t *testing.T, r *rig) { r.script(t, "PostRel10", 0o777) }, "hooks", warn, "had won't run PostRel10"},
		"a script that isn't executable":         {func(t *testing.T, r *rig) { r.script(t, "PreAcq10", 0o644) }, "hooks", warn, "it is not executable"},
		"a Test that says no": {func(t *testing.T, r *rig) {
			r.script(t, "Test", 0o755)
			r.Options.Tests = true
			r.Config.Tests = func(context.Context) ([]hook.Result, error) {
				return []hook.Result{{Script: "Test", VIP: "192.0.2.10", Outcome: hook.Exited, ExitCode: 3, OutputTail: []byte("no\a")}}, nil
			}
		}, "Test", fail, `Test for 192.0.2.10 exited with 3 after 0s; it printed: "no\a"`},
		"a device that isn't there": {func(_ *testing.T, r *rig) {
			r.broken = []string{"volume data: this host has no such device: LABEL=data"}
		}, "volume data", fail, "this host has no such device"},
		"volumes that can't be looked at": {func(_ *testing.T, r *rig) {
			r.Volumes = func(context.Context, *policy.Policy) ([]string, error) { return nil, errors.New("a look hangs") }
		}, "volumes", fail, "a look hangs"},
		"an owner without its volume":        {func(_ *testing.T, r *rig) { r.held = 7 }, "volume data", fail, "not mounted on /srv/data, although"},
		"a fence agent that isn't installed": {func(_ *testing.T, r *rig) { r.device.check = errors.New("not found") }, "fence beta", fail, "not found"},
		"the wrong plug":                     {func(_ *testing.T, r *rig) { r.device.isOff = nil }, "fence beta", fail, "says that beta is off, and beta answers"},
		"a node that is off": {func(_ *testing.T, r *rig) {
			r.device.isOff, r.Alive = nil, nil
		}, "fence beta", warn, "says that beta is off"},
		"a fence device that doesn't answer": {func(_ *testing.T, r *rig) { r.device.isOff = errors.New("no route") }, "fence beta", fail, "no route"},
		"a clock that is pulled":             {func(_ *testing.T, r *rig) { r.Slew = func() (float64, error) { return -0.05, nil } }, "clock", fail, "-5.0 % off"},
		"a data folder that is gone":         {func(_ *testing.T, r *rig) { r.DataDir = "/nowhere" }, "data folder", fail, "/nowhere"},
		"no gate": {func(_ *testing.T, r *rig) {
			r.Safeguards = func() (layers, missing []string) { return []string{"lifetime"}, []string{"it has no packet gate"} }
		}, "safeguards", warn, "it has no packet gate"},
		"a host in trouble":        {func(_ *testing.T, r *rig) { r.Trouble = func() []string { return []string{"the disk is full"} } }, "host", fail, "the disk is full"},
		"drained":                  {func(_ *testing.T, r *rig) { r.drained = "drained by ann: new disk" }, "drain", fail, "drained by ann: new disk"},
		"a check beside its place": {func(*testing.T, *rig) {}, "check service", hadv1.Finding_LEVEL_SKIPPED, "it runs on the owner alone"},
		"a check that doesn't run": {func(_ *testing.T, r *rig) { r.checks = nil }, "check site", fail, "it doesn't run yet"},
		"a check that fails": {func(_ *testing.T, r *rig) {
			r.checks[0].State, r.checks[0].Detail = hadv1.CheckStatus_STATE_FAILING, "connection refused"
		}, "check site", fail, "it failed 3 times in a row: connection refused"},
		"a check that hasn't passed": {func(_ *testing.T, r *rig) { r.checks[0].State = hadv1.CheckStatus_STATE_UNSPECIFIED }, "check site", fail, "it has not passed yet"},
		"an owner's check that hasn't passed": {func(_ *testing.T, r *rig) {
			r.held, r.checks[0].State = 7, hadv1.CheckStatus_STATE_UNSPECIFIED
		}, "check site", warn, "it has not passed in this turn yet"},
		"a copy that is too old": {func(_ *testing.T, r *rig) {
			r.trouble = []string{"its copy of sync docs is 2h0m0s old, and max_age is 1h0m0s"}
		}, "sync docs", fail, "max_age is 1h0m0s"},
		"a sync that can't be ended": {func(_ *testing.T, r *rig) {
			r.trouble = []string{"what an earlier run of had may have left of its syncs has not been looked for yet"}
		}, "syncs", fail, "what an earlier run"},
		"no copy": {func(_ *testing.T, r *rig) { r.sync.Copied = false }, "sync docs", warn, "there is no copy yet"},
		"a sync that is held": {func(_ *testing.T, r *rig) {
			r.sync.State, r.sync.Why = hadv1.SyncStatus_STATE_HELD, "beta took over"
		}, "sync docs", warn, "held, its copy is 1m30s old: beta took over"},
		"a sync that fails": {func(_ *testing.T, r *rig) { r.sync.Failures, r.sync.Why = 4, "it exited with 23" }, "sync docs", warn, "its copy is 1m30s old, and the latest 4 runs failed: it exited with 23"},
		"the owner's sync":  {func(_ *testing.T, r *rig) { r.sync.State = hadv1.SyncStatus_STATE_OWNER }, "sync docs", ok, "it is what is copied from"},
		"a token without a key": {func(_ *testing.T, r *rig) {
			r.Config.Tokens = func(*policy.Policy) (*hadv1.TokenHealth, []string) {
				return nil, []string{"this node has no token key"}
			}
		}, "tokens", fail, "this node has no token key"},
		"a token that isn't in place": {func(_ *testing.T, r *rig) { r.token.Wrong = "no quorum" }, "token tls", warn, "no quorum"},
		"a witness":                   {func(_ *testing.T, r *rig) { r.Witness = true }, "role", ok, "a witness"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c.change(t, r)
			all := Run(t.Context(), r.Config, r.Options)
			for _, f := range all {
				if f.GetCheck() == c.check && f.GetLevel() == c.level && strings.Contains(f.GetDetail(), c.words) {
					return
				}
			}
			t.Errorf("%s isn't found as %s, %q: %v", name, c.level, c.words, all)
		})
	}
}
