package policy

import "strings"

// secretOf returns the option whose value a file is to hold, and whether the
// option's name says that its value is a secret. password_file is password's;
// password itself is a secret, and so are the names that fence agents give
// theirs (`fence_X -o metadata`).
func secretOf(option string) (name string, secret bool) {
	name = strings.ReplaceAll(strings.ToLower(option), "-", "_")
	name = strings.TrimSuffix(name, "_file")
	if strings.HasSuffix(name, "_script") { // names a program that prints the secret
		return "", false
	}
	for _, word := range []string{"passw", "passphrase", "secret", "apikey", "api_key", "token", "community", "hexadecimal_kg"} {
		if strings.Contains(name, word) {
			return name, true
		}
	}
	return "", false
}

// isFile reports whether an option names a file.
func isFile(option string) bool {
	return strings.HasSuffix(strings.ReplaceAll(strings.ToLower(option), "-", "_"), "_file")
}

// hide makes every excerpt from now on show asterisks for t: what is refused
// because it mustn't be shown isn't shown.
func (s *source) hide(t text) {
	from, to := t.at.Start.Byte, t.at.End.Byte
	if from+1 < to-1 && to <= len(s.text) { // without the quotes
		s.text = s.text[:from+1] + strings.Repeat("*", to-from-2) + s.text[to-1:]
	}
}
