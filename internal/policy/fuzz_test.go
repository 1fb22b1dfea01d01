package policy_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"had/internal/policy"
)

// addSeeds adds the input of every golden case to the corpus of f.
func addSeeds(f *testing.F, file string) {
	f.Helper()
	cases, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(cases) == 0 {
		f.Fatalf("find the seeds: %d, %v", len(cases), err)
	}
	for _, path := range cases {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if input := archive.Files[0]; input.Name == file {
			f.Add(input.Data)
		}
	}
}

func FuzzParseNode(f *testing.F) {
	addSeeds(f, "had.hcl")
	f.Fuzz(func(t *testing.T, src []byte) {
		file, diags := policy.ParseNode("had.hcl", src, "alpha")
		checkRendering(t, diags)
		if (file == nil) != diags.HasErrors() {
			t.Fatalf("value %v with diagnostics:\n%s", file, diags)
		}
		_, again := policy.ParseNode("had.hcl", src, "alpha")
		if diff := cmp.Diff(diags, again); diff != "" {
			t.Errorf("two readings differ:\n%s", diff)
		}
		if file != nil {
			checkNodeFile(t, file)
		}
	})
}

// checkNodeFile checks what the daemon relies on without looking.
func checkNodeFile(t *testing.T, f *policy.NodeFile) {
	t.Helper()
	if n := len(f.Members); n < 1 || n > 7 || n == 2 && !f.TwoVotersAccepted {
		t.Errorf("%d members were accepted", n)
	}
	owners := 0
	seen := map[string]bool{}
	for _, m := range f.Members {
		if !m.Witness {
			owners++
		}
		name := strings.ToLower(m.Name)
		if m.Name == "" || m.Address == "" || seen[name] || seen[m.Address] {
			t.Errorf("member %+v isn't complete and unique", m)
		}
		seen[name], seen[m.Address] = true, true
	}
	if owners == 0 || f.Self().Name != f.Node {
		t.Errorf("%d owners, self %+v", owners, f.Self())
	}
	for _, path := range []string{f.DataDir, f.Socket} {
		if !filepath.IsAbs(path) {
			t.Errorf("relative path %q", path)
		}
	}
	if f.Detect < 100e6 || f.Detect > 10e9 {
		t.Errorf("detect is %s", f.Detect)
	}
}

func FuzzParsePolicy(f *testing.F) {
	addSeeds(f, "policy.hcl")
	f.Fuzz(func(t *testing.T, src []byte) {
		p, diags := policy.ParsePolicy("policy.hcl", src)
		checkRendering(t, diags)
		if (p == nil) != diags.HasErrors() {
			t.Fatalf("value %v with diagnostics:\n%s", p, diags)
		}
		_, again := policy.ParsePolicy("policy.hcl", src)
		if diff := cmp.Diff(diags, again); diff != "" {
			t.Errorf("two readings differ:\n%s", diff)
		}
		if p != nil {
			checkPolicy(t, p)
		}
	})
}

// checkPolicy checks what owners rely on without looking.
func checkPolicy(t *testing.T, p *policy.Policy) {
	t.Helper()
	names, addresses := map[string]bool{}, map[netip.Addr]bool{}
	for _, v := range p.VIPs {
		if !v.Address.IsGlobalUnicast() || v.Address.Is4In6() || v.Address.Zone() != "" {
			t.Errorf("%s is no virtual address", v.Address)
		}
		if v.Name == "" || names[v.Name] || addresses[v.Address] {
			t.Errorf("vip %+v isn't complete and unique", v)
		}
		names[v.Name], addresses[v.Address] = true, true
	}
	if !filepath.IsAbs(p.Hooks.Dir) || p.Hooks.Timeout <= 0 || p.Hooks.Timeout.Hours() > 1 || len(p.Hooks.OnFailure) != 2 {
		t.Errorf("hooks are %+v", p.Hooks)
	}
	checkVolumes(t, p)
	checkSyncs(t, p)
	checkSteering(t, p)
	checkRendering(t, p.CheckMembers(members))
	checkRendering(t, p.CheckNode(&policy.NodeFile{Node: "alpha", DataDir: "/srv/had", Socket: "/srv/web/had.sock"}))
}

