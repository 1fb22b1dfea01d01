package storage

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// unit is what matters here of a unit of systemd.
type unit struct {
	file  string // where it is written
	name  string // srv-web.mount
	where string
	what  string
	line  int // of Where=
	needs []need
}

// need is a folder that must be there before the unit is started: systemd
// mounts what it has a unit for, noauto or not (systemd.unit(5),
// RequiresMountsFor=; systemd.exec(5), WorkingDirectory=, RootDirectory=).
type need struct {
	path string
	line int
}

// mountedByUnit refuses a volume that a unit of systemd mounts because another
// one wants it, or as soon as somebody looks at its folder. hasLine says that
// the fstab has a line for its place, and so systemd a unit.
func (h host) mountedByUnit(v Volume, d *device, hasLine bool) error {
	units, wanted, err := h.readUnits()
	if err != nil {
		return v.errorf("look what systemd mounts: %w", err)
	}
	for _, u := range units {
		if u.where != v.Path && (u.what == "" || !h.names(u.what, v, d)) {
			continue
		}
		hasLine = hasLine || u.where == v.Path
		if link, ok := wanted[u.name]; ok {
			return v.errorf("%w: systemd does by %s:%d, which %s asks for; run systemctl disable --now %s, or where that doesn't help, systemctl mask %[5]s",
				ErrMountedByOthers, u.file, u.line, link, u.name)
		}
	}
	for _, u := range units {
		link, starts := wanted[u.name]
		for _, n := range u.needs {
			if hasLine && starts && within(n.path, v.Path) {
				return v.errorf("%w: systemd does before it starts %s, because of %s:%d (%s), and %s starts that at the boot; run systemctl disable %[3]s and let a hook start it",
					ErrMountedByOthers, u.name, u.file, n.line, n.path, link)
			}
		}
	}
	return nil
}

// readUnits reads all units that mount, or that may need a mount. Of those with one name only
// the first counts (systemd.unit(5)). wanted are the links by which other units
// pull them in. What the generator made of the fstab follows the fstab, after
// the daemon-reload that the error about it demands.
func (h host) readUnits() (units []unit, wanted map[string]string, err error) {
	wanted = map[string]string{}
	seen := map[string]bool{}
	for _, dir := range h.units {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch filepath.Ext(e.Name()) {
			case ".wants", ".requires", ".upholds":
				links, _ := os.ReadDir(path)
				for _, l := range links {
					wanted[l.Name()] = filepath.Join(path, l.Name())
				}
			case ".mount", ".automount", ".service", ".socket", ".path", ".target":
				if seen[e.Name()] {
					continue
				}
				seen[e.Name()] = true
				u, err := readUnit(path)
				if err != nil {
					return nil, nil, err
				}
				units = append(units, u)
			}
		}
	}
	return units, wanted, nil
}

// readUnit reads one. A masked one is a link to /dev/null, and so empty.
func readUnit(path string) (unit, error) {
	u := unit{file: path, name: filepath.Base(path)}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) { // a link that leads nowhere
		return u, nil
	}
	if err != nil {
		return u, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return u, err
	}
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		key, value, _ := strings.Cut(strings.TrimSpace(scan.Text()), "=")
		value = strings.ReplaceAll(strings.Trim(strings.TrimSpace(value), `"'`), "%%", "%")
		switch strings.TrimSpace(key) {
		case "Where":
			u.where, u.line = filepath.Clean(value), n
		case "What":
			u.what = value
		case "RequiresMountsFor", "WantsMountsFor", "WorkingDirectory", "RootDirectory":
			for path := range strings.FieldsSeq(value) {
				u.needs = append(u.needs, need{path: filepath.Clean(strings.TrimPrefix(path, "-")), line: n})
			}
		}
	}
	if err := scan.Err(); err != nil {
		return u, fmt.Errorf("read %s: %w", path, err)
	}
	return u, nil
}
