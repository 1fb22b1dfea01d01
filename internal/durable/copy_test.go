package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCopyDir(t *testing.T) {
	src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join(t.TempDir(), "dst")
	for name, text := range map[string]string{"identity.json": "id", "raft/log/1": "entries", "scratch/x": "gone", "raft/scratch": "kept"} {
		path := filepath.Join(src, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(src, "identity.json"), 0o640), os.Symlink("/etc/passwd", filepath.Join(src, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := CopyDir(dst, src, "scratch"); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(dst, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got = append(got, strings.TrimPrefix(path, dst+"/")+"="+string(text))
		}
		return err
	})
	if s := strings.Join(got, " "); err != nil || s != "identity.json=id raft/log/1=entries raft/scratch=kept" {
		t.Errorf("the copy has %s (%v)", s, err)
	}
	if info, err := os.Stat(filepath.Join(dst, "identity.json")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v (%v)", info.Mode(), err)
	}
	if err := CopyDir(dst, src); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "had.snapshot")
	if err := WriteFile(path, []byte("one"), false); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("two"), false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	want := func(text string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("it holds %q (%v), want %q", got, err, text)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("its mode is %v (%v)", info.Mode(), err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("beside it is %v (%v)", entries, err)
		}
	}
	want("one")
	if err := WriteFile(path, []byte("two"), true); err != nil {
		t.Fatal(err)
	}
	want("two")
	if err := WriteFile(filepath.Join(dir, "no", "file"), nil, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}
