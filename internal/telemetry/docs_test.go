package telemetry

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md")

const (
	page0   = "<!-- made by: go test ./internal/telemetry -update -->\n"
	pageEnd = "<!-- end -->"
)

func table() string {
	var b strings.Builder
	b.WriteString(page0 + "| metric | type | labels | what it says |\n| --- | --- | --- | --- |\n")
	for _, m := range Catalogue() {
		var labels []string
		for _, l := range m.Labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, strings.ToLower(m.Type.String()), strings.Join(labels, ", "), m.Help)
	}
	return b.String() + pageEnd
}

// The names are promised: the page and the code have the same.
func TestThePageHasTheMetrics(t *testing.T) {
	const path = "../../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := strings.Index(string(text), page0), strings.Index(string(text), pageEnd)
	if begin < 0 || end < begin {
		t.Fatalf("%s has no place for the table", path)
	}
	end += len(pageEnd)
	if *update {
		if err := os.WriteFile(path, []byte(string(text[:begin])+table()+string(text[end:])), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text[begin:end]) != table() {
		t.Errorf("%s has another table than the code: go test ./internal/telemetry -update, and tell of it in the changelog", path)
	}
}

// Names follow Prometheus' advice: a unit at the end, _total for counters alone.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range Catalogue() {
		total, counter := strings.HasSuffix(m.Name, "_total"), m.Type.String() == "COUNTER"
		timed := m.Type.String() == "SUMMARY" || m.Type.String() == "HISTOGRAM"
		switch {
		case !regexp.MustCompile(`^had(_[a-z]+)+$`).MatchString(m.Name):
			t.Errorf("%s is no name for a metric", m.Name)
		case seen[m.Name]:
			t.Errorf("%s is there twice", m.Name)
		case total != counter:
			t.Errorf("%s is a %s", m.Name, m.Type)
		case timed && !strings.HasSuffix(m.Name, "_seconds"):
			t.Errorf("%s has no unit", m.Name)
		case !strings.HasSuffix(m.Help, "."):
			t.Errorf("%s isn't explained by a sentence", m.Name)
		}
		seen[m.Name] = true
	}
}

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert       string
			Expr        string
			For         string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

// The rules are YAML of Prometheus' shape, and ask only for metrics and labels
// that there are.
func TestExampleRules(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "examples", "prometheus", "had.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file ruleFile
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Groups) == 0 || len(file.Groups[0].Rules) == 0 {
		t.Fatal("there are no rules")
	}
	labels := map[string]bool{"cluster": true, "node": true, "le": true}
	names := map[string]bool{}
	for _, m := range Catalogue() {
		names[m.Name] = true
		for _, l := range m.Labels {
			labels[l] = true
		}
	}
	for _, r := range file.Groups[0].Rules {
		used := regexp.MustCompile(`had_\w+`).FindAllString(r.Expr, -1)
		if len(used) == 0 || strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
			t.Errorf("%s: %s", r.Alert, r.Expr)
		}
		for _, n := range used {
			if !names[strings.TrimSuffix(n, "_bucket")] {
				t.Errorf("%s asks for %s, which doesn't exist", r.Alert, n)
			}
		}
		if r.Annotations["summary"] == "" || r.Labels["severity"] == "" {
			t.Errorf("%s has no summary or severity", r.Alert)
		}
		for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			if !labels[m[1]] {
				t.Errorf("%s shows the label %s, which doesn't exist", r.Alert, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(r.Expr, -1) {
			for l := range strings.SplitSeq(m[1], ", ") {
				if !labels[l] {
					t.Errorf("%s groups by %q, which doesn't exist", r.Alert, l)
				}
			}
		}
	}
}
