package importer_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"had/internal/importer"
	"had/internal/policy"
)

var mixes = flag.Int("mixes", 200, "how many mixtures of lines TestMixedLines tries")

// Whatever a keepalived.conf holds: no panic, an account of each of its lines
// or an error with a line, and no policy that had refuses.
func FuzzKeepalived(f *testing.F) {
	for _, dir := range []string{"keepalived", "refused"} {
		for _, e := range loadExamples(f, dir) {
			f.Add(e.archive.Files[0].Data)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkKeepalived(t, text) })
}

// checkKeepalived imports a file and returns why it was refused.
func checkKeepalived(t *testing.T, text []byte) (refused error) {
	const name = "keepalived.conf"
	files := fstest.MapFS{name: newFile(name, text), "other.conf": newFile(name, []byte("interface eth0\n"))}
	r, err := importer.Keepalived(files, []importer.Source{{Name: name, Path: name}}, importer.Options{})
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(line, name+":") && !strings.HasPrefix(line, "other.conf:") && !strings.Contains(line, "more errors are not shown") {
				t.Errorf("an error without its place: %q", line)
			}
		}
		return err
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
	return nil
}

// The same of the lines of all cases in another order, with some left out and
// some twice: these have more sense than what a fuzzer makes.
func TestMixedLines(t *testing.T) {
	var pool []string
	for _, e := range loadExamples(t, "keepalived") {
		for _, f := range e.archive.Files {
			if f.Name != "want" {
				pool = append(pool, slices.Collect(strings.Lines(string(f.Data)))...)
			}
		}
	}
	taken := 0
	for seed := range uint64(*mixes) {
		r := rand.New(rand.NewPCG(seed, 5))
		lines := []string{"vrrp_instance first {\n", "interface eth0\n"}
		for depth := 1; depth > 0; {
			line := pool[r.IntN(len(pool))]
			if len(lines) > 60 || r.IntN(6) == 0 {
				line = "}\n"
			}
			depth += strings.Count(line, "{") - strings.Count(line, "}") // but for parameters
			lines = append(lines, line)
			if depth == 0 && len(lines) < 30 {
				lines = append(lines, fmt.Sprintf("vrrp_instance i%d {\n", len(lines)))
				depth++
			}
		}
		err := checkKeepalived(t, []byte(strings.Join(lines, "")))
		if err == nil {
			taken++
		}
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, strings.Join(lines, ""))
		}
	}
	if taken < *mixes/20 {
		t.Errorf("only %d of %d mixtures were taken: the others prove little", taken, *mixes)
	}
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
		r, err := importer.IPFailover(files, importer.Source{Name: "IPFailover", Path: "IPFailover"}, []importer.Source{{Name: name, Path: name}}, importer.Options{})
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
