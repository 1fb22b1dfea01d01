package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"had/internal/hook"
	"had/internal/policy"
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

// A script that taking over needs and that won't be run keeps the node from
// beginning: found out later, it would cost an outage. One that comes after
// is a warning.
func TestScriptsThatAnAcquisitionNeedsMustBeTrusted(t *testing.T) {
	root := t.TempDir()
	p := &policy.Policy{VIPs: []policy.VIP{{Address: netip.MustParseAddr("192.0.2.10")}}, Hooks: policy.Hooks{Dir: root}}
	dir := filepath.Join(root, "192.0.2.10")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("PreAcq10", 0o755)
	write("PostAcq10", 0o777)
	f, err := checkHooks(p)
	if err != nil || len(f.Warnings) != 1 {
		t.Errorf("an open PostAcq: %v, warnings %q; want no error and one warning", err, f.Warnings)
	}
	before := f.Digest
	write("PreAcq10", 0o777)
	if f, err = checkHooks(p); err == nil || !strings.Contains(err.Error(), "PreAcq10") {
		t.Errorf("an open PreAcq gave %v", err)
	}
	if f.Digest == "" || f.Digest != before {
		t.Errorf("the digest went from %q to %q though no script's text changed", before, f.Digest)
	}
}

// A node without the folder differs from one that has it.
func TestAFolderThatIsNotThereHasADigestToo(t *testing.T) {
	root := t.TempDir()
	p := &policy.Policy{VIPs: []policy.VIP{{Address: netip.MustParseAddr("192.0.2.10")}}, Hooks: policy.Hooks{Dir: root}}
	without, err := checkHooks(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "192.0.2.10")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "PostAcq10"), []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // a script
		t.Fatal(err)
	}
	with, err := checkHooks(p)
	if err != nil || without.Digest == "" || with.Digest == without.Digest {
		t.Errorf("digests %q and %q, %v", without.Digest, with.Digest, err)
	}
}
