package hook

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Folder is what Scan found for one address.
type Folder struct {
	Dir      string   // empty when there is none
	Scripts  []Script // all stages, in byte order of their names
	Warnings []string // sentences about files that look like scripts and won't run
}

// Script is a file that will be run.
type Script struct {
	Stage Stage
	Name  string // file name, any bytes
	Path  string
}

// Scan reads the folder of vip below dir, the hooks directory. A folder that
// doesn't exist holds no scripts. Its name is the address in any form that
// netip.ParseAddr reads; two folders for one address are an error, because
// which of them is meant can't be known.
func Scan(dir string, vip netip.Addr) (Folder, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Folder{}, nil
	}
	if err != nil {
		return Folder{}, fmt.Errorf("read the hooks directory: %w", err)
	}
	var f Folder
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil || addr.Unmap() != vip.Unmap() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // a link to a folder is a folder
		if err != nil || !info.IsDir() {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s is not a folder, so %s has no hooks: replace it by a folder", path, vip))
			continue
		}
		if f.Dir != "" {
			return Folder{}, fmt.Errorf("find the hooks of %s: both %s and %s are named after it; remove one", vip, f.Dir, path)
		}
		f.Dir = path
	}
	if f.Dir == "" {
		return f, nil
	}
	return f, f.read()
}

// read fills in the scripts and warnings. os.ReadDir sorts by the bytes of the
// names.
func (f *Folder) read() error {
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		return fmt.Errorf("read the hook folder: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if ignored(name) {
			continue
		}
		path := filepath.Join(f.Dir, name)
		stage, ok := stageOf(name)
		if !ok {
			if meant, near := nearMiss(name); near {
				f.warn(path, "is not run: its name would have to %s", meant)
			}
			continue
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.warn(path, "is not run: it is a link to something that isn't there")
		case err != nil:
			f.warn(path, "is not run: %v", err)
		case info.IsDir():
			f.warn(path, "is not run: it is a directory")
		case !info.Mode().IsRegular():
			f.warn(path, "is not run: it is not a regular file")
		case info.Mode()&0o111 == 0:
			f.warn(path, "is not run: it is not executable (chmod +x to run it)")
		default:
			f.Scripts = append(f.Scripts, Script{Stage: stage, Name: name, Path: path})
		}
	}
	return nil
}

func (f *Folder) warn(path, format string, args ...any) {
	f.Warnings = append(f.Warnings, path+" "+fmt.Sprintf(format, args...))
}

// Of returns the scripts of one stage in the order in which they run.
func (f Folder) Of(stage Stage) []Script {
	var scripts []Script
	for _, s := range f.Scripts {
		if s.Stage == stage {
			scripts = append(scripts, s)
		}
	}
	return scripts
}

// Digests tells whether two nodes would run the same scripts.
type Digests struct {
	Folder  string            // SHA-256 over names and contents of all scripts, hex
	Scripts map[string]string // by file name: SHA-256 of the content, hex
}

// Digest reads every script of the folder. Nodes with the same Digests.Folder
// run the same scripts in the same order.
func (f Folder) Digest() (Digests, error) {
	d := Digests{Scripts: make(map[string]string, len(f.Scripts))}
	all := sha256.New()
	for _, s := range f.Scripts {
		h, err := digestFile(s.Path)
		if err != nil {
			return Digests{}, err
		}
		d.Scripts[s.Name] = h
		// A file name holds no NUL, so no two folders give the same bytes.
		fmt.Fprintf(all, "%s\x00%s\n", s.Name, h)
	}
	d.Folder = hex.EncodeToString(all.Sum(nil))
	return d, nil
}

func digestFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read a hook script: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", fmt.Errorf("read a hook script: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ignored reports names that editors and package managers leave behind.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") ||
		strings.HasSuffix(name, "~") ||
		strings.HasSuffix(name, ".bak") ||
		strings.HasSuffix(name, ".rpmsave") ||
		strings.Contains(name, ".dpkg-")
}

// prefixes are the stages of which there may be several scripts.
func prefixes() []Stage { return []Stage{PreAcq, PostAcq, PreRel, PostRel} }

func stageOf(name string) (Stage, bool) {
	if name == string(Test) {
		return Test, true
	}
	for _, s := range prefixes() {
		if strings.HasPrefix(name, string(s)) {
			return s, true
		}
	}
	return "", false
}

// nearMiss finds names that someone probably meant for a script: another case,
// a dash or underscore within the prefix, or anything added to Test. It
// returns what the name would have to do.
func nearMiss(name string) (meant string, near bool) {
	plain := strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(name))
	for _, s := range prefixes() {
		if strings.HasPrefix(plain, strings.ToLower(string(s))) {
			return "begin with " + string(s), true
		}
	}
	if plain == "test" || strings.HasPrefix(plain, "test.") || strings.HasPrefix(name, string(Test)) {
		return "be exactly " + string(Test), true
	}
	return "", false
}
