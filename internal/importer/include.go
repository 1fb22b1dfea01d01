package importer

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// include reads the files that a line names, if it is an include.
func (r *reader) include(text string, at place) bool {
	words, err := split(text)
	if err != nil || len(words) != 2 {
		return false
	}
	switch words[0].text {
	case "include", "includer", "includem", "includew", "includeb", "includea":
	default:
		return false
	}
	// A relative path is relative to the file that names it.
	pattern := words[1].text
	here := r.files[len(r.files)-1]
	rooted, shown := path.Clean(pattern)[1:], path.Clean(pattern)
	if !path.IsAbs(pattern) {
		rooted, shown = path.Join(path.Dir(here.path), pattern), path.Join(path.Dir(here.name), pattern)
	}
	var found []string
	for _, p := range braces(rooted) {
		matches, err := fs.Glob(r.root, p)
		if err != nil {
			r.bad.add(at, "%s is no pattern for files: %v", quote(pattern), err)
			return true
		}
		slices.Sort(matches)
		found = append(found, matches...)
	}
	if len(found) == 0 {
		if strings.ContainsAny(pattern, "*?[{") {
			r.ledger.note(text, "no file matches "+shown, at)
		} else {
			r.bad.add(at, "%s: there is no such file: copy it here, or take the line out", shown)
		}
		return true
	}
	r.ledger.carry(at, "the files it names")
	for _, f := range found {
		name := f
		switch rel, below := strings.CutPrefix(f, path.Dir(here.path)+"/"); {
		case path.IsAbs(pattern):
			name = "/" + f
		case below || path.Dir(here.path) == ".":
			name = path.Join(path.Dir(here.name), cmpOr(rel, f))
		}
		info, err := fs.Stat(r.root, f)
		switch {
		case err != nil:
			r.bad.add(at, "%s: %v", name, reason(err))
		case !info.Mode().IsRegular() || info.Mode()&0o111 != 0:
			r.ledger.note(name, "keepalived reads no directories and no executable files", at)
		default:
			r.read(file{name: name, path: f}, at)
		}
	}
	return true
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// braces writes out the first {a,b} of a pattern and what follows, as csh does.
func braces(pattern string) []string {
	const most = 100
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return []string{pattern}
	}
	depth, begin := 0, open+1
	var parts []string
	for i := open; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '{':
			depth++
		case c == ',' && depth == 1:
			parts = append(parts, pattern[begin:i])
			begin = i + 1
		case c == '}':
			if depth--; depth > 0 {
				continue
			}
			parts = append(parts, pattern[begin:i])
			var all []string
			for _, part := range parts {
				for _, p := range braces(pattern[:open] + part + pattern[i+1:]) {
					if len(all) < most {
						all = append(all, p)
					}
				}
			}
			return all
		}
	}
	return []string{pattern}
}

// reason is what went wrong with a file, without its path.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
