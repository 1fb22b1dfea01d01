package policy

import "strings"

// hide makes every excerpt from now on show asterisks for t: what is refused
// because it mustn't be shown isn't shown.
func (s *source) hide(t text) {
	from, to := t.at.Start.Byte, t.at.End.Byte
	if from+1 < to-1 && to <= len(s.text) { // without the quotes
		s.text = s.text[:from+1] + strings.Repeat("*", to-from-2) + s.text[to-1:]
	}
}
