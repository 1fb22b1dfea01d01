package importer_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"had/internal/importer"
)

func TestWriteReplacesOnlyWhenTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	files := []importer.File{
		{Path: "policy.hcl", Mode: 0o644, Data: []byte("one\n")},
		{Path: "hooks/192.0.2.10/Test", Mode: 0o755, Data: []byte("#!/bin/sh\n")},
	}
	if err := importer.Write(dir, files, false); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, files[1].Path)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the script: %v, %v", info, err)
	}

	// A link in a file's place: what it points to is nobody's to change.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.WriteFile(elsewhere, []byte("mine\n"), 0o600), os.Symlink(elsewhere, filepath.Join(dir, "had.hcl"))); err != nil {
		t.Fatal(err)
	}
	more := append([]importer.File{{Path: "new", Mode: 0o644}}, append(files, importer.File{Path: "had.hcl", Mode: 0o644, Data: []byte("two\n")})...)
	if err := importer.Write(dir, more, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("files that are there were met with: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
	if err := importer.Write(dir, more, true); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{elsewhere: "mine\n", filepath.Join(dir, "had.hcl"): "two\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
