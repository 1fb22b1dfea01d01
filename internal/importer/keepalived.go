package importer

import (
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// maxNodes is how many nodes a cluster of had may have.
const maxNodes = 7

// Source is one file to be read.
type Source struct {
	Node string // whose it is; "" if its content says it, or it is for all nodes
	Name string // as the operator knows it
	Path string // in the file system it is read from
}

// Keepalived makes a cluster of keepalived's configuration: of one file that
// serves all nodes by its conditional lines (@), of one node's file, or of a
// file from each node. root is where files and what they include are read
// from. The error has every reason to refuse them, with file and line.
func Keepalived(root fs.FS, sources []Source, opts Options) (*Result, error) {
	opts = opts.withDefaults()
	l, bad := newLedger(), &problems{}
	var views []*view
	var names []string
	for _, src := range sources {
		names = append(names, src.Name)
		for _, id := range ids(root, src) {
			if id != src.Node && len(sources) > 1 {
				bad.add(place{src.Name, 0}, "its @ lines ask which node reads it: say so by NAME=%s", src.Name)
				break
			}
			views = append(views, readView(root, src, id, opts, l, bad))
		}
	}
	if len(views) > maxNodes {
		bad.add(place{sources[0].Name, 0}, "it is the configuration of %d nodes: a cluster has at most %d", len(views), maxNodes)
	}
	checkOnly(views, opts.Only, bad)
	if err := bad.err(); err != nil {
		return nil, err
	}
	p := &plan{source: "keepalived from " + printable(strings.Join(names, ", ")), opts: opts}
	merge(views, p, l, bad)
	if err := bad.err(); err != nil {
		return nil, err
	}
	return p.result(l), nil
}

// result closes the books.
func (p *plan) result(l *ledger) *Result {
	p.addAddresses()
	carried, notes := l.close()
	return &Result{Files: p.files(), Carried: carried, Notes: notes, ToDo: p.todo}
}

// ids returns the config-ids to read a source by: those that its lines name,
// or the one it is said to be of.
func ids(root fs.FS, src Source) []string {
	if src.Node != "" {
		return []string{src.Node}
	}
	found := map[string]bool{}
	for known := -1; known < len(found); { // a definition may hide a condition
		known = len(found)
		for _, id := range append(slices.Sorted(maps.Keys(found)), "") {
			r := newReader(root, id, newLedger(), &problems{}, func(string, place) {})
			r.ids = found
			r.read(file{name: src.Name, path: src.Path}, place{src.Name, 0})
		}
		if len(found) > maxNodes {
			break
		}
	}
	switch all := slices.Sorted(maps.Keys(found)); len(all) {
	case 0:
		return []string{""}
	case 1:
		return append(all, "") // there must be another, which no line names
	default:
		return all
	}
}

func newReader(root fs.FS, id string, l *ledger, bad *problems, emit func(string, place)) *reader {
	return &reader{
		root: root, node: id, ledger: l, bad: bad, emit: emit,
		params: map[string]*param{}, ids: map[string]bool{},
	}
}

// readView reads a source as the node with this config-id does.
func readView(root fs.FS, src Source, id string, opts Options, l *ledger, bad *problems) *view {
	v := &view{from: src, opts: opts, ledger: l, bad: bad}
	if ValidName(id) {
		v.name = id
	}
	b := newBuilder(l, bad)
	r := newReader(root, id, l, bad, b.add)
	r.read(file{name: src.Name, path: src.Path}, place{src.Name, 0})
	r.close()
	v.read(b.tree())
	return v
}

// checkOnly refuses names that nothing has.
func checkOnly(views []*view, only []string, bad *problems) {
	for _, name := range only {
		known := slices.ContainsFunc(views, func(v *view) bool {
			return slices.ContainsFunc(v.instances, func(i *instance) bool { return i.name == name }) ||
				slices.ContainsFunc(v.groups, func(g *group) bool { return g.name == name })
		})
		if !known {
			bad.add(place{"--only " + name, 0}, "there is no vrrp_instance and no vrrp_sync_group of that name")
		}
	}
	if len(only) == 0 && len(views) > 0 && !slices.ContainsFunc(views, func(v *view) bool { return len(v.instances) > 0 }) && len(bad.list) == 0 {
		bad.add(place{views[0].from.Name, 0}, "it has no vrrp_instance: there is nothing that could move")
	}
}
