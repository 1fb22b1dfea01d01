package token

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"syscall"
)

// placeholder is a variable in a template, as autoconf(1) writes them: it means
// nothing to a shell, and a configuration full of $ and {{ needs no escapes.
var placeholder = regexp.MustCompile(`@(HAD_[A-Z0-9_]+)@`)

// maxTemplate bounds a template, in bytes.
const maxTemplate = 1 << 20

// Render reads a template and fills in variables: @HAD_TOKEN_AFP@ becomes
// vars["HAD_TOKEN_AFP"]. A variable that isn't there is an error.
func Render(template string, vars map[string]string) ([]byte, error) {
	info, err := os.Stat(template)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the template: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxTemplate:
		return nil, fmt.Errorf("the template %s is not a file of at most %d bytes", template, maxTemplate)
	}
	text, err := os.ReadFile(template)
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	var unknown error
	out := placeholder.ReplaceAllFunc(text, func(match []byte) []byte {
		name := string(match[1 : len(match)-1])
		value, ok := vars[name]
		if !ok && unknown == nil {
			before, _, _ := bytes.Cut(text, match)
			unknown = fmt.Errorf("the template %s has @%s@ on line %d, which means nothing here", template, name, 1+bytes.Count(before, []byte("\n")))
		}
		return []byte(value)
	})
	return out, unknown
}

// PutRendered makes a rendered configuration be at path, all at once, with owner
// and mode of the file that was there, and root's and 0644 otherwise. It does
// nothing when it is there already.
func PutRendered(path string, text []byte) error {
	uid, gid, mode := 0, 0, fs.FileMode(0o644)
	info, err := os.Stat(path)
	switch {
	case err == nil:
		st := info.Sys().(*syscall.Stat_t)
		uid, gid, mode = int(st.Uid), int(st.Gid), info.Mode().Perm()
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			return nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("render %s: %w", path, err)
	}
	return put(path, text, func(f *os.File) error { return errors.Join(f.Chown(uid, gid), f.Chmod(mode)) })
}
