package policy

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	// maxSize bounds a file, in bytes. A policy travels in the replicated log
	// and in every snapshot.
	maxSize = 1 << 20
	// maxLine bounds a line, in bytes: the parser takes time that grows with
	// the square of the length of a text full of "$".
	maxLine = 2048
	// maxNesting bounds what the HCL parser recurses over: a few hundred
	// kilobytes of "(" would otherwise exhaust its stack, which Go can't
	// recover from. A valid file needs 4.
	maxNesting = 64
	// maxErrors bounds how much is said about one file.
	maxErrors = 20
)

// source is one file while it is read: its text and what there is to say
// about it.
type source struct {
	name   string
	text   string
	diags  Diagnostics
	errors int
}

func newSource(name string, src []byte) *source {
	return &source{name: name, text: strings.TrimPrefix(string(src), "\ufeff")}
}

// errorf refuses the file for what stands at at. After maxErrors
// it says no more.
func (s *source) errorf(at hcl.Range, hint, format string, args ...any) {
	if s.errors++; s.errors <= maxErrors {
		s.add(Error, at, fmt.Sprintf(format, args...), hint)
	}
}

// warnf advises against what stands at at.
func (s *source) warnf(at hcl.Range, hint, format string, args ...any) {
	s.add(Warning, at, fmt.Sprintf(format, args...), hint)
}

func (s *source) add(severity Severity, at hcl.Range, summary, hint string) {
	s.diags = append(s.diags, newDiagnostic(severity, s.text, at, summary, hint))
}

// failed reports whether the file has been refused.
func (s *source) failed() bool { return s.errors > 0 }

// result returns the diagnostics in order.
func (s *source) result() Diagnostics {
	s.diags.sort()
	if s.errors > maxErrors {
		last := s.diags[len(s.diags)-1]
		last.Severity = Error
		last.Summary = "further errors are not shown: correct these first"
		last.Detail = ""
		last.Rendered = fmt.Sprintf("%s:%d:%d: error: %s\n", printable(last.File), last.Line, last.Column, last.Summary)
		s.diags = append(s.diags, last)
	}
	return s.diags
}

// start is the place to name when the whole file is meant.
func (s *source) start() hcl.Range {
	return hcl.Range{Filename: s.name, Start: hcl.InitialPos, End: hcl.InitialPos}
}

// byteAt is the place of one byte.
func (s *source) byteAt(i int) hcl.Range {
	line := strings.LastIndexByte(s.text[:i], '\n') + 1
	pos := hcl.Pos{
		Line:   1 + strings.Count(s.text[:i], "\n"),
		Column: 1 + utf8.RuneCountInString(s.text[line:i]),
		Byte:   i,
	}
	return hcl.Range{Filename: s.name, Start: pos, End: pos}
}

// parse returns the file's syntax tree, or nil when it was refused. emptyHint
// says what the smallest useful file is.
func (s *source) parse(emptyHint string) *hclsyntax.Body {
	if !s.readable(emptyHint) {
		return nil
	}
	file, diags := hclsyntax.ParseConfig([]byte(s.text), s.name, hcl.InitialPos)
	seen := map[int]bool{}
	for _, d := range diags {
		line := d.Subject.Start.Line
		if seen[line] {
			continue // one mistake makes the parser complain several times
		}
		if len(seen) > maxErrors {
			break
		}
		seen[line] = true
		summary, hint := s.explain(d)
		s.errorf(*d.Subject, hint, "%s", summary)
		if summary == unclosedText {
			break // what follows was read inside out
		}
	}
	if s.failed() {
		return nil
	}
	return file.Body.(*hclsyntax.Body)
}