// checkSteering checks what decides when the owner changes by itself.
func checkSteering(t *testing.T, p *policy.Policy) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range p.Checks {
		targets := 0
		for _, set := range []bool{c.URL != "", c.Address != "", len(c.Command) > 0 && filepath.IsAbs(c.Command[0]), c.Interface != "", c.Volume != nil && c.On == policy.OnOwner} {
			if set {
				targets++
			}
		}
		if c.Name == "" || names[c.Name] || targets != 1 || c.Interval <= 0 || c.Timeout <= 0 || c.StartPeriod < 0 || c.Failures < 1 || c.Successes < 1 {
			t.Errorf("check %+v", c)
		}
		names[c.Name] = true
	}
	if f := p.Failback; f.Auto && (f.Delay <= 0 || len(p.Prefer) == 0) {
		t.Errorf("failback %+v, prefer %v", f, p.Prefer)
	}
	if l := p.Limits.OrDefault(); l.MaxFailovers < 1 || l.Within <= 0 {
		t.Errorf("limits %+v", l)
	}
}

// checkVolumes checks what decides whether a volume may be mounted.
func checkVolumes(t *testing.T, p *policy.Policy) {
	t.Helper()
	devices := map[string]bool{}
	for i, v := range p.Volumes {
		if v.Name == "" || v.Device == "" || devices[v.Device] || v.Path != filepath.Clean(v.Path) || !filepath.IsAbs(v.Path) || v.Path == "/" {
			t.Errorf("volume %+v isn't complete and unique", v)
		}
		if v.Fsck != policy.FsckNever && (v.Fsck != policy.FsckPreen || v.Network()) {
			t.Errorf("volume %s: fsck is %q", v.Name, v.Fsck)
		}
		for _, before := range p.Volumes[:i] {
			if before.Path == v.Path || strings.HasPrefix(before.Path, v.Path+"/") {
				t.Errorf("volume %s hides %s", v.Path, before.Path)
			}
		}
		for _, o := range v.Options {
			if o == "" || strings.ContainsAny(o, ", \t\n") || o == "bg" || strings.HasPrefix(o, "remount") {
				t.Errorf("volume %s: option %q", v.Name, o)
			}
		}
		devices[v.Device] = true
	}
	f := p.Fence
	if len(p.Volumes) > 0 && len(f.Methods) == 0 {
		t.Error("volumes were accepted without a fence")
	}
	timed := slices.Contains(f.Methods, policy.MethodLease) || slices.Contains(f.Methods, policy.MethodWatchdog)
	if timed != (f.Margin > 0) || p.ReleaseGrace < 0 || p.ReleaseGrace.Minutes() > 10 {
		t.Errorf("methods %v, margin %s, grace %s", f.Methods, f.Margin, p.ReleaseGrace)
	}
	if len(f.Agents) > 0 != slices.Contains(f.Methods, policy.MethodAgent) || len(f.Commands) > 0 != slices.Contains(f.Methods, policy.MethodCommand) {
		t.Errorf("methods %v, agents %v, commands %v", f.Methods, f.Agents, f.Commands)
	}
	for _, levels := range f.Agents {
		for _, a := range slices.Concat(levels...) {
			checkAgent(t, a)
		}
	}
	for _, levels := range f.Commands {
		for _, c := range slices.Concat(levels...) {
			if len(c.Command) == 0 || len(c.Verify) == 0 || !filepath.IsAbs(c.Command[0]) || !filepath.IsAbs(c.Verify[0]) || c.Timeout <= 0 {
				t.Errorf("command %+v", c)
			}
		}
	}
}

// checkAgent checks that nothing but options reaches an agent: its input is
// lines of name=value.
func checkAgent(t *testing.T, a policy.Agent) {
	t.Helper()
	if a.Program == "" || !strings.HasPrefix(a.Program, "fence_") && !filepath.IsAbs(a.Program) || a.Timeout <= 0 {
		t.Errorf("agent %+v", a)
	}
	for name, value := range a.Options {
		if name == "" || strings.ContainsAny(name, "=\n") || strings.ContainsAny(value, "\r\n") || name == "action" || name == "missing_as_off" || name == "password" || name == "passwd" {
			t.Errorf("option %q = %q", name, value)
		}
	}
	for name, file := range a.Secrets {
		if !filepath.IsAbs(file) || name == "" || strings.ContainsAny(name, "=\n") {
			t.Errorf("secret %q is in %q", name, file)
		}
	}
}

// checkSyncs checks what a command is run by: a program and times that end.
func checkSyncs(t *testing.T, p *policy.Policy) {
	t.Helper()
	names := map[string]bool{}
	for _, y := range p.Syncs {
		if y.Name == "" || names[y.Name] || len(y.Command) == 0 || y.Command[0] == "" || strings.Contains(y.Command[0], "/") && !filepath.IsAbs(y.Command[0]) {
			t.Errorf("sync %+v isn't complete and unique", y)
		}
		if y.Every < 1e9 || y.Timeout < 1e9 || y.MaxAge != 0 && y.MaxAge <= y.Every || strings.ContainsRune(strings.Join(y.Command, ""), 0) {
			t.Errorf("sync %+v", y)
		}
		names[y.Name] = true
	}
}
