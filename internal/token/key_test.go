package token

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makeKey(t *testing.T) (*Key, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token.key")
	k, err := MakeKey(path)
	must(t, err)
	return k, path
}

func TestAKeyIsMadeOnceAndReadBack(t *testing.T) {
	k, path := makeKey(t)
	again, err := ReadKey(path)
	must(t, err)
	if again.ID() != k.ID() || len(k.ID()) != 16 {
		t.Errorf("made %q, read %q", k.ID(), again.ID())
	}
	if _, err := MakeKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key over the first: %v", err)
	}
	if still, err := ReadKey(path); err != nil || still.ID() != k.ID() {
		t.Errorf("the key was replaced: %v", err)
	}
	if other, _ := makeKey(t); other.ID() == k.ID() {
		t.Error("two keys are the same")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

func TestKeysThatAreNotToBeTrusted(t *testing.T) {
	_, path := makeKey(t)
	good, err := os.ReadFile(path)
	must(t, err)
	for name, c := range map[string]struct {
		do   func(path string) error
		want string
	}{
		"absent":     {os.Remove, "no token key"},
		"readable":   {func(p string) error { return os.Chmod(p, 0o640) }, "chmod 0600"},
		"somebody's": {func(p string) error { return os.Chown(p, 65534, 0) }, "belongs to user 65534"},
		"empty":      {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "is no token key"},
		"short":      {func(p string) error { return os.WriteFile(p, good[:len(good)-8], 0o600) }, "is no token key"},
		"long": {func(p string) error {
			return os.WriteFile(p, append(good[:len(good)-1:len(good)-1], "AAAA\n"...), 0o600)
		}, "is no token key"},
		"something else": {func(p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) }, "is no token key"},
		"a link": {func(p string) error {
			return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p))
		}, "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token.key")
			must(t, os.WriteFile(path, good, 0o600))
			must(t, c.do(path))
			_, err := ReadKey(path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
			if err != nil && strings.Contains(err.Error(), string(good[len(keyMagic):len(keyMagic)+8])) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestAContentOpensOnlyWhereItBelongs(t *testing.T) {
	k, _ := makeKey(t)
	other, _ := makeKey(t)
	here := Place{Cluster: "c-1", Name: "tickets", Version: 3}
	content := []byte("eighty bytes of a ticket key, or thereabouts")
	sealed, err := k.Seal(here, content)
	must(t, err)
	if len(sealed) != len(content)+Overhead || bytes.Contains(sealed, content[:8]) {
		t.Errorf("%d bytes became %d", len(content), len(sealed))
	}
	got, err := k.Open(here, k.ID(), sealed)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("opened: %q, %v", got, err)
	}
	twice, err := k.Seal(here, content)
	if err != nil || bytes.Equal(sealed, twice) {
		t.Error("the same content is sealed the same: who sees the log sees that it didn't change")
	}
	for _, there := range []Place{
		{Cluster: "c-2", Name: "tickets", Version: 3}, {Cluster: "c-1", Name: "ticket", Version: 3},
		{Cluster: "c-1", Name: "tickets", Version: 2}, {Cluster: "c-1t", Name: "ickets", Version: 3},
	} {
		if _, err := k.Open(there, k.ID(), sealed); err == nil {
			t.Errorf("opened as that of %+v", there)
		}
	}
	if _, err := other.Open(here, k.ID(), sealed); !errors.Is(err, ErrOtherKey) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := other.Open(here, other.ID(), sealed); err == nil {
		t.Error("opened with another key that poses as the first")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := k.Open(here, k.ID(), damaged); err == nil {
			t.Fatalf("opened with bit 0 of byte %d flipped", i)
		}
	}
	for _, n := range []int{0, MaxSize + 1} {
		if _, err := k.Seal(here, make([]byte, n)); err == nil {
			t.Errorf("%d bytes were sealed", n)
		}
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte(keyMagic + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	f.Add([]byte(keyMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, line []byte) {
		k, err := parseKey("token.key", line)
		if (k == nil) == (err == nil) {
			t.Fatalf("%q: %v, %v", line, k, err)
		}
		if k == nil {
			return
		}
		sealed, err := k.Seal(Place{Name: "x"}, []byte("x"))
		must(t, err)
		if _, err := k.Open(Place{Name: "x"}, k.ID(), sealed); err != nil {
			t.Fatal(err)
		}
	})
}
