package importer

import (
	"strings"
)

// node is a statement with its words, and the statements in its braces.
type node struct {
	words []word
	at    place
	brace place // the opening one of a block
	end   place // the closing one; both are at when there is none
	block bool
	kids  []*node
	fate  bool // somebody has claimed or listed it
	lost  bool // it is listed, with all in its braces
	left  bool // it is left out, with all in its braces
}

// builder makes a tree of lines.
type builder struct {
	bad     *problems
	ledger  *ledger
	root    node
	open    []*node // blocks, the innermost last
	pending *node   // the latest statement, which a brace may follow
}

func newBuilder(l *ledger, bad *problems) *builder {
	b := &builder{ledger: l, bad: bad}
	b.open = []*node{&b.root}
	return b
}

// add takes a piece of a line: a brace, or what stands before, between or
// after them.
func (b *builder) add(piece string, at place) {
	switch piece {
	case "{":
		b.begin(at)
	case "}":
		b.finish(at)
	default:
		b.statement(piece, at)
	}
}

// pieces splits a line at its braces, which stand for themselves with or
// without space around, but in double quotes.
func pieces(text string) (all []string) {
	quoted := false
	begin := 0
	add := func(piece string) {
		if strings.TrimSpace(piece) != "" {
			all = append(all, piece)
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case (c == '{' || c == '}') && !quoted:
			add(text[begin:i])
			all = append(all, text[i:i+1])
			begin = i + 1
		}
	}
	add(text[min(begin, len(text)):])
	return all
}

func (b *builder) statement(text string, at place) {
	words, err := split(text)
	if err != nil {
		b.bad.add(at, "%v", err)
		return
	}
	if len(words) == 0 {
		return
	}
	parent := b.open[len(b.open)-1]
	b.pending = &node{words: words, at: at, brace: at, end: at}
	parent.kids = append(parent.kids, b.pending)
}

func (b *builder) begin(at place) {
	if b.pending == nil {
		b.bad.add(at, "a { without a name before it")
		b.pending = &node{at: at} // so that its } is at home
	}
	if len(b.open) > maxDepth {
		b.bad.add(at, "blocks lie more than %d deep in each other", maxDepth)
	}
	b.pending.block = true
	b.pending.brace, b.pending.end = at, at
	b.open = append(b.open, b.pending)
	b.pending = nil
}

func (b *builder) finish(at place) {
	b.pending = nil
	if len(b.open) == 1 {
		b.bad.add(at, "a } without the { that it closes")
		return
	}
	b.open[len(b.open)-1].end = at
	b.open = b.open[:len(b.open)-1]
}

// tree returns all statements.
func (b *builder) tree() []*node {
	for _, n := range b.open[1:] {
		b.bad.add(n.at, "the { of %s is not closed", n.name())
	}
	return b.root.kids
}

// name is the statement's first word.
func (n *node) name() string {
	if len(n.words) == 0 {
		return "{"
	}
	return n.words[0].text
}

// text is the statement as it was written, but for quotes.
func (n *node) text() string {
	var words []string
	for _, w := range n.words {
		words = append(words, w.text)
	}
	return strings.Join(words, " ")
}

// arg returns the i-th word, and claims it.
func (n *node) arg(i int) (string, bool) {
	if i >= len(n.words) {
		return "", false
	}
	n.words[i].used = true
	return n.words[i].text, true
}

// places are the lines of the statement and of all in its braces.
func (n *node) places() []place {
	at := []place{n.at, n.brace, n.end}
	for _, k := range n.kids {
		at = append(at, k.places()...)
	}
	return at
}

// leave marks the statement and all in its braces as left out.
func (n *node) leave() {
	n.left, n.fate = true, true
	for _, k := range n.kids {
		k.leave()
	}
}
