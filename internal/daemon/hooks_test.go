package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"had/internal/hook"
)

// A folder that others may write to keeps all scripts in it from running:
// status says so in one sentence, before any of them is needed.
func TestRefusalsAreForetold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "192.0.2.10")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var scripts []hook.Script
	for _, name := range []string{"PreAcq10-data", "PostAcq10-web"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, hook.Script{Name: name, Path: path})
	}
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // the mistake that is to be found
		t.Fatal(err)
	}
	said := refusals(scripts)
	if len(said) != 1 || !strings.HasSuffix(said[0], ", so had won't run PreAcq10-data, PostAcq10-web") {
		t.Errorf("%q", said)
	}
}
