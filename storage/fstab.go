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

// fstabLine is one of the fstab(5) that concerns a volume.
type fstabLine struct {
	file    string
	number  int
	spec    string
	path    string
	fstype  string
	options []string
	rest    []string // dump, pass
}

// readFstab reads a file in the form of fstab(5). None is an empty one.
func readFstab(file string) ([]fstabLine, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look what is mounted at the boot: %w", err)
	}
	defer f.Close()
	var lines []fstabLine
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		fields := strings.Fields(scan.Text())
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		l := fstabLine{file: file, number: n, spec: unescapeOctal(fields[0]), path: filepath.Clean(unescapeOctal(fields[1])), fstype: fields[2]}
		if len(fields) > 3 {
			l.options, l.rest = strings.Split(fields[3], ","), fields[4:]
		}
		lines = append(lines, l)
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("look what is mounted at the boot: %w", err)
	}
	return lines, nil
}

// unescapeOctal turns \040 into a blank, as getmntent(3) does.
func unescapeOctal(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// automatic returns the options by which something other than a person mounts
// the line, and whether it has none that prevents it.
func (l fstabLine) automatic() (by []string, yes bool) {
	for _, o := range l.options {
		name, _, _ := strings.Cut(o, "=")
		if slices.Contains([]string{"auto", "x-systemd.automount", "comment", "x-systemd.wanted-by", "x-systemd.required-by", "x-systemd.wantedby", "x-systemd.requiredby"}, name) &&
			(name != "comment" || o == "comment=systemd.automount") {
			by = append(by, o)
		}
	}
	return by, len(by) > 0 || !slices.Contains(l.options, "noauto")
}

// corrected is the line as it should be.
func (l fstabLine) corrected() string {
	by, _ := l.automatic()
	options := slices.DeleteFunc(slices.Clone(l.options), func(o string) bool {
		return o == "defaults" || o == "noauto" || slices.Contains(by, o)
	})
	options = append([]string{"noauto"}, options...)
	escape := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`)
	return strings.Join(append([]string{escape.Replace(l.spec), escape.Replace(l.path), l.fstype, strings.Join(options, ",")}, l.rest...), " ")
}

// mountedBySystem refuses a volume that the boot, or systemd on somebody's
// behalf, would mount. d is nil for a network file system.
func (h host) mountedBySystem(v Volume, d *device) error {
	lines, err := readFstab(h.fstab)
	if err != nil {
		return v.errorf("%w", err)
	}
	hasLine := false
	for _, l := range lines {
		hasLine = hasLine || l.path == v.Path && l.fstype != "swap"
		if _, auto := l.automatic(); auto && l.fstype != "swap" && (l.path == v.Path || h.names(l.spec, v, d)) {
			return v.errorf("%w: %s:%d mounts it at the boot, also while another node has it; change that line to %q, then run systemctl daemon-reload", ErrMountedByOthers, l.file, l.number, l.corrected())
		}
	}
	return h.mountedByUnit(v, d, hasLine)
}

// names reports whether what an fstab or a unit calls a device is the volume's.
func (h host) names(spec string, v Volume, d *device) bool {
	if spec == v.Device || v.Network() && sameSource(spec, v.Device) {
		return true
	}
	if d == nil {
		return false
	}
	if name, value, ok := splitTag(spec); ok {
		return d.has(name, strings.Trim(value, `"'`))
	}
	dev, err := stat(Volume{Device: spec})
	return err == nil && strings.HasPrefix(spec, "/dev/") && dev == d.dev
}
