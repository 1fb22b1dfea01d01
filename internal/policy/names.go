package policy

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
)

const (
	nodeNameHint = "a node's name is a host name (RFC 1123): letters, digits, \"-\" and \".\", at most 63 of them, beginning and ending with a letter or digit"
	identHint    = "the name begins with a letter and goes on with letters, digits, \"-\" and \"_\", at most 63 of them"
)

var (
	hostLabels = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
	identifier = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)
)

const maxName = 63

// validHostName reports whether name is a host name as RFC 1123 §2.1 has it,
// no longer than one label of RFC 1035 §2.3.4 may be.
func validHostName(name string) bool { return len(name) <= maxName && hostLabels.MatchString(name) }

// validIdentifier reports whether name can later be used in an HCL reference.
func validIdentifier(name string) bool { return len(name) <= maxName && identifier.MatchString(name) }

// nearest returns the known name that name is most likely a misspelling of,
// or "": at most two changed, missing or extra letters away, but never all of
// them. The first of equals wins.
func nearest(name string, known []string) string {
	best, distance := "", min(3, len(name))
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// suggest returns the hint for a name that isn't among the known ones.
func suggest(name string, known []string) string {
	if k := nearest(name, known); k != "" {
		return "did you mean " + quote(k) + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// quote returns text as it would be written in a file, shortened when it
// wouldn't fit on a line.
func quote(text string) string {
	const most = 60
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return strconv.Quote(text)
}
