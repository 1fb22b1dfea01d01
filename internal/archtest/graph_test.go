package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is this module's import path.
const module = "had"

// graph is who imports whom, by import path.
type graph struct {
	// imports holds the packages that a package's own files import. A package
	// of the standard library has no entry.
	imports map[string][]string
}

// loadGraph asks the go command for every package of this module and
// everything they need.
func loadGraph(t *testing.T) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Standard,Imports", module+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the packages: %v\n%s", err, stderr.String())
	}
	g := graph{imports: map[string][]string{}}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Standard   bool
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return g
		} else if err != nil {
			t.Fatalf("read what go list printed: %v", err)
		}
		if !p.Standard {
			g.imports[p.ImportPath] = p.Imports
		}
	}
}

// ours lists the packages of this module, sorted.
func (g graph) ours() []string {
	var pkgs []string
	for p := range g.imports {
		if matches(module+"/...", p) {
			pkgs = append(pkgs, p)
		}
	}
	slices.Sort(pkgs)
	return pkgs
}

// chains finds, for each package that `from` reaches and `hit` accepts, one
// shortest chain of imports to it.
func (g graph) chains(from string, hit func(string) bool) [][]string {
	var found [][]string
	seen := map[string]bool{from: true}
	for queue := [][]string{{from}}; len(queue) > 0; queue = queue[1:] {
		chain := queue[0]
		for _, next := range g.imports[chain[len(chain)-1]] {
			if seen[next] {
				continue
			}
			seen[next] = true
			longer := append(slices.Clone(chain), next)
			if hit(next) {
				found = append(found, longer)
				continue // what lies behind it is its own affair
			}
			queue = append(queue, longer)
		}
	}
	return found
}

// matches reports whether pkg is the pattern, or below it where the pattern
// ends in "/...".
func matches(pattern, pkg string) bool {
	root, tree := strings.CutSuffix(pattern, "/...")
	return pkg == root || tree && strings.HasPrefix(pkg, root+"/")
}

func anyMatches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// violations checks every package of this module against one ban.
func (g graph) violations(b ban) []string {
	var found []string
	report := func(chain []string) {
		found = append(found, fmt.Sprintf("%s: %s", strings.Join(chain, " imports "), b.why))
	}
	forbidden := func(pkg string) bool {
		return anyMatches(b.to, pkg) && !anyMatches(b.allowed, pkg)
	}
	for _, pkg := range g.ours() {
		if !anyMatches(b.from, pkg) || anyMatches(b.except, pkg) {
			continue
		}
		if b.through {
			for _, chain := range g.chains(pkg, forbidden) {
				report(chain)
			}
			continue
		}
		for _, imported := range g.imports[pkg] {
			if forbidden(imported) {
				report([]string{pkg, imported})
			}
		}
	}
	return found
}
