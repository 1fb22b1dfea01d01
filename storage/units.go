package storage

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// unit is a systemd.mount(5) or systemd.automount(5).
type unit struct {
	file  string // where it is written
	name  string // srv-web.mount
	where string
	what  string
	line  int // of Where= or What=
}

// mountedByUnit refuses a volume that a unit of systemd mounts because another
// one wants it, or as soon as somebody looks at its folder.
func (h host) mountedByUnit(v Volume, d *device) error {
	units, wanted, err := h.readUnits()
	if err != nil {
		return v.errorf("look what systemd mounts: %w", err)
	}
	for _, u := range units {
		link, ok := wanted[u.name]
		if !ok || u.where != v.Path && (u.what == "" || !h.names(u.what, v, d)) {
			continue
		}
		return v.errorf("%w: systemd does by %s:%d, which %s asks for; run systemctl disable --now %s, or where that doesn't help, systemctl mask %[5]s",
			ErrMountedByOthers, u.file, u.line, link, u.name)
	}
	return nil
}

// readUnits reads all mount and automount units. Of those with one name only
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
			case ".mount", ".automount":
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
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) { // a link that leads nowhere
		return u, nil
	}
	if err != nil {
		return u, err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		key, value, ok := strings.Cut(strings.TrimSpace(scan.Text()), "=")
		if !ok || !slices.Contains([]string{"Where", "What"}, strings.TrimSpace(key)) {
			continue
		}
		value = strings.ReplaceAll(strings.Trim(strings.TrimSpace(value), `"'`), "%%", "%")
		if strings.TrimSpace(key) == "Where" {
			u.where, u.line = filepath.Clean(value), n
		} else {
			u.what = value
		}
	}
	if err := scan.Err(); err != nil {
		return u, fmt.Errorf("read %s: %w", path, err)
	}
	return u, nil
}