// readable refuses what isn't worth or safe to hand to the parser.
func (s *source) readable(emptyHint string) bool {
	switch {
	case len(s.text) > maxSize:
		size := len(s.text)
		s.text = "" // no excerpt
		s.errorf(s.start(), "is it the right file?", "the file has %d bytes, more than the %d that are allowed", size, maxSize)
	case strings.TrimSpace(s.text) == "":
		s.errorf(s.start(), emptyHint, "the file is empty")
	case strings.IndexByte(s.text, 0) >= 0:
		s.errorf(s.byteAt(strings.IndexByte(s.text, 0)), "is it the right file?", "the file holds a NUL byte: it isn't text")
	case !utf8.ValidString(s.text):
		s.errorf(s.byteAt(invalidUTF8(s.text)), "save it as UTF-8", "the file isn't valid UTF-8")
	case longLine(s.text) >= 0:
		s.errorf(s.byteAt(longLine(s.text)), "break it", "the line is longer than %d bytes", maxLine)
	default:
		s.checkTokens()
	}
	return !s.failed()
}

// longLine returns where the first line longer than maxLine begins, or -1.
func longLine(text string) int {
	begin := 0
	for line := range strings.Lines(text) {
		if len(line) > maxLine {
			return begin
		}
		begin += len(line)
	}
	return -1
}

// invalidUTF8 returns where the first byte is that isn't UTF-8.
func invalidUTF8(text string) int {
	for i, r := range text {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
				return i
			}
		}
	}
	return len(text)
}

// checkTokens counts the brackets open at once. Operators make the parser
// recurse too and have no end to see: they count until the end of the file,
// since no valid file has any. Heredocs would get round maxLine.
func (s *source) checkTokens() {
	tokens, _ := hclsyntax.LexConfig([]byte(s.text), s.name, hcl.InitialPos)
	depth := 0
	for _, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenOHeredoc:
			s.errorf(token.Range, "write the value on one line, in quotes", "no value has several lines")
			return
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp,
			hclsyntax.TokenTemplateControl, hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenQuestion:
			depth++
		case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCBrace:
			depth--
		}
		if depth > maxNesting {
			s.errorf(token.Range, "", "brackets and operators are nested more than %d deep", maxNesting)
			return
		}
	}
}

// bareValue matches a line that gives an attribute a value without quotes.
var bareValue = regexp.MustCompile(`(?:^|\{)\s*([\w-]+)\s*=\s*([^\s"'\[{(<#/][^"#=}]*?)\s*\}?\s*(?:#.*)?$`)

const unclosedText = "the closing quote is missing"

// explain says what the parser stumbled over, and what to write instead.
func (s *source) explain(d *hcl.Diagnostic) (summary, hint string) {
	line := s.line(d.Subject.Start.Byte)
	summary = strings.ToLower(d.Summary[:1]) + d.Summary[1:]
	if hasTemplateMarker(line) {
		return summary, templateHint
	}
	if m := bareValue.FindStringSubmatch(line); m != nil {
		return summary, fmt.Sprintf("text is written in quotes: %s = %s", m[1], quote(m[2]))
	}
	switch d.Summary {
	case "Invalid multi-line string", "Unterminated template string":
		return unclosedText, "a text ends on the line it begins on"
	case "Invalid single-argument block definition":
		return summary, "a block on one line takes only one attribute: give each attribute a line of its own"
	case "Attribute redefined":
		return summary, "leave one of them out"
	case "Argument or block definition required":
		return summary, `write an attribute (name = "value") or a block (name "label" { … })`
	}
	return summary, d.Detail
}

// line returns the line that holds byte i.
func (s *source) line(i int) string {
	i = min(i, len(s.text))
	from := strings.LastIndexByte(s.text[:i], '\n') + 1
	line, _, _ := strings.Cut(s.text[from:], "\n")
	return line
}

const templateHint = `"${" and "%{" begin templates, which this version of had doesn't have; to mean the characters themselves double the first: "$${", "%%{"`

// hasTemplateMarker reports whether text holds a "${" or "%{" that isn't
// doubled.
func hasTemplateMarker(text string) bool {
	text = strings.NewReplacer("$${", "", "%%{", "").Replace(text)
	return strings.Contains(text, "${") || strings.Contains(text, "%{")
}
