package vmtest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const moduleDir = "/modules"

// initialise does what init does.
func initialise() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// load loads a module and what it needs.
func load(t *testing.T, name, parameters string) {
	t.Helper()
	path := filepath.Join(moduleDir, name+".ko")
	needs, err := dependencies(path)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	for _, n := range needs {
		load(t, n, "")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("load %s: %v", name, err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatalf("load %s: %v", name, err)
	}
}

// dependencies reads what a module needs from the module itself: the table that
// depmod makes isn't in the package.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info := f.Section(".modinfo")
	if info == nil {
		return nil, fmt.Errorf("%s is no kernel module", path)
	}
	text, err := info.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(text, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// collect finds the modules and all that they need in the kernel's package, and
// adds them to the files of an initramfs.
func collect(tree string, names []string, files map[string]string) error {
	byName := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			byName[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	for todo := slices.Clone(names); len(todo) > 0; todo = todo[1:] {
		path := byName[strings.ReplaceAll(todo[0], "-", "_")]
		if path == "" {
			return fmt.Errorf("the kernel's package has no module %s", todo[0])
		}
		needs, err := dependencies(path)
		if err != nil {
			return err
		}
		files[filepath.Join(moduleDir, todo[0]+".ko")] = path
		todo = append(todo, needs...)
	}
	return nil
}

// collectProgram finds a program of this host and the libraries that it needs.
func collectProgram(name string, files map[string]string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	files["/usr/sbin/"+name] = path
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ask for the libraries of %s: %w", path, err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if filepath.IsAbs(word) {
			files[word] = word
		}
	}
	return nil
}

// writeImage writes an initramfs: a cpio archive in the "newc" format (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst).
func writeImage(w io.Writer, files map[string]string) error {
	var a archive
	a.w = w
	dirs := []string{"dev", "proc", "sys", "tmp", "var"}
	for name := range files {
		for dir := filepath.Dir(name); dir != "/"; dir = filepath.Dir(dir) {
			dirs = append(dirs, dir[1:])
		}
	}
	slices.Sort(dirs) // a folder comes before what is in it
	for _, dir := range slices.Compact(dirs) {
		a.add(dir, unix.S_IFDIR|0o755, 0, nil)
	}
	a.add("dev/console", unix.S_IFCHR|0o600, 5<<8|1, nil) // init's standard streams
	for name, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.add(strings.TrimPrefix(name, "/"), unix.S_IFREG|0o755, 0, text)
	}
	a.add("TRAILER!!!", 0, 0, nil)
	return a.err
}

type archive struct {
	w     io.Writer
	inode int
	err   error
}

// add adds one file. dev is its device number, major<<8|minor.
func (a *archive) add(name string, mode, dev int, text []byte) {
	a.inode++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(text), 0, 0, dev>>8, dev&0xff, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), text} {
		if a.err == nil {
			_, a.err = a.w.Write(append(part, make([]byte, -len(part)&3)...))
		}
	}
}
