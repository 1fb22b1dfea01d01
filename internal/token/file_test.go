package token

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func at(dir, name string) File {
	return File{Path: filepath.Join(dir, name), Owner: "root", Mode: 0o600}
}

func TestPutGivesOwnerAndMode(t *testing.T) {
	f := at(t.TempDir(), "token")
	f.Owner, f.Mode = "daemon:adm", 0o640
	must(t, f.Put([]byte("one")))
	must(t, f.Wrong())
	info, err := os.Stat(f.Path)
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1 || st.Gid != 4 || info.Mode().Perm() != 0o640 {
		t.Errorf("%d:%d %o", st.Uid, st.Gid, info.Mode().Perm())
	}
	must(t, os.Chmod(f.Path, 0o644))
	if err := f.Wrong(); err == nil || !strings.Contains(err.Error(), "chmod 0640") {
		t.Error(err)
	}
	must(t, f.Put([]byte("two")))
	must(t, f.Wrong())
	got, err := f.Read()
	if err != nil || string(got) != "two" {
		t.Errorf("%q, %v", got, err)
	}
	f.Owner = "nobody-of-that-name"
	if err := f.Put([]byte("three")); err == nil || !strings.Contains(err.Error(), `no user "nobody-of-that-name"`) {
		t.Error(err)
	}
}

// Whoever looks sees one whole content or another, and nothing else is left.
func TestPutIsAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	f := at(dir, "token")
	one, two := bytes.Repeat([]byte{1}, MaxSize), bytes.Repeat([]byte{2}, MaxSize)
	must(t, f.Put(one))
	done := make(chan error, 1)
	go func() {
		for i := range 50 {
			if err := f.Put([][]byte{two, one}[i%2]); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for looks := 0; ; looks++ {
		got, err := f.Read()
		if err != nil || !bytes.Equal(got, one) && !bytes.Equal(got, two) {
			t.Fatalf("%d bytes, beginning with %v: %v", len(got), got[:min(len(got), 4)], err)
		}
		select {
		case err := <-done:
			must(t, err)
			if looks == 0 {
				t.Error("nobody looked meanwhile")
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v (%v)", entries, err)
			}
			return
		default:
		}
	}
}

func TestWhatIsNoToken(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("of the host"), 0o600))
	must(t, os.Symlink(secret, filepath.Join(dir, "link")))
	must(t, os.Link(secret, filepath.Join(dir, "hard")))
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, MaxSize+1), 0o600))
	for name, want := range map[string]string{
		"link": "symbolic link", "hard": "2 names", "folder": "not a regular file", "pipe": "not a regular file",
		"big": "65537 bytes", "empty": "an empty one", "absent": "there is no file",
	} {
		got, err := at(dir, name).Read()
		if err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if absent := name == "empty" || name == "absent"; errors.Is(err, ErrAbsent) != absent {
			t.Errorf("%s is absent: %t", name, !absent)
		}
	}
	// A link is replaced, and what it led to is not touched.
	must(t, at(dir, "link").Put([]byte("token")))
	if text, err := os.ReadFile(secret); err != nil || string(text) != "of the host" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPlacesThatCantBeUsed(t *testing.T) {
	dir := t.TempDir()
	must(t, at(dir, "token").Check())
	if err := at(dir, "no/token").Check(); err == nil || !strings.Contains(err.Error(), "mkdir -p "+dir+"/no") {
		t.Error(err)
	}
	open := filepath.Join(dir, "open")
	must(t, os.Mkdir(open, 0o700))
	must(t, os.Chmod(open, 0o777))
	if err := at(open, "token").Check(); err == nil || !strings.Contains(err.Error(), "every user can write") {
		t.Error(err)
	}
	if _, err := Shared(filepath.Join(dir, "token")); err == nil || !strings.Contains(err.Error(), "which only this host has") {
		t.Errorf("a local disk passed for a shared one: %v", err)
	}
	if _, err := Shared(filepath.Join(dir, "no", "token")); err == nil || !strings.Contains(err.Error(), "mount the shared storage") {
		t.Error(err)
	}
}

func TestRender(t *testing.T) {
	dir := t.TempDir()
	template, to := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	must(t, os.WriteFile(template, []byte("# ask admin@example.org\nreconnect = @HAD_TOKEN_AFP@\nhost = @HAD_NODE@ $x {{y}}\n"), 0o600))
	vars := map[string]string{"HAD_TOKEN_AFP": "/srv/token/AFP.conf", "HAD_NODE": "alpha"}
	text, err := Render(template, vars)
	must(t, err)
	if want := "# ask admin@example.org\nreconnect = /srv/token/AFP.conf\nhost = alpha $x {{y}}\n"; string(text) != want {
		t.Errorf("%q", text)
	}
	must(t, PutRendered(to, text))
	first, err := os.Stat(to)
	if err != nil || first.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", first, err)
	}
	must(t, PutRendered(to, text))
	if again, err := os.Stat(to); err != nil || !os.SameFile(first, again) {
		t.Error("what was there already was written again")
	}
	must(t, os.Chmod(to, 0o640))
	must(t, os.Chown(to, 0, 4))
	must(t, PutRendered(to, []byte("other\n")))
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o640 || info.Sys().(*syscall.Stat_t).Gid != 4 {
		t.Errorf("owner and mode were not kept: %v, %v", info, err)
	}
	must(t, os.WriteFile(template, []byte("\nx = @HAD_TOKEN_AFPP@\n"), 0o600))
	if _, err := Render(template, vars); err == nil || !strings.Contains(err.Error(), "@HAD_TOKEN_AFPP@ on line 2") {
		t.Error(err)
	}
}
