package policy_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"had/internal/policy"
)

// TestDocs reads every HCL block of the README and docs/, and every file of
// scripts/examples, as had would, so that nobody copies an example that is
// refused.
func TestDocs(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, path := range documents(t, root) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range hclBlocks(string(text)) {
			if err := parseExample(path, b.text); err != nil {
				t.Errorf("the block on line %d of %s:\n%v", b.line, path, err)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "scripts", "examples", "*", "*.hcl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples were found: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := parseExample(path, string(text)); err != nil {
			t.Error(err)
		}
	}
}

// documents returns the Markdown files a newcomer reads.
func documents(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	if _, err := os.Stat(filepath.Join(root, "README.md")); err == nil {
		paths = append(paths, filepath.Join(root, "README.md"))
	}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return paths
}

// example is a fenced block and the line its text begins on.
type example struct {
	text string
	line int
}

var (
	fence     = regexp.MustCompile("^ *(```+)(.*)$")
	notParsed = regexp.MustCompile(`^ *<!-- not parsed: .+ -->$`)
)

// hclBlocks returns the ```hcl blocks of a Markdown text, without those
// directly after a comment <!-- not parsed: reason -->.
func hclBlocks(markdown string) []example {
	var blocks []example
	var current *example // nil outside of a block that counts
	open, last := "", "" // the fence we are inside of; the last line with text outside
	for i, line := range strings.Split(markdown, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == "" && m != nil:
			open = m[1]
			if info := strings.Fields(m[2]); len(info) > 0 && info[0] == "hcl" && !notParsed.MatchString(last) {
				current = &example{line: i + 2}
			}
		case open != "" && m != nil && m[1] == open && strings.TrimSpace(m[2]) == "":
			if current != nil {
				blocks = append(blocks, *current)
			}
			open, last, current = "", "", nil
		case current != nil:
			current.text += line + "\n"
		case open == "" && strings.TrimSpace(line) != "":
			last = line
		}
	}
	return blocks
}

// parseExample reads text as a node file when it has a cluster block, on the
// host of its first node, and as a policy otherwise.
func parseExample(name, text string) error {
	file, _ := hclsyntax.ParseConfig([]byte(text), name, hcl.InitialPos)
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		if b.Type != "cluster" {
			continue
		}
		host := ""
		for _, n := range b.Body.Blocks {
			if n.Type == "node" && len(n.Labels) > 0 {
				host = n.Labels[0]
				break
			}
		}
		_, diags := policy.ParseNode(name, []byte(text), host)
		return diags.Err()
	}
	p, diags := policy.ParsePolicy(name, []byte(text))
	if p != nil {
		diags = append(diags, p.CheckMembers(members)...)
	}
	return diags.Err()
}

func TestExamplesAreFoundAndRead(t *testing.T) {
	const markdown = "# Title\n" +
		"```hcl\nvip \"web\" { address = \"192.0.2.10\" }\n```\n" +
		"```sh\n# ```hcl\nls\n```\n" +
		"<!-- not parsed: shows a mistake -->\n\n```hcl\nvip \"web\" {}\n```\n" +
		"1. In a list:\n\n   ```hcl title\n   vipp \"web\" {}\n   ```\n" +
		"````hcl\ncluster \"c\" {\n  node \"n\" { address = \"10.0.0.1\" }\n}\n````\n"
	got := hclBlocks(markdown)
	want := []example{
		{"vip \"web\" { address = \"192.0.2.10\" }\n", 3},
		{"   vipp \"web\" {}\n", 17},
		{"cluster \"c\" {\n  node \"n\" { address = \"10.0.0.1\" }\n}\n", 20},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(example{})); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	for i, problem := range []string{"", `did you mean "vip"?`, "add the port"} {
		switch err := parseExample("README.md", got[i].text); {
		case problem == "" && err != nil:
			t.Errorf("block %d is refused:\n%v", i, err)
		case problem != "" && (err == nil || !strings.Contains(err.Error(), problem)):
			t.Errorf("block %d: want %q, got %v", i, problem, err)
		}
	}
}
