package packagetest

import (
	"os"
	"testing"
)

// What the page says to do must be found, and nothing may be left out.
func TestBlocksNeedAMark(t *testing.T) {
	const text = "## Start\n\n<!-- on alpha beta -->\n\n    a\n    b\n\nThen\n\n<!-- /etc/x on gamma -->\n\n```hcl\nx = 1\n```\n\n<!-- not run: no -->\n\n    c\n"
	got, err := sections(text)
	if err != nil {
		t.Fatal(err)
	}
	start := got["Start"]
	if len(start) != 2 || start[0].text != "a\nb\n" || len(start[0].hosts) != 2 || start[1].file != "/etc/x" || start[1].text != "x = 1\n" || start[1].line != 12 {
		t.Errorf("%+v", start)
	}
	if _, err := sections(text + "\nAnd\n\n    d\n"); err == nil {
		t.Error("a block without a mark passes")
	}
	page, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sections(string(page)); err != nil {
		t.Error(err)
	}
}
