package policy

import (
	"path/filepath"
	"slices"
	"strings"

	"had/internal/redact"
)

// hostsOwn are folders of the host itself: a file system mounted over one of
// them hides what the host needs to go on. Below them it depends; see inside.
func hostsOwn() []string {
	return []string{
		"/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp",
		"/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/local", "/usr/local/bin", "/usr/local/sbin", "/usr/sbin",
		"/var", "/var/lib", "/var/log", "/var/run", "/var/tmp",
	}
}

// kernelsOwn are folders the kernel makes up, or that a boot empties.
func kernelsOwn() []string { return []string{"/dev", "/proc", "/run", "/sys", "/var/run"} }

// hadsOwn are had's folders wherever it is installed. CheckNode knows those
// of one node.
func hadsOwn() []string { return []string{"/etc/had", defaultDataDir, runDir} }

// mountPoint returns where a volume is mounted, and "" when it can't be there.
func (s *source) mountPoint(t text) string {
	before := s.errors
	path := s.path(t, "path", "")
	if s.errors > before {
		return ""
	}
	const hint = `take a folder of its own, such as "/srv/web"`
	covers := func(own string) bool { return within(own, path) }
	switch {
	case slices.Contains(hostsOwn(), path):
		s.errorf(t.at, hint, "the host itself needs %s", quote(path))
	case slices.ContainsFunc(kernelsOwn(), func(own string) bool { return within(path, own) }):
		s.errorf(t.at, hint, "%s doesn't outlive a boot", quote(path))
	case slices.ContainsFunc(hadsOwn(), func(own string) bool { return covers(own) || within(path, own) }):
		s.errorf(t.at, hint, "had keeps its own files at %s", quote(path))
	default:
		return path
	}
	return ""
}

// within reports whether path is dir or lies below it. Both are in their
// shortest form.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// checkReachable refuses what had needs while no volume is mounted, and would
// only find on one.
func (s *source) checkReachable(raw rawPolicy, volumes []Volume) {
	check := func(t text, path, what string) {
		for _, v := range volumes {
			if t.ok && v.Path != "" && within(path, v.Path) {
				s.errorf(t.at, "keep it on every node's own disk", "%s lies on volume %s, and is needed while that isn't mounted", what, quote(v.Name))
			}
		}
	}
	check(raw.hooks.dir, filepath.Clean(raw.hooks.dir.value), "the hooks folder")
	for _, a := range raw.fence.agents {
		check(a.program, filepath.Clean(a.program.value), "the fence agent")
		for _, o := range a.options {
			if redact.IsFile(o.key.value) {
				check(o.value, filepath.Clean(o.value.value), o.key.value)
			}
		}
	}
	for _, c := range raw.fence.commands {
		for _, args := range [][]text{c.command, c.verify} {
			if len(args) > 0 {
				check(args[0], filepath.Clean(args[0].value), "the command")
			}
		}
	}
}

// CheckNode refuses the volumes that would hide what node f keeps for itself.
// It doesn't change p.
func (p *Policy) CheckNode(f *NodeFile) Diagnostics {
	s := &source{name: p.filename, text: p.text}
	own := []string{f.DataDir, f.Socket, f.TokenKey, f.TLS.CA, f.TLS.Cert, f.TLS.Key}
	for i, v := range p.Volumes {
		for _, path := range own {
			if path != "" && within(path, v.Path) {
				s.errorf(p.raw.volumes[i].path.at, "take another folder, or move the file", "node %s keeps %s there, which the volume would hide", f.Node, quote(path))
				break
			}
		}
	}
	return s.result()
}
