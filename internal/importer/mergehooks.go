package importer

import (
	"fmt"
	"slices"
	"strings"
)

// hookUse is a hook script with the nodes that have it.
type hookUse struct {
	hookScript
	folder   string // the address
	nodes    []string
	priority []pair // by node, where the script is told
	all      int    // how many nodes could have it
}

// hooks merges the scripts. Those of an instance lie in the folder of its
// first address, those of a group in that of its first instance.
func (m *merger) hooks() {
	var uses []*hookUse
	add := func(v *view, folder string, all, priority int, scripts []hookScript) {
		for _, s := range scripts {
			i := slices.IndexFunc(uses, func(u *hookUse) bool {
				return u.folder == folder && u.name == s.name && u.run.user == s.run.user && slices.Equal(u.run.argv, s.run.argv)
			})
			if i < 0 {
				i = len(uses)
				uses = append(uses, &hookUse{hookScript: s, folder: folder, all: all})
			}
			uses[i].nodes = append(uses[i].nodes, v.name)
			uses[i].priority = append(uses[i].priority, pair{v.name, fmt.Sprint(priority)})
		}
	}
	for _, inst := range m.instances {
		for k, i := range inst.each {
			folder := m.folder(i)
			for _, n := range i.notifies {
				if folder == "" {
					m.ledger.note(n.event, "the instance has no address that is carried over, and so no hook folder", n.at.at)
				}
			}
			if folder != "" {
				add(inst.views[k], folder, len(inst.each), i.priority, hooks("INSTANCE", i.name, withUser(i.notifies, inst.views[k].user)))
			}
		}
	}
	for _, v := range m.views {
		for _, g := range v.groups {
			folder, priority := "", 0
			for _, i := range v.instances {
				if folder == "" && !i.left && slices.Contains(g.members, i.name) {
					folder, priority = m.folder(i), i.priority
				}
			}
			for _, n := range g.notifies {
				if folder == "" {
					m.ledger.note(n.event, "the group has no address that is carried over, and so no hook folder", n.at.at)
				}
			}
			if folder != "" {
				add(v, folder, len(m.views), priority, hooks("GROUP", g.name, withUser(g.notifies, v.user)))
			}
		}
	}
	taken := map[string]bool{}
	for _, u := range uses {
		path := unique(u.name, taken)
		m.scripts = append(m.scripts, File{Path: u.folder + "/" + path, Mode: 0o755, Data: []byte(u.body())})
	}
}

// withUser fills in whom scripts run as.
func withUser(list []notify, user string) []notify {
	list = slices.Clone(list)
	for i := range list {
		if list[i].user == "" {
			list[i].user = user
		}
		if list[i].user == "root" {
			list[i].user = ""
		}
	}
	return list
}

// folder is the hook folder of an instance: its first address in the policy.
func (m *merger) folder(i *instance) string {
	for _, a := range i.addresses {
		if slices.ContainsFunc(m.plan.vips, func(p planVIP) bool { return p.address == a.addr }) {
			return a.addr.String()
		}
	}
	return ""
}

// body is the script's text.
func (u *hookUse) body() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# %s\n", printable(u.what))
	if u.forced {
		b.WriteString("# keepalived's fault: the address went before anything could be stopped.\n[ \"$HAD_FORCED\" = 1 ] || exit 0\n")
	}
	if len(u.nodes) < u.all {
		fmt.Fprintf(&b, "case \"$HAD_NODE\" in\n%s) ;;\n*) exit 0 ;;\nesac\n", shellPattern(u.nodes))
	}
	command := shellCommand(asUser(u.run.user, append(slices.Clone(u.run.argv), u.args...)))
	if len(u.args) > 0 {
		command += " " + u.priorityWord(&b)
	}
	b.WriteString("exec " + command + "\n")
	return b.String()
}

// priorityWord returns the priority that the script is told as its last word.
// Where nodes differ it is looked up first.
func (u *hookUse) priorityWord(b *strings.Builder) string {
	first := u.priority[0].value
	if !slices.ContainsFunc(u.priority, func(p pair) bool { return p.value != first }) {
		return first
	}
	b.WriteString("priority=0\ncase \"$HAD_NODE\" in\n")
	for _, p := range u.priority {
		fmt.Fprintf(b, "%s) priority=%s ;;\n", shellPattern([]string{p.key}), p.value)
	}
	b.WriteString("esac\n")
	return `"$priority"`
}

// shellPattern matches names in a case of sh(1).
func shellPattern(names []string) string {
	var words []string
	for _, n := range names {
		words = append(words, shellWord(n))
	}
	return strings.Join(words, " | ")
}
