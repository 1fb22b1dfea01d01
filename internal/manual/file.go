package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// File writes dir/man/NAME.5, the page of a configuration file, from the part
// of a Markdown document that begins with the heading of that name. docs is the
// folder in which the reader finds the other documents.
func (b Book) File(dir, name, about, document, docs string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("read the document of %s: %w", name, err)
	}
	_, part, found := strings.Cut(string(text), "\n## "+name+"\n")
	if !found {
		return fmt.Errorf("find %s in %s: there is no heading \"## %s\"", name, document, name)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	page := fmt.Sprintf("%% %q \"5\" %q %q %q\n# NAME\n%s - %s\n# DESCRIPTION\n%s",
		strings.ToUpper(name), b.Date.Format("Jan 2006"), "had "+b.Version, title, name, about, forPage(part, docs))
	return publish(filepath.Join(dir, "man", name+".5"), md2man.Render([]byte(page)))
}

// links are Markdown's to another document, perhaps to a place in it.
var links = regexp.MustCompile(`\[([^\]]+)\]\(([a-z]+\.md)?(?:#[^)]*)?\)`)

// forPage gives a text the form of a man page: chapters are its sections, a link
// names the file, and a table of names is a list, for a terminal's lines are too
// short for its columns.
func forPage(text, docs string) string {
	var out strings.Builder
	inTable := false
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(line, "|\n "), " | ")
		isRow := strings.HasPrefix(line, "| ")
		switch {
		case isRow && !inTable, strings.HasPrefix(line, "| ---"): // its head
			inTable = true
			continue
		case isRow:
			line = "\n**" + cells[0] + "**\n: " + strings.Join(cells[1:2], "")
			switch {
			case len(cells) < 3 || cells[2] == "":
			case cells[2] == "required":
				line += " (required)"
			default:
				line += " (default: " + cells[2] + ")"
			}
			line += "\n"
		case inTable:
			inTable = false
			line = "\n" + line
		}
		if chapter, is := strings.CutPrefix(line, "### "); is {
			line = "\n# " + chapter
		}
		out.WriteString(links.ReplaceAllStringFunc(line, func(link string) string {
			m := links.FindStringSubmatch(link)
			switch path := filepath.Join(docs, m[2]); {
			case m[2] == "":
				return m[1]
			case m[1] == m[2]:
				return path
			default:
				return m[1] + " (" + path + ")"
			}
		}))
	}
	return out.String()
}
