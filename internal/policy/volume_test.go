package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"had/internal/policy"
)

const oneVolume = `vip "web" { address = "192.0.2.10" }
volume "webstuff" {
  device = "LABEL=web"
  path   = "/srv/web"
}
fence { methods = ["confirm"] }
release_grace = "5s"
`

func parsePolicy(t *testing.T, src string) *policy.Policy {
	t.Helper()
	p, diags := policy.ParsePolicy("policy.hcl", []byte(src))
	if p == nil {
		t.Fatal(diags)
	}
	return p
}

// A volume mounted over the data folder would make its node a new one.
func TestVolumesDontHideANodesFiles(t *testing.T) {
	p := parsePolicy(t, oneVolume)
	for _, tc := range []struct {
		name   string
		file   policy.NodeFile
		hidden string
	}{
		{"elsewhere", policy.NodeFile{DataDir: "/srv/webb", Socket: "/run/had/x.sock"}, ""},
		{"above", policy.NodeFile{DataDir: "/srv"}, ""},
		{"data folder", policy.NodeFile{DataDir: "/srv/web"}, "/srv/web"},
		{"below", policy.NodeFile{DataDir: "/srv/web/had/data"}, "/srv/web/had/data"},
		{"socket", policy.NodeFile{DataDir: "/var/lib/had", Socket: "/srv/web/had.sock"}, "/srv/web/had.sock"},
		{"key", policy.NodeFile{DataDir: "/var/lib/had", TLS: policy.TLS{CA: "/ca", Cert: "/cert", Key: "/srv/web/key"}}, "/srv/web/key"},
		{"two of them", policy.NodeFile{DataDir: "/srv/web/data", Socket: "/srv/web/sock"}, "/srv/web/data"},
	} {
		tc.file.Node = "alpha"
		diags := p.CheckNode(&tc.file)
		if tc.hidden == "" {
			if len(diags) > 0 {
				t.Errorf("%s: refused:\n%s", tc.name, diags)
			}
			continue
		}
		if len(diags) != 1 || !diags.HasErrors() || diags[0].Line != 4 || !strings.Contains(diags[0].Summary, `"`+tc.hidden+`"`) {
			t.Errorf("%s: got\n%s", tc.name, diags)
		}
	}
}

func TestNetworkVolumes(t *testing.T) {
	for fstype, want := range map[string]bool{"": false, "ext4": false, "nfs": true, "nfs4": true, "cifs": true, "smb3": true} {
		if got := (policy.Volume{FSType: fstype}).Network(); got != want {
			t.Errorf("%q: got %t", fstype, got)
		}
	}
}

// Levels are tried from the lowest, in whatever order they are written, and
// keep together what must succeed together.
func TestLevels(t *testing.T) {
	p := parsePolicy(t, `volume "web" {
  device = "LABEL=web"
  path   = "/srv/web"
}
fence {
  methods = ["agent"]
  agent "alpha" {
    program = "fence_third"
    level   = 7
  }
  agent "alpha" {
    program = "fence_first"
    level   = 1
  }
  agent "beta" { program = "fence_only" }
  agent "alpha" {
    program = "fence_second_a"
    level   = 2
  }
  agent "alpha" {
    program = "fence_second_b"
    level   = 2
  }
}`)
	got := map[string][][]string{}
	for node, levels := range p.Fence.Agents {
		for _, level := range levels {
			var programs []string
			for _, a := range level {
				programs = append(programs, a.Program)
			}
			got[node] = append(got[node], programs)
		}
	}
	want := map[string][][]string{
		"alpha": {{"fence_first"}, {"fence_second_a", "fence_second_b"}, {"fence_third"}},
		"beta":  {{"fence_only"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What is refused because it is a secret isn't printed either.
func TestSecretsAreNotShown(t *testing.T) {
	for _, line := range []string{
		`options = { password = "hunter2" }`,
		`options = { snmp-priv-passwd = "hunter2ä", ip = "x" }`,
	} {
		_, diags := policy.ParsePolicy("policy.hcl", []byte("fence {\n  methods = [\"agent\"]\n  agent \"alpha\" {\n    program = \"fence_x\"\n    "+line+"\n  }\n}"))
		if !diags.HasErrors() || strings.Contains(diags.String(), "hunter2") {
			t.Errorf("%s: got\n%s", line, diags)
		}
	}
}
