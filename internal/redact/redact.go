// Package redact takes secrets out of what is shown: those that are known, and what
// stands where secrets do.
package redact

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Hidden stands for a secret.
const Hidden = "(secret)"

// Hide replaces secrets in a text.
func Hide(text string, secrets []string) string { return Hider(secrets).Replace(text) }

// Hider replaces secrets in texts, also as they are in URLs, in JSON and in quotes of
// Python's, which is how programs log their requests. The longest go first: one may be
// a part of another.
func Hider(secrets []string) *strings.Replacer {
	var forms []string
	for _, s := range secrets {
		quoted := strconv.Quote(s)
		forms = append(forms, s, url.QueryEscape(s), url.PathEscape(s), quoted[1:len(quoted)-1],
			strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `'`, `\'`), strings.ReplaceAll(s, `'`, `'"'"'`))
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, f := range slices.Compact(forms) {
		if f != "" {
			pairs = append(pairs, f, Hidden)
		}
	}
	return strings.NewReplacer(pairs...)
}

// Option returns the option whose value a file is to hold, and whether the option's
// name says that its value is a secret. password_file is password's; password itself
// is a secret, and so are the names that fence agents give theirs (`fence_X -o
// metadata`).
func Option(option string) (name string, secret bool) {
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

// IsFile reports whether an option names a file.
func IsFile(option string) bool {
	return strings.HasSuffix(strings.ReplaceAll(strings.ToLower(option), "-", "_"), "_file")
}

// Text hides what stands in a text where secrets do: private keys, passwords of URLs,
// values of options with the name of a secret, and what a request is authorized with.
// It errs on the side of hiding.
func Text(text string) string {
	for _, p := range places() {
		text = p.is.ReplaceAllString(text, p.becomes)
	}
	return options(flag, options(assignment, text))
}

// options hides the values of options that are written in one form. A value may hold
// others: a line of JSON has a text with lines of its own.
func options(form *regexp.Regexp, text string) string {
	return form.ReplaceAllStringFunc(text, func(found string) string {
		m := form.FindStringSubmatch(found)
		name, value := m[2], m[4]
		bare := strings.Trim(value, `\"'`)
		if bare == "" {
			return found
		}
		instead := Hidden
		if !isSecret(name, bare) {
			instead = options(form, bare)
		}
		return m[1] + name + m[3] + strings.Replace(value, bare, instead, 1)
	})
}

// isSecret reports whether an option's value is one, and not hidden yet.
func isSecret(name, value string) bool {
	_, secret := Option(name)
	switch {
	case IsFile(name) || strings.HasPrefix(value, strings.TrimSuffix(Hidden, ")")):
		return false
	case strings.EqualFold(name, "token_key") && strings.HasPrefix(value, "/"): // of had.hcl: where it is
		return false
	}
	return secret || slices.Contains([]string{"pass", "pwd"}, strings.ToLower(name))
}

const (
	optionName = `([A-Za-z][A-Za-z0-9_.-]*)`
	// Up to the end of the quotes if it is in quotes, which may be escaped as in
	// JSON; else up to a space.
	optionValue = `(\\"(?:[^"\\]|\\[^"])*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;"'}\])]+)`
)

var (
	assignment = regexp.MustCompile(`()` + optionName + `((?:\\?["'])?\s*[=:]\s*)` + optionValue)
	flag       = regexp.MustCompile(`(--?)` + optionName + `(\s+|\\?["'],\s*)` + optionValue) // also as an item of a list
)

// place is one of which no option's name tells.
type place struct {
	is      *regexp.Regexp
	becomes string
}

var (
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)        // RFC 7468
	urlUser    = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'@]+@`)                                                      // RFC 3986 section 3.2.1
	urlQuery   = regexp.MustCompile(`(https?://[^\s?#"'\\]*\?)[^\s"'\\]+`)                                                            // often enough a key
	authorized = regexp.MustCompile(`(?i)(authorization\\?["']?\s*[=:]\s*\\?["']?(?:(?:basic|bearer|digest|token)\s+)?)[^\s"'\\,;]+`) // RFC 9110 section 11.6.2
	bearer     = regexp.MustCompile(`(?i)\b((?:basic|bearer)\s+)[A-Za-z0-9._~+/=-]{8,}`)                                              // RFC 6750, RFC 7617
	curlUser   = regexp.MustCompile(`((?:^|[\s"'])(?:-u|--user)(?:\\?["'],\s*\\?["']|[= ])[^\s:"'\\]+:)[^\s"'\\,;]+`)                 // curl(1)
	cifsUser   = regexp.MustCompile(`\b(user(?:name)?=[^\s,%"'\\]+%)[^\s,"'\\]+`)                                                     // mount.cifs(8)
)

func places() []place {
	return []place{
		{privateKey, Hidden}, {urlUser, "${1}" + Hidden + "@"}, {urlQuery, "${1}" + Hidden}, {authorized, "${1}" + Hidden},
		{bearer, "${1}" + Hidden}, {curlUser, "${1}" + Hidden}, {cifsUser, "${1}" + Hidden},
	}
}
