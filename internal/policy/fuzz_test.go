package policy_test

import (
	"net/netip"
	"path/filepath"
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
	checkRendering(t, p.CheckMembers(members))
}
