package importer_test

import (
	"flag"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"had/internal/importer"
)

var update = flag.Bool("update", false, "rewrite the want section of every testdata case")

// example is a case of testdata. Its comment holds, a line each, the words
//
//	read [NODE=]FILE        the file is given to the importer (default: the first)
//	node NAME=ADDRESS       and so are these options
//	witness NAME=ADDRESS
//	only NAME
//
// and other text says what the case is about; one that speaks of IPFailover is
// of such a folder and the hostconfig files beside it.
type example struct {
	path    string
	archive *txtar.Archive
	files   fstest.MapFS
	sources []importer.Source
	opts    importer.Options
}

func loadExamples(t testing.TB, dir string) []*example {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("find the cases of %s: %d, %v", dir, len(paths), err)
	}
	var all []*example
	for _, p := range paths {
		archive, err := txtar.ParseFile(p)
		if err != nil {
			t.Fatal(err)
		}
		e := &example{path: p, archive: archive, files: fstest.MapFS{}}
		for _, f := range archive.Files {
			if f.Name != "want" {
				e.files[f.Name] = newFile(f.Name, f.Data)
			}
		}
		e.command(t)
		all = append(all, e)
	}
	return all
}

// newFile is a file of a case; one whose name ends in ".sh", or that lies in an
// IPFailover folder and isn't a ".txt", is executable.
func newFile(name string, data []byte) *fstest.MapFile {
	mode := fs.FileMode(0o644)
	if strings.HasSuffix(name, ".sh") || strings.HasPrefix(name, "IPFailover/") && !strings.HasSuffix(name, ".txt") {
		mode = 0o755
	}
	return &fstest.MapFile{Data: data, Mode: mode}
}

func (e *example) command(t testing.TB) {
	for line := range strings.Lines(string(e.archive.Comment)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, value, _ := strings.Cut(rest, "=")
		switch word {
		case "read":
			if value == "" {
				name, value = "", rest
			}
			e.sources = append(e.sources, importer.Source{Node: name, Name: value, Path: value})
		case "node", "witness":
			a, err := netip.ParseAddr(value)
			if err != nil {
				t.Fatalf("%s: %v", e.path, err)
			}
			e.opts.Nodes = append(e.opts.Nodes, importer.Node{Name: name, Address: a, Witness: word == "witness"})
		case "only":
			e.opts.Only = append(e.opts.Only, rest)
		}
	}
	if e.sources == nil {
		name := e.archive.Files[0].Name
		e.sources = []importer.Source{{Name: name, Path: name}}
	}
}

// run imports the case.
func (e *example) run() (*importer.Result, error) {
	if strings.Contains(string(e.archive.Comment), "IPFailover") {
		return e.ipfailover()
	}
	return importer.Keepalived(e.files, e.sources, e.opts)
}

func TestGolden(t *testing.T) {
	for _, dir := range []string{"keepalived", "ipfailover", "refused"} {
		for _, e := range loadExamples(t, dir) {
			t.Run(strings.TrimSuffix(path.Base(e.path), ".txtar"), func(t *testing.T) {
				got := ""
				r, err := e.run()
				switch {
				case (err != nil) != (dir == "refused"):
					t.Fatalf("error: %v", err)
				case err != nil:
					got = err.Error() + "\n"
				default:
					got = r.Text()
				}
				e.compare(t, got)
			})
		}
	}
}

func (e *example) compare(t *testing.T, got string) {
	t.Helper()
	files := e.archive.Files
	want := ""
	if last := len(files) - 1; files[last].Name == "want" {
		want = string(files[last].Data)
		files = files[:last]
	}
	if *update {
		e.archive.Files = slices.Concat(files, []txtar.File{{Name: "want", Data: []byte(got)}})
		if err := os.WriteFile(e.path, txtar.Format(e.archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func (e *example) ipfailover() (*importer.Result, error) {
	var configs []importer.Source
	for _, f := range e.archive.Files {
		if strings.HasPrefix(f.Name, "hostconfig") {
			configs = append(configs, importer.Source{Name: f.Name, Path: f.Name})
		}
	}
	return importer.IPFailover(e.files, importer.Source{Name: "IPFailover", Path: "IPFailover"}, configs, e.opts)
}
