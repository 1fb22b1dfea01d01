package importer

import (
	"maps"
	"slices"
	"strings"
)

// ledger holds what became of each line that was read. Several nodes may read
// the same file, each in its own way; what one of them has claimed is
// accounted for.
type ledger struct {
	lines    map[place]bool            // every line that isn't blank
	comments map[place]bool            // lines with a comment in them
	carried  map[place]map[string]bool // to where
	notes    map[noteKey]map[int]bool  // the lines of each
	noted    map[place]bool
	maybe    map[place]noteKey // of lines that no other node claims
}

// noteKey is a note without its lines: lines with the same to say are one note.
type noteKey struct{ file, what, why string }

func newLedger() *ledger {
	return &ledger{
		lines: map[place]bool{}, comments: map[place]bool{}, carried: map[place]map[string]bool{},
		notes: map[noteKey]map[int]bool{}, noted: map[place]bool{}, maybe: map[place]noteKey{},
	}
}

// read enters a line that somebody has to account for.
func (l *ledger) read(at place) { l.lines[at] = true }

func (l *ledger) comment(at place) { l.comments[at] = true }

func (l *ledger) carry(at place, to string) {
	if l.carried[at] == nil {
		l.carried[at] = map[string]bool{}
	}
	l.carried[at][to] = true
}

// note lists what of these lines isn't carried over, and why.
func (l *ledger) note(what, why string, at ...place) {
	for _, p := range at {
		n := newNoteKey(p, what, why)
		if l.notes[n] == nil {
			l.notes[n] = map[int]bool{}
		}
		l.noted[p] = true
		if p.line > 0 {
			l.notes[n][p.line] = true
		}
	}
}

// unclaimed is note for lines of which another node's view may still make use.
func (l *ledger) unclaimed(what, why string, at ...place) {
	for _, p := range at {
		l.maybe[p] = newNoteKey(p, what, why)
	}
}

func newNoteKey(at place, what, why string) noteKey {
	return noteKey{at.file, printable(what), printable(why)}
}

// close accounts for the lines that nobody has claimed and returns all there
// is to tell.
func (l *ledger) close() ([]Carried, []Note) {
	for at := range l.lines {
		n, pending := l.maybe[at]
		switch {
		case l.carried[at] != nil || l.noted[at]:
		case pending:
			l.note(n.what, n.why, at)
		case l.comments[at]:
		default:
			l.note("this line", "it was not understood", at)
		}
	}
	for at := range l.comments {
		l.note("comments", "they are not copied", at)
	}
	var carried []Carried
	for _, at := range slices.SortedFunc(maps.Keys(l.carried), comparePlaces) {
		to := slices.Sorted(maps.Keys(l.carried[at]))
		carried = append(carried, Carried{at.file, at.line, strings.Join(to, ", ")})
	}
	var notes []Note
	for key, lines := range l.notes {
		notes = append(notes, Note{File: key.file, Lines: slices.Sorted(maps.Keys(lines)), What: key.what, Why: key.why})
	}
	slices.SortFunc(notes, func(a, b Note) int {
		if c := comparePlaces(firstPlace(a), firstPlace(b)); c != 0 {
			return c
		}
		return strings.Compare(a.What+"\x00"+a.Why, b.What+"\x00"+b.Why)
	})
	return carried, notes
}

func firstPlace(n Note) place {
	if len(n.Lines) == 0 {
		return place{n.File, 0}
	}
	return place{n.File, n.Lines[0]}
}
