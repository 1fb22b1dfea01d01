package importer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text is all of the result as one text: each file under a line with its name,
// then what is to do and what was not carried over.
func (r *Result) Text() string {
	var b strings.Builder
	for _, f := range r.Files {
		fmt.Fprintf(&b, "# ==== %s ====\n\n%s\n", printable(f.Path), shown(f.Data))
	}
	for line := range strings.Lines(r.List()) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	return b.String()
}

// shown is a file's text, or how much there is of what isn't text.
func shown(data []byte) string {
	bad := func(c rune) bool { return c != '\n' && c != '\t' && !unicode.IsPrint(c) }
	if !utf8.Valid(data) || strings.ContainsFunc(string(data), bad) {
		return fmt.Sprintf("# (%d bytes that are not plain text)\n", len(data))
	}
	return string(data)
}

// List is what is left to do, and what was not carried over and why, a line
// each.
func (r *Result) List() string {
	var b strings.Builder
	if len(r.ToDo) > 0 {
		b.WriteString("To do:\n\n")
		for _, t := range r.ToDo {
			b.WriteString("- " + printable(t) + "\n")
		}
		b.WriteString("\n")
	}
	if len(r.Notes) == 0 {
		b.WriteString("Everything was carried over.\n")
		return b.String()
	}
	b.WriteString("Not carried over:\n\n")
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%s: %s: %s\n", printable(n.Place()), n.What, n.Why)
	}
	return b.String()
}
