package importer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// word is one word of a statement. used says that somebody understood it.
type word struct {
	text string
	used bool
}

// split splits a line into words as keepalived does: quotes of either kind
// join what they enclose, and a backslash takes the next character's meaning
// away or gives it another (keepalived.conf(5), Quoted strings).
func split(text string) ([]word, error) {
	var words []word
	var b strings.Builder
	var quote byte
	in := false // a word
	end := func() {
		if in {
			words = append(words, word{text: b.String()})
			b.Reset()
			in = false
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			if i+1 == len(text) {
				return nil, fmt.Errorf("nothing follows the \\ at the end")
			}
			s, length := escaped(text[i+1:])
			b.WriteString(s)
			i += length
			in = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && strings.IndexByte(" \t\f\v\r", c) >= 0:
			end()
		default:
			b.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed on its line", quote)
	}
	end()
	return words, nil
}

// escaped reads what follows a backslash; length is how much of text it took.
func escaped(text string) (s string, length int) {
	if i := strings.IndexByte("abEfnrtv", text[0]); i >= 0 {
		return "\a\b\x1b\f\n\r\t\v"[i : i+1], 1
	}
	digits := func(from, most int, set string) int {
		n := from
		for n < len(text) && n-from < most && strings.IndexByte(set, text[n]) >= 0 {
			n++
		}
		return n
	}
	switch c := text[0]; {
	case c == 'x' && digits(1, 2, "0123456789abcdefABCDEF") > 1:
		n := digits(1, 2, "0123456789abcdefABCDEF")
		v, _ := strconv.ParseUint(text[1:n], 16, 8) // at most two digits
		return string([]byte{byte(v)}), n
	case c == 'c' && len(text) > 1:
		return string([]byte{text[1] & 0x1f}), 2
	case c >= '0' && c <= '7':
		n := digits(0, 3, "01234567")
		v, _ := strconv.ParseUint(text[:n], 8, 16) // at most three digits
		return string([]byte{byte(v)}), n
	}
	_, n := utf8.DecodeRuneInString(text)
	return text[:n], n
}

// printable replaces what could move a terminal's cursor, and invalid UTF-8.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
}

// quote writes text in quotes, shortened when it wouldn't fit on a line.
func quote(text string) string {
	const most = 60
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return strconv.Quote(text)
}

// hclString writes text as HCL does: nothing in it is a template.
func hclString(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case (r == '$' || r == '%') && strings.HasPrefix(text[i+1:], "{"):
			b.WriteRune(r)
			b.WriteRune(r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// shellWord writes text as one word of sh(1).
func shellWord(text string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("_-./:=@%+,", r)
	}
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
