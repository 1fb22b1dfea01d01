package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
)

// Severity tells a refusal from advice.
type Severity int

const (
	// Error: the file is refused.
	Error Severity = iota + 1
	// Warning: the file is accepted, but probably not what its writer wants.
	Warning
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Diagnostic is one thing to say about one place of a file.
type Diagnostic struct {
	Severity Severity
	File     string
	Line     int    // counts from 1
	Column   int    // in characters as a reader sees them (grapheme clusters), counts from 1
	Summary  string // what is wrong: one sentence without a full stop
	Detail   string // what to do about it; may be empty, or several lines where there is a choice
	// Rendered is all of it as plain text that ends in a newline: a
	// "file:line:column: severity: summary" line, the line of source, carets
	// under the place, the hint. It holds no control characters except tab
	// and newline, whatever the file holds.
	Rendered string
}

// Diagnostics are ordered by line, then column.
type Diagnostics []Diagnostic

// HasErrors reports whether the file was refused.
func (d Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d, func(d Diagnostic) bool { return d.Severity == Error })
}

// Warnings returns the diagnostics that refuse nothing.
func (d Diagnostics) Warnings() Diagnostics { return d.only(Warning) }

// Err returns nil when nothing was refused, and otherwise an error whose text
// is every rendered error.
func (d Diagnostics) Err() error {
	if !d.HasErrors() {
		return nil
	}
	return errors.New(strings.TrimSuffix(d.only(Error).String(), "\n"))
}

// String returns every rendered diagnostic, with an empty line between them.
func (d Diagnostics) String() string {
	rendered := make([]string, len(d))
	for i := range d {
		rendered[i] = d[i].Rendered
	}
	return strings.Join(rendered, "\n")
}

func (d Diagnostics) only(s Severity) Diagnostics {
	return slices.DeleteFunc(slices.Clone(d), func(d Diagnostic) bool { return d.Severity != s })
}

func (d Diagnostics) sort() {
	slices.SortStableFunc(d, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// newDiagnostic renders what is wrong with the part at of text.
func newDiagnostic(severity Severity, text string, at hcl.Range, summary, detail string) Diagnostic {
	d := Diagnostic{
		Severity: severity,
		File:     at.Filename,
		Line:     at.Start.Line,
		Column:   at.Start.Column,
		Summary:  printable(summary),
	}
	hints := strings.Split(detail, "\n")
	for i := range hints {
		hints[i] = printable(hints[i])
	}
	d.Detail = strings.Join(hints, "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s: %s\n", printable(d.File), d.Line, d.Column, severity, d.Summary)
	if text != "" {
		line, carets := excerpt(text, at.Start.Byte, at.End.Byte)
		fmt.Fprintf(&b, "%4d | %s\n     | %s\n", d.Line, line, carets)
	}
	if d.Detail != "" {
		fmt.Fprintf(&b, "     = hint: %s\n", strings.Join(hints, "\n             "))
	}
	d.Rendered = b.String()
	return d
}

// How much of a very long line is shown, in characters.
const (
	shownBefore = 80
	shownAfter  = 120
)

// excerpt returns the line of text that holds the byte start, and a line of
// carets to print under it. A range over several lines is marked up to the
// end of its first.
func excerpt(text string, start, end int) (line, carets string) {
	start = min(max(start, 0), len(text))
	from := strings.LastIndexByte(text[:start], '\n') + 1
	to := len(text)
	if i := strings.IndexByte(text[start:], '\n'); i >= 0 {
		to = start + i
	}
	end = min(max(end, start), to)

	before := []rune(printable(text[from:start]))
	marked := []rune(printable(text[start:end]))
	after := []rune(printable(strings.TrimSuffix(text[end:to], "\r")))
	if len(before) > shownBefore {
		before = append([]rune{'…'}, before[len(before)-shownBefore:]...)
	}
	if len(marked) > shownAfter {
		marked, after = append(marked[:shownAfter:shownAfter], '…'), nil
	}
	if room := shownAfter - min(len(marked), shownAfter); len(after) > room {
		after = append(after[:room:room], '…')
	}
	line = strings.TrimRight(string(before)+string(marked)+string(after), " \t")
	return line, blank(before) + strings.Repeat("^", max(1, columns(marked)))
}

// blank returns white space as wide as text: tabs stay tabs.
func blank(text []rune) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\t':
			b.WriteRune('\t')
		case !unicode.Is(unicode.Mn, r):
			b.WriteRune(' ')
		}
	}
	return b.String()
}

// columns counts the characters of text, without combining marks.
func columns(text []rune) int {
	n := 0
	for _, r := range text {
		if !unicode.Is(unicode.Mn, r) {
			n++
		}
	}
	return n
}

// printable replaces what could move a terminal's cursor, and invalid UTF-8.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case r == '\t' || unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
}
