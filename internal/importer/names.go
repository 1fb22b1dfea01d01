package importer

import (
	"fmt"
	"regexp"
	"strings"
)

// maxName is how long a name may be in had's files, in bytes.
const maxName = 63

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// ValidName reports whether had takes name for a node or a cluster: a host name
// (RFC 1123), at most 63 bytes long.
func ValidName(name string) bool { return len(name) <= maxName && hostName.MatchString(name) }

// identifier makes a name of any text that had takes for a block: a letter,
// then letters, digits, "-" and "_".
func identifier(text string) string {
	name := strings.ReplaceAll(fileName(text), ".", "-")
	if name == "" || (name[0]|0x20 < 'a' || name[0]|0x20 > 'z') {
		name = "n" + name
	}
	return name[:min(len(name), maxName)]
}

// unique makes name differ from all that are taken, and takes it.
func unique(name string, taken map[string]bool) string {
	for i, first := 2, name; taken[name]; i++ {
		tail := fmt.Sprintf("-%d", i)
		name = first[:min(len(first), maxName-len(tail))] + tail
	}
	taken[name] = true
	return name
}

// isMailbox reports whether had takes text for a bare mail address (RFC 5321
// §4.1.2).
func isMailbox(text string) bool {
	local, domain, _ := strings.Cut(text, "@")
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>()[]\",;:@`, r) }
	return local != "" && domain != "" && len(text) <= 254 && !strings.ContainsFunc(local+domain, bad)
}
