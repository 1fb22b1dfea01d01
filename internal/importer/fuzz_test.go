package importer_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"had/internal/importer"
	"had/internal/policy"
)

// Whatever a keepalived.conf holds: no panic, an account of each of its lines
// or an error with a line, and no policy that had refuses.
func FuzzKeepalived(f *testing.F) {
	for _, dir := range []string{"keepalived", "refused"} {
		for _, e := range loadExamples(f, dir) {
			f.Add(e.archive.Files[0].Data)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const name = "keepalived.conf"
		files := fstest.MapFS{name: newFile(name, text), "other.conf": newFile(name, []byte("interface eth0\n"))}
		r, err := importer.Keepalived(files, []importer.Source{{Name: name, Path: name}}, importer.Options{Later: importer.Later()})
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, name+":") && !strings.HasPrefix(line, "other.conf:") && !strings.Contains(line, "more errors are not shown") {
					t.Errorf("an error without its place: %q", line)
				}
			}
			return
		}
		carried, noted := accounted(r)
		n := 0
		for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
			n++
			if at := fmt.Sprintf("%s:%d", name, n); strings.TrimSpace(line) != "" && !carried[at] && !noted[at] {
				t.Errorf("no account of %s: %q", at, line)
			}
		}
		text, node := nodeText(t, r)
		if _, diags := policy.ParseNode("had.hcl", text, node); diags.HasErrors() {
			t.Errorf("had.hcl is refused:\n%s", diags)
		}
		if _, diags := policy.ParsePolicy("policy.hcl", r.Files[1].Data); diags.HasErrors() {
			t.Errorf("policy.hcl is refused:\n%s", diags)
		}
	})
}

// The same of a hostconfig.
func FuzzHostconfig(f *testing.F) {
	for _, dir := range []string{"ipfailover", "refused"} {
		for _, e := range loadExamples(f, dir) {
			for _, file := range e.archive.Files {
				if strings.HasPrefix(file.Name, "hostconfig") {
					f.Add(file.Data)
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const name = "hostconfig"
		files := fstest.MapFS{
			name:                         newFile(name, text),
			"IPFailover/192.0.2.10/Test": newFile("IPFailover/192.0.2.10/Test", text),
		}
		r, err := importer.IPFailover(files, importer.Source{Name: "IPFailover", Path: "IPFailover"}, []importer.Source{{Name: name, Path: name}}, importer.Options{Later: importer.Later()})
		if err != nil {
			return
		}
		carried, noted := accounted(r)
		n := 0
		for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
			n++
			if at := fmt.Sprintf("%s:%d", name, n); strings.TrimSpace(line) != "" && !carried[at] && !noted[at] {
				t.Errorf("no account of %s: %q", at, line)
			}
		}
		text, node := nodeText(t, r)
		if _, diags := policy.ParseNode("had.hcl", text, node); diags.HasErrors() {
			t.Errorf("had.hcl is refused:\n%s", diags)
		}
		if _, diags := policy.ParsePolicy("policy.hcl", r.Files[1].Data); diags.HasErrors() {
			t.Errorf("policy.hcl is refused:\n%s", diags)
		}
	})
}
