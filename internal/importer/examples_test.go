package importer_test

import (
	"bytes"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"had/internal/importer"
)

const examplesDir = "../../scripts/examples"

// What scripts/examples/keepalived shows as the result is the result.
func TestKeepalivedExample(t *testing.T) {
	dir := filepath.Join(examplesDir, "keepalived")
	r, err := importer.Keepalived(os.DirFS(dir), []importer.Source{{Name: "keepalived.conf", Path: "keepalived.conf"}}, importer.Options{
		Cluster: "web",
		Nodes:   []importer.Node{{Name: "gamma", Address: netip.MustParseAddr("10.0.0.13"), Witness: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.ToDo) > 0 {
		t.Errorf("something is left to do: %q", r.ToDo)
	}
	files := slices.Concat(r.Files, []importer.File{{Path: "import.txt", Mode: 0o644, Data: []byte(r.List())}})
	if *update {
		if err := os.RemoveAll(filepath.Join(dir, "had")); err != nil {
			t.Fatal(err)
		}
		if err := importer.Write(filepath.Join(dir, "had"), files, false); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{}
	for _, f := range files {
		want[f.Path] = true
		checkFile(t, filepath.Join(dir, "had", f.Path), f)
	}
	err = fs.WalkDir(os.DirFS(filepath.Join(dir, "had")), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !want[path] {
			t.Errorf("%s is no longer part of the result", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The scripts of an old Mac's folder come out as they went in.
func TestMacFolderIsCopiedUnchanged(t *testing.T) {
	dir := filepath.Join(examplesDir, "hooks-macstyle")
	r, err := importer.IPFailover(os.DirFS(dir), importer.Source{Name: "IPFailover", Path: "."}, nil, importer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[string]importer.File{}
	for _, f := range r.Files[2:] {
		scripts[filepath.Base(f.Path)] = f
	}
	entries, err := os.ReadDir(filepath.Join(dir, "192.0.2.10"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		f, copied := scripts[e.Name()]
		switch backup := e.Name() == "PostAcq10StartWeb~"; {
		case copied == backup:
			t.Errorf("%s: copied: %v", e.Name(), copied)
		case copied:
			checkFile(t, filepath.Join(dir, "192.0.2.10", e.Name()), f)
		}
	}
}

func checkFile(t *testing.T, path string, want importer.File) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(got, want.Data) {
		t.Errorf("%s isn't what the importer makes:\n%s", path, want.Data)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&0o111 != want.Mode&0o111 {
		t.Errorf("%s: %v, %v; want the mode %v", path, info.Mode(), err, want.Mode)
	}
}
