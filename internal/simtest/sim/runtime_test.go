package main

import (
	"errors"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPatchesFitThisGo notices at once when another Go needs other patches.
func TestPatchesFitThisGo(t *testing.T) {
	root, err := goroot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := overlay(root, dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range patches() {
		if _, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, p.file), nil, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestAnotherGoIsRefused changes a line that a patch needs.
func TestAnotherGoIsRefused(t *testing.T) {
	root, err := goroot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, dir := t.TempDir(), t.TempDir()
	var errs []error
	for _, p := range patches() {
		path := filepath.Join(other, "src", "runtime", p.file)
		data, err := os.ReadFile(filepath.Join(root, "src", "runtime", p.file))
		text := strings.Replace(string(data), "const haveSysmon", "const hasSysmon", 1)
		errs = append(errs, err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	_, err = overlay(other, dir)
	if err == nil || !strings.Contains(err.Error(), "haveSysmon") {
		t.Errorf("got %v, want an error that shows the line", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files were written", len(left))
	}
}
