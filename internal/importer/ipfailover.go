package importer

import (
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// IPFailover makes a cluster of a Mac OS X Server's /Library/IPFailover folder
// and the FAILOVER_ lines of the hostconfig of one or both servers. root is
// where they are read from. The scripts are copied as they are; what in them
// only a Mac knows is listed. The error has every reason to refuse the input.
func IPFailover(root fs.FS, folder Source, hostconfigs []Source, opts Options) (*Result, error) {
	opts = opts.withDefaults()
	l, bad := newLedger(), &problems{}
	source := "ipfailover from " + printable(folder.Name)
	var h hostconfig
	for _, src := range hostconfigs {
		text, err := readFile(root, src.Path)
		if err != nil {
			bad.add(place{src.Name, 0}, "%v", err)
			continue
		}
		h.read(src.Name, text, l, bad)
		source += " and " + printable(src.Name)
	}
	m := macTree{root: root, ledger: l, bad: bad, plan: &plan{source: source, opts: opts}, names: map[string]bool{}}
	for _, p := range h.pairs {
		m.vip(p.addr, p.at)
	}
	m.read(folder, len(hostconfigs) > 0)
	for _, only := range opts.Only {
		if a, err := netip.ParseAddr(only); err != nil || m.from[a] == (place{}) {
			bad.add(place{"--only " + only, 0}, "there is no such address")
		}
	}
	if len(m.plan.vips) == 0 && len(bad.list) == 0 {
		bad.add(place{folder.Name, 0}, "no folder in it is named after an IP address, and no FAILOVER_PEER_IP_PAIRS was read: there is nothing that could move")
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	m.nodes(&h)
	if h.mail != nil {
		m.plan.mail = &planMail{to: h.mail, from: "had@" + mailDomain(h.mail[0]), server: "localhost:25", origin: h.mailAt.String()}
	}
	return m.plan.result(l), nil
}

// nodes are the primary, which the secondary's hostconfig names, and the
// secondary, which nothing names.
func (m *macTree) nodes(h *hostconfig) {
	p := m.plan
	p.fromOptions(false)
	if len(p.nodes) == 0 {
		p.nodes = []planNode{{name: "primary", address: h.peer}, {name: "secondary"}}
	}
	p.fromOptions(true)
	p.addNodes()
	owners := p.owners()
	first := max(0, slices.IndexFunc(owners, func(n planNode) bool { return h.peer.IsValid() && n.address == h.peer }))
	p.prefer = []string{owners[first].name}
	for i, n := range owners {
		if i != first {
			p.prefer = append(p.prefer, n.name)
		}
	}
	for i := 0; i < len(p.vips); i++ {
		for _, n := range p.nodes {
			if n.address == p.vips[i].address {
				m.ledger.note(n.address.String(), "it is the address of node "+n.name+": a virtual address is one more, which belongs to no host", m.from[n.address])
				p.vips = slices.Delete(p.vips, i, i+1)
				i--
				break
			}
		}
	}
}

// macTree reads an IPFailover folder.
type macTree struct {
	root   fs.FS
	ledger *ledger
	bad    *problems
	plan   *plan
	names  map[string]bool
	from   map[netip.Addr]place
}

// vip adds an address, and reports whether it is to be carried over.
func (m *macTree) vip(addr netip.Addr, at place) bool {
	if only := m.plan.opts.Only; len(only) > 0 && !slices.Contains(only, addr.String()) {
		m.ledger.note(addr.String(), leftOut, at)
		return false
	}
	if slices.ContainsFunc(m.plan.vips, func(v planVIP) bool { return v.address == addr }) {
		return true
	}
	if m.from == nil {
		m.from = map[netip.Addr]place{}
	}
	m.from[addr] = at
	name := strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
	m.plan.vips = append(m.plan.vips, planVIP{name: unique("ip-"+name, m.names), address: addr, from: strings.TrimSuffix(at.String(), ":0")})
	return true
}

func (m *macTree) read(folder Source, configured bool) {
	entries, err := fs.ReadDir(m.root, folder.Path)
	if err != nil {
		m.bad.add(place{folder.Name, 0}, "%v", reason(err))
		return
	}
	seen := map[netip.Addr]string{}
	for _, e := range entries {
		name := path.Join(folder.Name, e.Name())
		at := place{name, 0}
		info, err := fs.Stat(m.root, path.Join(folder.Path, e.Name()))
		addr, notIP := netip.ParseAddr(e.Name())
		switch {
		case err != nil:
			m.bad.add(at, "%v", reason(err))
			continue
		case !info.IsDir():
			m.ledger.note("this file", "it lies in no folder of an address, and was never run", at)
			continue
		case notIP != nil:
			m.ledger.note("this folder", "its name is not an IP address, and it was never used", at)
			continue
		}
		addr = addr.Unmap()
		if why := notVirtual(addr); why != "" {
			m.ledger.note("this folder", why, at)
			continue
		}
		if first, twice := seen[addr]; twice {
			m.bad.add(at, "%s is a folder of the same address: make one of them", first)
			continue
		}
		seen[addr] = name
		named := m.from[addr] != place{}
		if m.vip(addr, at) {
			if configured && !named {
				m.ledger.note("this folder", "no FAILOVER_PEER_IP_PAIRS that was read names its address: it is carried over all the same", at)
			}
			m.folder(path.Join(folder.Path, e.Name()), name, addr)
		}
	}
}

// folder copies the scripts of an address.
func (m *macTree) folder(dir, name string, addr netip.Addr) {
	entries, err := fs.ReadDir(m.root, dir)
	if err != nil {
		m.bad.add(place{name, 0}, "%v", reason(err))
		return
	}
	m.ledger.carry(place{name, 0}, "hooks/"+addr.String())
	for _, e := range entries {
		at := place{path.Join(name, e.Name()), 0}
		info, err := fs.Stat(m.root, path.Join(dir, e.Name()))
		stage := stageOf(e.Name())
		switch {
		case err != nil:
			m.ledger.note("this file", "it can't be read: "+reason(err).Error(), at)
		case ignored(e.Name()):
			m.ledger.note("this file", "had ignores hidden files and those that editors leave", at)
		case !info.Mode().IsRegular():
			m.ledger.note("this entry", "only plain files are run", at)
		default:
			data, err := fs.ReadFile(m.root, path.Join(dir, e.Name()))
			if err != nil {
				m.bad.add(at, "%v", reason(err))
				continue
			}
			m.script(addr, e.Name(), stage, info.Mode()&0o111 != 0, data, at)
		}
	}
}

// script copies one file.
func (m *macTree) script(addr netip.Addr, name, stage string, executable bool, data []byte, at place) {
	file := File{Path: addr.String() + "/" + name, Mode: 0o644, Data: data}
	if executable {
		file.Mode = 0o755
	}
	switch {
	case stage == "":
		m.ledger.note("this file", "it is copied, but not run: names of scripts are Test, or begin with PreAcq, PostAcq, PreRel or PostRel", at)
	case !executable:
		m.ledger.note("this file", "it is copied, but not run: it is not executable", at)
	case isMachO(data):
		if stage != "Test" {
			m.ledger.note("this program", "it is a Mac's, which Linux can't run: write a script in its place", at)
			return
		}
		// Without it this node would take over where it was told not to.
		m.ledger.note("this program", "it is a Mac's, which Linux can't run: in its place stands a Test that never lets a node take over", at)
		file.Data = []byte("#!/bin/sh\n# In place of a Mac's program, which Linux can't run.\necho 'Test: write a script in place of the program of the Mac'\nexit 1\n")
	default:
		m.examine(data, at)
	}
	m.plan.scripts = append(m.plan.scripts, file)
	m.ledger.carry(at, "hooks/"+file.Path)
}

// stageOf and ignored are had's own rules (docs/hooks.md), which are
// IPFailover's; "" for none.
func stageOf(name string) string {
	if name == "Test" {
		return name
	}
	for _, s := range []string{"PreAcq", "PostAcq", "PreRel", "PostRel"} {
		if strings.HasPrefix(name, s) {
			return s
		}
	}
	return ""
}

func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".bak") ||
		strings.HasSuffix(name, ".rpmsave") || strings.Contains(name, ".dpkg-")
}
