package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// textWidth is how wide the demo's own sentences get.
const textWidth = 78

// narrator writes for a person: plain text, with a little colour where the
// output can show it. It remembers the first error, so that a reader who left
// ends the show instead of being talked to.
type narrator struct {
	out   io.Writer
	color bool
	width int // 0: unknown, nothing is folded
	err   error
}

func newNarrator(cfg Config) *narrator {
	return &narrator{out: cfg.Out, color: cfg.Color, width: cfg.Width}
}

// style is an SGR parameter (ECMA-48).
type style string

const (
	plain style = ""
	bold  style = "1"
	faint style = "2"
	red   style = "31"
	green style = "32"
	cyan  style = "36"
)

func (n *narrator) paint(s style, text string) string {
	if !n.color || s == plain {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

func (n *narrator) line(text string) {
	if n.err == nil {
		_, n.err = io.WriteString(n.out, strings.TrimRight(text, " ")+"\n")
	}
}

// prompt asks for a command; the cursor stays on the line.
func (n *narrator) prompt(text string) {
	if n.err == nil {
		_, n.err = io.WriteString(n.out, n.paint(cyan, text))
	}
}

func (n *narrator) blank() { n.line("") }

func (n *narrator) title(text string) {
	n.blank()
	n.line(n.paint(bold, "== "+text+" "+strings.Repeat("=", max(2, textWidth-4-utf8.RuneCountInString(text)))))
	n.blank()
}

// heading opens a part of an act.
func (n *narrator) heading(text string) {
	n.blank()
	n.line(n.paint(bold, text))
}

func (n *narrator) para(text string) {
	for _, line := range fold(text, textWidth, 0) {
		n.line(line)
	}
}

// factColumn is where the text of a fact begins.
const factColumn = 14

// fact says one thing that was found out by who.
func (n *narrator) fact(who string, s style, text string) {
	label := fmt.Sprintf("  %-*s", factColumn-2, who)
	for _, line := range fold(text, textWidth-factColumn, 0) {
		n.line(label + n.paint(s, line))
		label = strings.Repeat(" ", factColumn)
	}
}

// command shows a command line and what it printed.
func (n *narrator) command(host, argv, output string) {
	n.line("  " + n.paint(cyan, host+"# "+argv))
	for line := range strings.Lines(strings.TrimRight(output, "\n")) {
		const indent = 2
		for _, part := range fold(strings.TrimRight(line, "\n"), n.width-indent, 8) {
			n.line(strings.Repeat(" ", indent) + part)
		}
	}
}

// fold breaks a line between words where it is wider than width, and indents
// what follows. Spaces that it doesn't break at stay as they are. A width of
// no use folds nothing.
func fold(line string, width, indent int) []string {
	if width < 2*indent+10 {
		return []string{line}
	}
	var lines []string
	prefix := ""
	for utf8.RuneCountInString(prefix+line) > width {
		runes := []rune(line)
		room := width - len(prefix)
		i := room
		for i > 0 && runes[i] != ' ' {
			i--
		}
		if strings.TrimSpace(string(runes[:i])) == "" { // one word, too long
			for i = room; i < len(runes) && runes[i] != ' '; {
				i++
			}
			if i == len(runes) {
				break
			}
		}
		lines = append(lines, prefix+string(runes[:i]))
		line = strings.TrimLeft(string(runes[i:]), " ")
		prefix = strings.Repeat(" ", indent)
	}
	return append(lines, prefix+line)
}

// table writes rows of equally many cells; the first row is the header. All
// columns but the first are aligned to the right when right says so.
func (n *narrator) table(rows [][]string, right map[int]bool) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for r, row := range rows {
		text := ""
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell = space + cell
			} else {
				cell += space
			}
			text += "  " + cell
		}
		s := plain
		if r == 0 {
			s = faint
		}
		n.line(n.paint(s, strings.TrimRight(text, " ")))
	}
}
