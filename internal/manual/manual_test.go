package manual

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCommandsAreThePagesAndTheSameEachTime(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	var pages [2]string
	for i := range pages {
		root := &cobra.Command{Use: "x", Short: "Do it", Long: "Takes [a] *b* and <c_d>.", Run: func(*cobra.Command, []string) {}}
		root.AddCommand(
			&cobra.Command{Use: "y", Short: "More", Run: func(*cobra.Command, []string) {}},
			&cobra.Command{Use: "z", Hidden: true, Run: func(*cobra.Command, []string) {}},
		)
		dir := t.TempDir()
		book, err := New("v1")
		if err == nil {
			err = book.Commands(dir, root, "8")
		}
		if err != nil {
			t.Fatal(err)
		}
		pages[i] = read(t, filepath.Join(dir, "man", "x.8")) + read(t, filepath.Join(dir, "completions", "x.bash"))
		read(t, filepath.Join(dir, "man", "x-y.8"))
		if _, err := os.Stat(filepath.Join(dir, "man", "x-z.8")); err == nil {
			t.Error("a hidden command has a page")
		}
	}
	if pages[0] != pages[1] {
		t.Error("two builds differ")
	}
	for _, want := range []string{"Nov 2023", "x v1", "Takes [a] *b* and <c_d>."} {
		if !strings.Contains(pages[0], want) {
			t.Errorf("there is no %q in:\n%s", want, pages[0])
		}
	}
}

func TestPagesAreDated(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if _, err := New("v1"); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("without a date: %v", err)
	}
}

// What a terminal is too narrow for, and what isn't there without the web.
func TestTablesAreListsAndLinksAreFiles(t *testing.T) {
	const text = "See [hooks.md](hooks.md), [the list](#list) and [fences](fencing.md#agents).\n\n" +
		"| name | meaning | default |\n| --- | --- | --- |\n| `a` | first | required |\n| `b` | second | `1` |\n| `c` | third | |\n\n### More\n\nText\n"
	const want = "See /d/hooks.md, the list and fences (/d/fencing.md).\n\n" +
		"\n**`a`**\n: first (required)\n\n**`b`**\n: second (default: `1`)\n\n**`c`**\n: third\n\n\n\n# More\n\nText\n"
	if got := forPage(text, "/d"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestFileNeedsItsHeading(t *testing.T) {
	document := filepath.Join(t.TempDir(), "files.md")
	if err := os.WriteFile(document, []byte("# Files\n\n## a.hcl\n\nText\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Book{}).File(t.TempDir(), "b.hcl", "b", document, "/d"); err == nil || !strings.Contains(err.Error(), "## b.hcl") {
		t.Errorf("a page without its text: %v", err)
	}
}
