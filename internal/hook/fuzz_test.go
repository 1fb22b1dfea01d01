package hook

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// FuzzFolder scans hooks directories of any names: that of the address's
// folder, and of two files in it. A file is a script, is warned about or is
// nobody's business; a script's name says its stage; and the order is that of
// the names' bytes.
func FuzzFolder(f *testing.F) {
	for _, name := range []string{"PreAcq10", "PostAcq9", "PreRel", "PostRel-x", "Test", "Test2", "test.sh", "pre-acq", "PreAcq10~", ".PreAcq", "PreAcq\xff", "PreAcq\n10", "PostRel.dpkg-old", "README", "PREACQ"} {
		f.Add("192.0.2.10", name, "PreAcq10", uint16(0o755))
	}
	for _, folder := range []string{"::ffff:192.0.2.10", "192.0.2.010", "2001:db8::10", "2001:DB8:0::10", "fe80::1%eth0", "192.0.2.10 ", "eth0"} {
		f.Add(folder, "PreAcq10", "Test", uint16(0o644))
	}
	f.Fuzz(func(t *testing.T, folder, first, second string, mode uint16) {
		dir, vip := t.TempDir(), netip.MustParseAddr("192.0.2.10")
		path := filepath.Join(dir, folder)
		if !fileName(folder) || tolerated(t, os.Mkdir(path, 0o755)) {
			return
		}
		var made []string
		for _, name := range []string{first, second} {
			if !fileName(name) || slices.Contains(made, name) || tolerated(t, os.WriteFile(filepath.Join(path, name), nil, os.FileMode(mode)&0o777)) {
				continue
			}
			made = append(made, name)
		}
		slices.Sort(made)
		got, err := Scan(dir, vip)
		if err != nil {
			t.Fatal(err)
		}
		if addr, err := netip.ParseAddr(folder); err != nil || addr.Unmap() != vip {
			if got.Dir != "" || len(got.Scripts) > 0 {
				t.Fatalf("the folder %q was taken for that of %s: %v", folder, vip, got)
			}
			return
		}
		if got.Dir != path {
			t.Fatalf("the folder %q was not found: %v", folder, got)
		}
		var scripts []string
		for _, s := range got.Scripts {
			scripts = append(scripts, s.Name)
			if !strings.HasPrefix(s.Name, string(s.Stage)) || s.Stage == Test && s.Name != string(Test) {
				t.Errorf("%q was taken for a script of %s", s.Name, s.Stage)
			}
			if ignored(s.Name) || mode&0o111 == 0 {
				t.Errorf("%q would be run", s.Name)
			}
		}
		if !slices.IsSorted(scripts) || !slices.Equal(scripts, slices.DeleteFunc(made, func(name string) bool { return !slices.Contains(scripts, name) })) {
			t.Errorf("scripts %q of the files %q", scripts, made)
		}
		if len(scripts)+len(got.Warnings) > 2 {
			t.Errorf("%q and the warnings %q about two files", scripts, got.Warnings)
		}
		if _, err := got.Digest(); err != nil && mode&0o400 != 0 {
			t.Error(err)
		}
	})
}

// fileName reports whether name names an entry of a directory.
func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// tolerated reports whether the file system refused a name, as it may.
func tolerated(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, syscall.ENAMETOOLONG) && !errors.Is(err, syscall.EILSEQ) && !errors.Is(err, syscall.EINVAL) {
		t.Fatal(err)
	}
	return err != nil
}
