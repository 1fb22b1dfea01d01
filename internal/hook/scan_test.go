package hook

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func names(scripts []Script) []string {
	var names []string
	for _, s := range scripts {
		names = append(names, s.Name)
	}
	return names
}

func TestScanWithoutFolderFindsNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		f, err := Scan(dir, testVIP())
		if err != nil || len(f.Scripts) != 0 || len(f.Warnings) != 0 {
			t.Errorf("Scan(%s) = %v, %v; want nothing", dir, f, err)
		}
	}
}

func TestScanOrdersByBytes(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"PreAcq9", "PreAcq10", "PreAcqÄ", "PreAcqz", "PreAcqB", "PreAcq", "PostAcq1", "Test", "PreRel", "PostRel-x", "README", "lib.sh"} {
		f.script(name, "")
	}
	folder, err := Scan(f.dir, testVIP())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"PreAcq", "PreAcq10", "PreAcq9", "PreAcqB", "PreAcqz", "PreAcqÄ"}
	if got := names(folder.Of(PreAcq)); !slices.Equal(got, want) {
		t.Errorf("PreAcq = %v, want %v", got, want)
	}
	for stage, want := range map[Stage]string{Test: "Test", PostAcq: "PostAcq1", PreRel: "PreRel", PostRel: "PostRel-x"} {
		if got := names(folder.Of(stage)); !slices.Equal(got, []string{want}) {
			t.Errorf("%s = %v, want %s", stage, got, want)
		}
	}
	if len(folder.Warnings) != 0 {
		t.Errorf("warnings = %q, want none", folder.Warnings)
	}
}

func TestScanThousandScripts(t *testing.T) {
	f := newFixture(t)
	var want []string
	for i := range 1000 {
		want = append(want, fmt.Sprintf("PostAcq%03d", i))
		f.script(want[i], "")
	}
	folder, err := Scan(f.dir, testVIP())
	if err != nil {
		t.Fatal(err)
	}
	if got := names(folder.Of(PostAcq)); !slices.Equal(got, want) {
		t.Errorf("got %d scripts in another order", len(got))
	}
}

func TestScanIgnoresLeftovers(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"PreAcq10~", "PreAcq10.bak", "PreAcq10.dpkg-old", "PreAcq.dpkg-new", "PreAcq10.rpmsave", ".PreAcq10.swp", ".DS_Store"} {
		f.script(name, "")
	}
	folder, err := Scan(f.dir, testVIP())
	if err != nil || len(folder.Scripts) != 0 || len(folder.Warnings) != 0 {
		t.Errorf("Scan = %v, %v; want neither scripts nor warnings", folder, err)
	}
}

// Whoever wrote such a file believes that it runs.
func TestScanWarns(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"PreAcq10":        {func(p string) error { return os.WriteFile(p, nil, 0o644) }, "not executable"},
		"PostAcq10":       {func(p string) error { return os.Mkdir(p, 0o755) }, "directory"},
		"PreRel10":        {func(p string) error { return os.Symlink("nowhere", p) }, "link to something that isn't there"},
		"PostRel10":       {func(p string) error { return os.Symlink("/dev/null", p) }, "not a regular file"},
		"preacq10":        {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "begin with PreAcq"},
		"Post-Acq10":      {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "begin with PostAcq"},
		"POST_REL":        {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "begin with PostRel"},
		"test":            {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "be exactly Test"},
		"Test.sh":         {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "be exactly Test"},
		"Test10":          {func(p string) error { return os.WriteFile(p, nil, 0o755) }, "be exactly Test"},
		"PreAcq\xff\xfe1": {func(p string) error { return os.WriteFile(p, nil, 0o644) }, "not executable"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			if err := tc.make(f.path(name)); err != nil {
				t.Fatal(err)
			}
			folder, err := Scan(f.dir, testVIP())
			if err != nil {
				t.Fatal(err)
			}
			if len(folder.Scripts) != 0 || len(folder.Warnings) != 1 || !strings.Contains(folder.Warnings[0], tc.want) || !strings.Contains(folder.Warnings[0], name) {
				t.Errorf("scripts %v, warnings %q; want one warning that says %q", names(folder.Scripts), folder.Warnings, tc.want)
			}
		})
	}
}

func TestScanFindsFolderInAnyForm(t *testing.T) {
	vip := netip.MustParseAddr("2001:db8::a")
	for _, name := range []string{"2001:db8::a", "2001:DB8::A", "2001:0db8:0:0:0:0:0:000a"} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := Scan(dir, vip)
		if err != nil || f.Dir != filepath.Join(dir, name) {
			t.Errorf("Scan = %q, %v; want %s", f.Dir, err, name)
		}
	}
}

func TestScanRefusesTwoFoldersForOneAddress(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"2001:db8::a", "2001:DB8::A"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Scan(dir, netip.MustParseAddr("2001:db8::a"))
	if err == nil || !strings.Contains(err.Error(), "2001:db8::a") || !strings.Contains(err.Error(), "2001:DB8::A") {
		t.Errorf("error = %v, want one that names both", err)
	}
}

func TestScanWarnsOfFileInPlaceOfFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "192.0.2.10"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := Scan(dir, testVIP())
	if err != nil || len(f.Warnings) != 1 {
		t.Errorf("Scan = %v, %v; want one warning", f, err)
	}
}

func TestDigestTellsFoldersApart(t *testing.T) {
	digest := func(scripts map[string]string) Digests {
		t.Helper()
		f := newFixture(t)
		for name, body := range scripts {
			f.script(name, body)
		}
		folder, err := Scan(f.dir, testVIP())
		if err != nil {
			t.Fatal(err)
		}
		d, err := folder.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a := digest(map[string]string{"PreAcq1": "true", "PostAcq1": "true"})
	if b := digest(map[string]string{"PreAcq1": "true", "PostAcq1": "true"}); a.Folder != b.Folder {
		t.Error("the same scripts have different digests")
	}
	for _, other := range []map[string]string{
		{"PreAcq1": "true", "PostAcq1": "false"},
		{"PreAcq2": "true", "PostAcq1": "true"},
		{"PreAcq1": "true"},
	} {
		if b := digest(other); a.Folder == b.Folder {
			t.Errorf("%v has the same digest", other)
		}
	}
	if a.Scripts["PreAcq1"] != a.Scripts["PostAcq1"] || len(a.Scripts["PreAcq1"]) != 64 {
		t.Errorf("digests of equal scripts: %v", a.Scripts)
	}
}
