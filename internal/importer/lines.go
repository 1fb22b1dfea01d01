package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"
)

// Bounds on what a configuration may unfold to: it can't be more than somebody
// would want to read.
const (
	maxStatements  = 10_000
	maxUnfoldSteps = 50_000  // of all lines together
	maxDepth       = 32      // of includes, and of lines that unfold to lines
	maxLineLength  = 1_024   // of one unfolded line, in bytes: keepalived reads no more either
	maxReplaced    = 200     // parameters in one line
	maxFileSize    = 1 << 20 // in bytes
)

// reader unfolds keepalived's files, as one node reads them, to plain lines:
// comments are gone, conditional lines decided, parameters replaced, sequences
// and includes unfolded (keepalived.conf(5), ADVANCED CONFIGURATION).
type reader struct {
	root fs.FS
	node string // the config-id; "" for one that no line names

	ledger *ledger
	bad    *problems
	emit   func(text string, at place)

	params map[string]*param
	open   *param // a definition of several lines that goes on
	files  []file // that are being read, the innermost last
	depth  int
	steps  int
	count  int
	ids    map[string]bool // every config-id that a line names
}

// file is a file that is being read.
type file struct {
	name string // for people
	path string // in root
}

// param is what a name stands for.
type param struct {
	value string
	at    place
	lines []line // of a definition of several lines; value is empty
	used  bool
	plain bool // set by ~SEQ, ~LST or keepalived itself: no line to account for
}

type line struct {
	text string
	at   place
}

// read reads a file and what it includes.
func (r *reader) read(f file, from place) {
	text, err := readFile(r.root, f.path)
	if err != nil {
		r.bad.add(from, "read %s: %v", f.name, err)
		return
	}
	for i, open := range r.files {
		if open.path == f.path {
			r.bad.add(from, "%s includes itself: %s", r.files[i].name, f.name)
			return
		}
	}
	if len(r.files) >= maxDepth {
		r.bad.add(from, "%d files include each other: at most %d", len(r.files)+1, maxDepth)
		return
	}
	r.files = append(r.files, f)
	n := 0
	for raw := range strings.Lines(text) {
		n++
		r.physical(strings.TrimRight(raw, "\r\n"), place{f.name, n})
	}
	r.open = nil
	r.files = r.files[:len(r.files)-1]
}

func readFile(root fs.FS, name string) (string, error) {
	info, err := fs.Stat(root, name)
	if err != nil {
		return "", reason(err)
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	if info.Size() > maxFileSize {
		return "", fmt.Errorf("it has %d bytes, more than the %d that are read", info.Size(), maxFileSize)
	}
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return "", reason(err)
	}
	return strings.TrimPrefix(string(text), "\ufeff"), nil
}

