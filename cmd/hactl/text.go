package main

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Columns text is laid out for.
const (
	plainWidth = 80 // when stdout isn't a terminal
	minWidth   = 40
	maxWidth   = 100 // sentences are hard to read beyond it
)

// view says how text is laid out.
type view struct {
	width int
	color bool
	zone  *time.Location
}

// style is an SGR parameter of ECMA-48; empty is plain.
type style string

const (
	plain  style = ""
	bold   style = "1"
	red    style = "1;31"
	green  style = "32"
	yellow style = "33"
	faint  style = "2"
)

// paint adds the style when colours are wanted.
func (v view) paint(s style, text string) string {
	if !v.color || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// stamp writes a time in the reader's zone; "-" for none.
func (v view) stamp(t *timestamppb.Timestamp, layout string) string {
	if !t.IsValid() {
		return "-"
	}
	return t.AsTime().In(v.zone).Format(layout)
}

// Layouts of time for people; JSON has RFC 3339.
const (
	toTheSecond = "2006-01-02 15:04:05"
	toTheMilli  = "2006-01-02 15:04:05.000"
	timeOfDay   = "15:04:05.000"
)

// clean makes text from elsewhere safe to print on one line: control and other
// unprintable characters are written out, so that no script's output can
// steer the terminal.
func clean(text string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(text, "\ufffd") {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// cleanBlock is clean for text of several lines, which keep their tabs'
// width but lose trailing space.
func cleanBlock(text string) []string {
	text = strings.ReplaceAll(strings.TrimRight(text, " \t\r\n"), "\r\n", "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(clean(strings.ReplaceAll(line, "\t", "    ")), " ")
	}
	return lines
}

// oneLine joins the lines of an error's text.
func oneLine(text string) string {
	return clean(strings.Join(strings.Fields(text), " "))
}

// wrap breaks text between words so that no line is wider than width, but for
// words that are.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// pad fills text with spaces up to width characters.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// page collects wrapped lines.
type page struct {
	view
	b strings.Builder
}

// entry writes text behind label, wrapped, with later lines under the text.
func (p *page) entry(label string, s style, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(label))
	for _, line := range wrap(clean(text), max(p.width-utf8.RuneCountInString(label), minWidth/2)) {
		p.b.WriteString(strings.TrimRight(label+p.paint(s, line), " ") + "\n")
		label = indent
	}
}

func (p *page) blank() { p.b.WriteByte('\n') }

// span writes a duration the way it is said: two units at most.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < 10*time.Millisecond && d%time.Millisecond != 0:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < time.Minute:
		return strings.Replace(fmt.Sprintf("%.1f s", d.Seconds()), ".0 ", " ", 1)
	case d < time.Hour:
		return pair(d, time.Minute, "min", time.Second, "s")
	case d < 24*time.Hour:
		return pair(d, time.Hour, "h", time.Minute, "min")
	}
	return pair(d, 24*time.Hour, "d", time.Hour, "h")
}

func pair(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	text := fmt.Sprintf("%d %s", d/big, bigName)
	if rest := d % big / small; rest > 0 {
		text += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return text
}

// millis turns the wire's milliseconds into a duration; what isn't a number
// or doesn't fit counts as the longest or as none.
func millis(ms float64) time.Duration {
	ns := ms * float64(time.Millisecond)
	switch {
	case math.IsNaN(ns):
		return 0
	case ns > math.MaxInt64/2:
		return math.MaxInt64 / 2
	case ns < math.MinInt64/2:
		return math.MinInt64 / 2
	}
	return time.Duration(ns)
}

// plural counts things in words.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
