package hook_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// proof is a test as docs/ipfailover.md names it: `internal/hook.TestTorture`.
var proof = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// docs/ipfailover.md claims nothing without a test, and every one it names is
// there.
func TestWhatIPFailoverDidIsProven(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "ipfailover.md"))
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]map[string]bool{} // by package
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| IPFailover") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Errorf("line %d has %d cells: %s", i+1, len(cells), line)
			continue
		}
		tests := proof.FindAllStringSubmatch(cells[2], -1)
		if len(tests) == 0 && cells[2] != "not in this version" {
			t.Errorf("line %d names no test: %s", i+1, cells[2])
		}
		for _, m := range tests {
			pkg, name := m[1], m[2]
			if functions[pkg] == nil {
				functions[pkg] = testsOf(t, filepath.Join(root, pkg))
			}
			if !functions[pkg][name] {
				t.Errorf("line %d: there is no %s in %s", i+1, name, pkg)
			}
		}
	}
	if rows < 20 {
		t.Errorf("%d rows were read", rows)
	}
}

// testsOf returns the functions of a folder's test files.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d test files in %s (%v)", len(files), dir, err)
	}
	names := map[string]bool{}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}