// physical takes a line as it stands in the file.
func (r *reader) physical(raw string, at place) {
	text, comment, err := decomment(raw)
	if strings.TrimSpace(raw) != "" {
		r.ledger.read(at)
	}
	if comment {
		r.ledger.comment(at)
	}
	if err == nil && (!utf8.ValidString(text) || strings.ContainsRune(text, 0)) {
		err = errors.New("it is not text in UTF-8; in a comment it might stay")
	}
	if err != nil {
		r.bad.add(at, "%v", err)
		return
	}
	if r.open != nil && text != "" {
		more := strings.HasSuffix(text, `\`)
		if t := strings.TrimSpace(strings.TrimSuffix(text, `\`)); t != "" {
			r.open.lines = append(r.open.lines, line{t, at})
		} else {
			r.ledger.carry(at, "the definition")
		}
		if !more {
			r.open = nil
		}
		return
	}
	r.open = nil // an empty line ends a definition
	if text != "" {
		r.unfold(text, at, true)
	}
}

// decomment takes away a comment and the space around. A comment begins with
// "!" or "#" outside of double quotes and not after a backslash.
func decomment(raw string) (text string, comment bool, err error) {
	var b strings.Builder
	quoted := false
scan:
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '\\' && i+1 < len(raw):
			if quoted || raw[i+1] != '#' && raw[i+1] != '!' {
				b.WriteByte(c)
			}
			i++
			b.WriteByte(raw[i])
			continue
		case c == '"':
			quoted = !quoted
		case (c == '!' || c == '#') && !quoted:
			comment = true
			break scan
		}
		b.WriteByte(c)
	}
	if quoted {
		return "", comment, errors.New("the quote \" is not closed on its line")
	}
	return strings.TrimSpace(b.String()), comment, nil
}

// unfold takes a line without comment. direct says that it stands in a file
// and not in a parameter.
func (r *reader) unfold(text string, at place, direct bool) {
	if r.steps++; r.steps > maxUnfoldSteps {
		if r.steps == maxUnfoldSteps+1 {
			r.bad.add(at, "the configuration unfolds in more than %d steps", maxUnfoldSteps)
		}
		return
	}
	r.depth++
	defer func() { r.depth-- }()
	if r.depth > maxDepth {
		r.bad.add(at, "parameters unfold to each other more than %d deep", maxDepth)
		return
	}
	if len(text) > maxLineLength {
		r.bad.add(at, "the line is longer than %d bytes", maxLineLength)
		return
	}
	for range maxReplaced {
		var ok bool
		if text, ok = r.condition(text, at); !ok {
			return
		}
		if r.define(text, at, direct) || r.sequence(text, at) {
			return
		}
		next, multi, found := r.replace(text)
		if len(next) > maxLineLength {
			r.bad.add(at, "the line unfolds to more than %d bytes", maxLineLength)
			return
		}
		if multi != nil {
			r.ledger.carry(at, "what it stands for")
			for _, l := range multi.lines {
				first := l.text
				if next != "" {
					first, next = next+l.text, ""
				}
				r.unfold(first, l.at, false)
			}
			return
		}
		if !found {
			r.finish(text, at)
			return
		}
		text = strings.TrimSpace(next)
		if text == "" {
			r.ledger.carry(at, "what it stands for: nothing")
			return
		}
	}
	r.bad.add(at, "more than %d parameters are replaced in one line: does one stand for itself?", maxReplaced)
}

// condition decides on a line that begins with "@".
func (r *reader) condition(text string, at place) (rest string, ok bool) {
	after, found := strings.CutPrefix(text, "@")
	if !found {
		return text, true
	}
	after, not := strings.CutPrefix(after, "^")
	i := strings.IndexAny(after, " \t")
	if i < 0 {
		r.ledger.note(text, "nothing follows the condition, and keepalived ignores it", at)
		return "", false
	}
	id := after[:i]
	if id != "" {
		r.ids[id] = true
	}
	if (id == r.node) == not {
		return "", false
	}
	return strings.TrimSpace(after[i:]), true
}

// define keeps a definition, $NAME=VALUE.
func (r *reader) define(text string, at place, direct bool) bool {
	name, value, ok := strings.Cut(strings.TrimPrefix(text, "$"), "=")
	if name = strings.TrimRight(name, " \t"); !ok || text[0] != '$' || !isParam(name) {
		return false
	}
	value = strings.TrimSpace(value)
	p := &param{value: value, at: at}
	r.forget(r.params[name])
	r.params[name] = p
	if !direct || !strings.HasSuffix(value, `\`) {
		return true
	}
	p.value = ""
	if first := strings.TrimSpace(strings.TrimSuffix(value, `\`)); first != "" {
		p.lines = append(p.lines, line{first, at})
	}
	r.open = p
	return true
}

// forget gives an account of a definition that is used no more.
func (r *reader) forget(p *param) {
	if p == nil || p.plain {
		return
	}
	if p.used {
		r.ledger.carry(p.at, "where it is used")
		return
	}
	at := []place{p.at}
	for _, l := range p.lines {
		at = append(at, l.at)
	}
	r.ledger.unclaimed("a definition", "nothing uses it", at...)
}

func isParam(name string) bool {
	for i, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// replace replaces the first parameter of text that is defined. A parameter of
// several lines stands only at the end of a line: then next is what precedes
// it.
func (r *reader) replace(text string) (next string, multi *param, found bool) {
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			continue
		}
		name, length := paramAt(text[i+1:])
		if name == "" {
			continue
		}
		before, after := text[:i], text[i+1+length:]
		if value, ok := r.predefined(name); ok {
			return before + value + after, nil, true
		}
		p := r.params[name]
		if p == nil || len(p.lines) > 0 && after != "" {
			continue
		}
		p.used = true
		if len(p.lines) > 0 {
			return before, p, true
		}
		return before + p.value + after, nil, true
	}
	return text, nil, false
}

// paramAt reads "{NAME}" or "NAME" followed by space or the line's end.
func paramAt(text string) (name string, length int) {
	if inner, ok := strings.CutPrefix(text, "{"); ok {
		end := strings.IndexByte(inner, '}')
		if end < 0 || !isParam(inner[:end]) {
			return "", 0
		}
		return inner[:end], end + 2
	}
	end := strings.IndexAny(text, " \t,)")
	if end < 0 {
		end = len(text)
	}
	if !isParam(text[:end]) {
		return "", 0
	}
	return text[:end], end
}

// configDir is where keepalived's main file lies.
const configDir = "/etc/keepalived"

// predefined are the parameters that keepalived defines itself.
func (r *reader) predefined(name string) (string, bool) {
	if r.params[name] != nil {
		return "", false
	}
	switch name {
	case "_PWD":
		main, here := path.Dir(r.files[0].path), path.Dir(r.files[len(r.files)-1].path)
		if rest, ok := strings.CutPrefix(here+"/", main+"/"); ok {
			return path.Join(configDir, rest), true
		}
		return "/" + here, true
	case "_INSTANCE":
		return r.node, r.node != ""
	case "_HASH":
		return "#", true
	case "_BANG":
		return "!", true
	}
	return "", false
}

// finish gives a plain line away, or reads what it includes.
func (r *reader) finish(text string, at place) {
	if r.include(text, at) { // before its braces are looked at: they may be a pattern's
		return
	}
	for _, piece := range pieces(text) {
		if r.include(piece, at) {
			continue
		}
		if r.count++; r.count > maxStatements {
			if r.count == maxStatements+1 {
				r.bad.add(at, "the configuration unfolds to more than %d statements", maxStatements)
			}
			return
		}
		r.emit(piece, at)
	}
}

// close gives an account of all definitions.
func (r *reader) close() {
	for _, p := range r.params {
		r.forget(p)
	}
}
