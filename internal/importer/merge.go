package importer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// merge makes one cluster of what each node's keepalived was told.
func merge(views []*view, p *plan, l *ledger, bad *problems) {
	p.nodesOf(views, bad)
	p.fromOptions(true)
	p.addNodes()
	m := merger{views: views, plan: p, ledger: l, names: map[string]bool{}, byAddr: map[netip.Addr]*planVIP{}}
	m.instances = m.allInstances()
	m.vips()
	m.order()
	m.detect()
	m.failback()
	m.checks()
	m.hooks()
	m.mail()
}

// nodesOf finds the nodes: those whose configuration there is, then the peers
// that these name. Each view is given its node's name.
func (p *plan) nodesOf(views []*view, bad *problems) {
	p.fromOptions(false)
	fixed := len(p.nodes) > 0
	for _, v := range views {
		source := v.source()
		i := slices.IndexFunc(p.nodes, func(n planNode) bool {
			return v.name != "" && strings.EqualFold(n.name, v.name) || source.IsValid() && n.address == source
		})
		switch {
		case i >= 0:
			v.name = p.nodes[i].name
			if !p.nodes[i].address.IsValid() {
				p.nodes[i].address = source
			}
		case fixed:
			bad.add(place{v.from.Name, 0}, "none of the nodes given by --node has %s: say whose file it is by NAME=%s, or give the node", v.known(), v.from.Name)
		default:
			n := planNode{name: v.name, address: source, named: v.name != ""}
			if !n.named {
				n.name = p.freeName("node-")
				v.name = n.name
			}
			p.nodes = append(p.nodes, n)
		}
	}
	if fixed {
		return
	}
	for _, v := range views {
		for _, inst := range v.instances {
			for _, peer := range inst.peers {
				if !inst.left && peer.IsValid() && !slices.ContainsFunc(p.nodes, func(n planNode) bool { return n.address == peer }) {
					// It may be the node of a view that doesn't say its own address.
					p.nodes = append(p.nodes, planNode{name: p.freeName("node-"), address: peer})
				}
			}
		}
	}
}

// known says what the configuration says of its node.
func (v *view) known() string {
	switch source := v.source(); {
	case v.name != "" && source.IsValid():
		return fmt.Sprintf("its name %s or its address %s", v.name, source)
	case v.name != "":
		return "its name, " + v.name
	case source.IsValid():
		return "its address, " + source.String()
	}
	return "a name or an address that it says"
}

// source is the address by which the node talks to its peers.
func (v *view) source() netip.Addr {
	for _, i := range v.instances {
		if !i.left && i.source.IsValid() {
			return i.source
		}
	}
	return netip.Addr{}
}

// member is an instance with the views that have it, in the order of views.
type member struct {
	name  string
	views []*view
	each  []*instance // of each view
}

type merger struct {
	*plan
	ledger    *ledger
	views     []*view
	instances []*member
	names     map[string]bool // of vips
	byAddr    map[netip.Addr]*planVIP
}

func (m *merger) allInstances() (all []*member) {
	for _, v := range m.views {
		for _, i := range v.instances {
			if i.left {
				continue
			}
			at := slices.IndexFunc(all, func(o *member) bool { return o.name == i.name })
			if at < 0 {
				at = len(all)
				all = append(all, &member{name: i.name})
			}
			all[at].views = append(all[at].views, v)
			all[at].each = append(all[at].each, i)
		}
	}
	return all
}

// vips merges the addresses. All of a policy moves together, which is said of
// instances that moved by themselves.
func (m *merger) vips() {
	for _, inst := range m.instances {
		for k, i := range inst.each {
			for _, a := range i.addresses {
				m.vip(inst, k, a)
			}
			if !m.together(inst.views[k], i) {
				m.ledger.note(fmt.Sprintf("%s %s", i.at.name(), i.name), "no vrrp_sync_group joins it with the others: it moved by itself, and now all of the policy moves together. To keep it apart, import it as a cluster of its own: --only "+i.name+" with another --cluster and --port", i.at.at)
			}
		}
	}
	for i, vip := range m.plan.vips {
		seen := map[string]bool{}
		for _, b := range vip.byNode {
			seen[b.value] = true
		}
		// What is the same on every node whose configuration is known needs
		// no map.
		if len(seen) == 1 {
			m.plan.vips[i].iface, m.plan.vips[i].byNode = vip.byNode[0].value, nil
		}
	}
}

// together reports whether i moved with the first of all instances.
func (m *merger) together(v *view, i *instance) bool {
	first := m.instances[0].name
	return i.name == first || slices.ContainsFunc(v.groups, func(g *group) bool {
		return slices.Contains(g.members, i.name) && slices.Contains(g.members, first)
	})
}

func (m *merger) vip(inst *member, k int, a address) {
	v := inst.views[k]
	if n := slices.IndexFunc(m.nodes, func(n planNode) bool { return n.address == a.addr }); n >= 0 {
		m.ledger.note(a.addr.String(), fmt.Sprintf("it is the address of node %s: a virtual address is one more, which belongs to no host", m.nodes[n].name), a.at.at)
		return
	}
	i := slices.IndexFunc(m.plan.vips, func(p planVIP) bool { return p.address == a.addr })
	if i < 0 {
		i = len(m.plan.vips)
		m.plan.vips = append(m.plan.vips, planVIP{name: unique(identifier(inst.name), m.names), address: a.addr, from: a.at.at.String()})
	}
	iface := cmp.Or(a.iface, inst.each[k].iface)
	p := &m.plan.vips[i]
	if iface == "" {
		return
	}
	for _, b := range p.byNode {
		if b.key == v.name {
			if b.value != iface {
				m.ledger.note(a.addr.String()+" on "+iface, "it is on "+b.value+" already", a.at.at)
			}
			return
		}
	}
	p.byNode = append(p.byNode, pair{v.name, iface})
}

// order makes prefer of the first instance's priorities.
func (m *merger) order() {
	if len(m.instances) == 0 {
		return
	}
	first := m.instances[0]
	m.prefer = m.preferred(first)
	for _, inst := range m.instances[1:] {
		if order := m.preferred(inst); len(order) > 0 && !slices.Equal(order, m.prefer) {
			for _, i := range inst.each {
				m.ledger.note("priority of "+inst.name, fmt.Sprintf("its order of nodes (%s) is not that of %s: a policy has one", strings.Join(order, ", "), first.name), i.prio())
			}
		}
	}
	for _, inst := range m.instances {
		for _, i := range inst.each {
			if i.priority == 255 && i.prioAt != nil {
				m.ledger.note("priority 255", "the address belonged to this host: take it out of the interface's own configuration first", i.prioAt.at)
			}
		}
	}
}

// prio is where the priority is, or the instance.
func (i *instance) prio() place {
	if i.prioAt != nil {
		return i.prioAt.at
	}
	return i.at.at
}

// preferred orders the nodes by their priorities. Of nodes whose priority
// isn't known only a MASTER can be compared with: it comes before them, and a
// BACKUP after them.
func (m *merger) preferred(inst *member) []string {
	type rank struct {
		name string
		prio int
	}
	var ranks []rank
	for _, n := range m.owners() {
		k := slices.IndexFunc(inst.views, func(v *view) bool { return v.name == n.name })
		if k >= 0 {
			ranks = append(ranks, rank{n.name, inst.each[k].priority})
		}
	}
	slices.SortStableFunc(ranks, func(a, b rank) int { return cmp.Compare(b.prio, a.prio) })
	var known, others []string
	for _, r := range ranks {
		known = append(known, r.name)
	}
	for _, n := range m.owners() {
		if !slices.Contains(known, n.name) {
			others = append(others, n.name)
		}
	}
	switch {
	case len(known) == 0 || len(others) == 0 || len(known) > 1:
		return append(known, others...)
	case inst.each[0].state == "MASTER" || inst.each[0].priority == 255:
		return append(known, others...)
	case inst.each[0].state == "BACKUP" && len(others) == 1:
		return append(others, known...)
	}
	m.ledger.note("priority", "the others' aren't known: give the files of all nodes, or write prefer in policy.hcl", inst.each[0].prio())
	return nil
}

// detect follows advert_int where that is faster than had's default: a master
// was missed after three of them.
func (m *merger) detect() {
	for _, inst := range m.instances {
		for _, i := range inst.each {
			if i.advertAt == nil || i.advert <= 0 {
				continue
			}
			d := min(max(3*i.advert, 200*time.Millisecond), 500*time.Millisecond)
			if m.plan.detect == 0 || d < m.plan.detect {
				m.plan.detect = d
			}
			if 3*i.advert > d {
				m.ledger.note(i.advertAt.text(), fmt.Sprintf("a master was missed after three of them; had notices in %s (detect in had.hcl)", shortest(d)), i.advertAt.at)
			}
		}
	}
}

// fastBack is the delay of failback where keepalived had none: long enough not
// to follow a node that comes and goes.
const fastBack = time.Minute

// leastDelay is the shortest delay that had takes; a shorter one counts as none.
const leastDelay = time.Second

func (m *merger) failback() {
	var f *planFailback
	manual := false
	fast := map[place]bool{} // instances that moved back at once
	for _, inst := range m.instances {
		for _, i := range inst.each {
			switch {
			case i.nopreempt != nil:
				manual = true
			case i.delayAt != nil && i.delay >= leastDelay:
				if f == nil || f.delay < i.delay {
					f = &planFailback{delay: i.delay, from: i.delayAt.at.String()}
				}
			default:
				fast[i.at.at] = true
				if f == nil {
					f = &planFailback{delay: fastBack, from: i.at.at.String()}
				}
			}
		}
	}
	if f != nil && !manual && len(m.prefer) == 0 {
		m.ledger.note("preemption", "nothing says which node is preferred: failback stays manual", m.instances[0].each[0].at.at)
		return
	}
	if !manual { // which is had's default
		m.plan.failback = f
	}
	for _, inst := range m.instances {
		for _, i := range inst.each {
			switch {
			case manual && i.nopreempt == nil:
				m.ledger.note("preemption", "another instance or node has nopreempt: a policy has one failback", i.at.at)
			case manual && i.delayAt != nil:
				m.ledger.note(i.delayAt.text(), "nopreempt comes before it", i.delayAt.at)
			case manual:
			case fast[i.at.at]:
				m.ledger.note("preemption at once", "had waits before it moves back, so as not to follow a node that comes and goes: failback in policy.hcl", i.at.at)
			case i.delay != f.delay:
				m.ledger.note(i.delayAt.text(), "a policy has one failback, with the longest delay", i.delayAt.at)
			}
		}
	}
}

// checks merges what is tracked.
func (m *merger) checks() {
	taken := map[string]bool{}
	for _, v := range m.views {
		for _, s := range v.scripts {
			if len(s.tracked) == 0 || s.reverse {
				continue
			}
			m.check(v, s, taken)
			m.onAll(s.tracked[0], func(o *view) bool {
				return slices.ContainsFunc(o.scripts, func(t *trackScript) bool { return t.name == s.name && len(t.tracked) > 0 })
			})
		}
	}
	for _, v := range m.views {
		for _, i := range v.instances {
			if !i.left {
				m.links(v, i.tracks, taken)
			}
		}
		for _, g := range v.groups {
			if v.wants(g) {
				m.links(v, g.tracks, taken)
			}
		}
	}
}

func (m *merger) check(v *view, s *trackScript, taken map[string]bool) {
	argv := s.argv
	if !absolute(argv) {
		argv = append([]string{"/usr/bin/env"}, argv...) // finds it in PATH
	}
	argv = asUser(cmp.Or(s.user, v.user), argv)
	within := func(what string, d, low, high time.Duration) string {
		if short := min(max(d, low), high); short != d {
			m.ledger.note(what+" "+shortest(d), fmt.Sprintf("had takes %s to %s: it becomes %s", shortest(low), shortest(high), shortest(short)), s.at.at)
			d = short
		}
		return hclString(shortest(d))
	}
	times := func(what string, n int) string {
		const most = 100
		if n > most {
			m.ledger.note(fmt.Sprintf("%s %d", what, n), fmt.Sprintf("had takes at most %d: it becomes %d", most, most), s.at.at)
		}
		return fmt.Sprint(min(n, most))
	}
	c := planCheck{kind: "exec", name: identifier(s.name), from: s.at.at.String(), attrs: []pair{
		{"command", hclList(argv)},
		{"on", hclString("all")},
		{"interval", within("interval", s.interval, 100*time.Millisecond, time.Hour)},
		{"timeout", within("timeout", cmp.Or(s.timeout, s.interval), 10*time.Millisecond, 10*time.Minute)},
		{"failures", times("fall", s.fall)},
		{"successes", times("rise", s.rise)},
	}}
	for _, other := range m.plan.checks {
		if other.kind != c.kind || other.name != c.name {
			continue
		}
		if !slices.Equal(other.attrs, c.attrs) {
			m.ledger.note("vrrp_script "+s.name, fmt.Sprintf("on %s it is not what it is at %s: a check is the same on every node; it can look at $HAD_NODE or the host's name", v.name, other.from), s.at.at)
		}
		return
	}
	c.name = unique(c.name, taken)
	m.plan.checks = append(m.plan.checks, c)
}

// onAll says of a check that not every node had.
func (m *merger) onAll(n *node, has func(*view) bool) {
	for _, v := range m.views {
		if !has(v) {
			m.ledger.note(n.name(), v.name+" didn't track it: a check is for all nodes", n.at)
		}
	}
}

// links makes checks of tracked interfaces, but for those that carry an
// address: had watches them anyway.
func (m *merger) links(v *view, t tracks, taken map[string]bool) {
	for _, n := range t.interfaces {
		if n.left {
			continue
		}
		name := n.name()
		own := slices.ContainsFunc(m.plan.vips, func(p planVIP) bool {
			return p.iface == name || slices.Contains(p.byNode, pair{v.name, name})
		})
		if own {
			continue
		}
		c := planCheck{kind: "link", name: identifier(name), from: n.at.String(), attrs: []pair{{"interface", hclString(name)}, {"on", hclString("all")}}}
		m.onAll(n, func(o *view) bool { return o.tracksLink(name) })
		if slices.ContainsFunc(m.plan.checks, func(o planCheck) bool { return o.kind == c.kind && slices.Equal(o.attrs, c.attrs) }) {
			continue
		}
		c.name = unique(c.name, taken)
		m.plan.checks = append(m.plan.checks, c)
	}
}

// mail merges whom to tell.
func (m *merger) mail() {
	for _, v := range m.views {
		if len(v.mail.to) == 0 {
			continue
		}
		alert := v.mail.alert || slices.ContainsFunc(v.instances, func(i *instance) bool { return i.alert && !i.left })
		if !alert {
			m.ledger.note("notification_email", "without smtp_alert keepalived told nobody of VRRP; take the notify block out of policy.hcl to leave it so", v.mail.at)
		}
		m.ledger.note("unencrypted mail", "keepalived mails in the clear; had wants STARTTLS of a server that isn't on its own host: for one that has none, write tls = \"none\" into the notify block", v.mail.at)
		if m.plan.mail == nil {
			m.plan.mail = &planMail{server: v.mail.server, from: v.mail.from, origin: v.mail.at.String()}
			if v.mail.from == "" {
				m.plan.mail.from = "had@" + mailDomain(v.mail.to[0])
				m.ledger.note("the sender", "keepalived's own, keepalived@ and the host's name, is not carried over: see from in policy.hcl", v.mail.at)
			}
		}
		if v.mail.server != m.plan.mail.server {
			m.ledger.note("smtp_server "+v.mail.server, "another node has "+m.plan.mail.server+": a policy has one for each notify block", v.mail.at)
		}
		for _, to := range v.mail.to {
			if !slices.Contains(m.plan.mail.to, to) {
				m.plan.mail.to = append(m.plan.mail.to, to)
			}
		}
	}
}

// mailDomain is what follows the @.
func mailDomain(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 && i+1 < len(address) {
		return address[i+1:]
	}
	return "localhost"
}

// tracksLink reports whether the node tracks an interface.
func (v *view) tracksLink(name string) bool {
	has := func(t tracks) bool {
		return slices.ContainsFunc(t.interfaces, func(n *node) bool { return n.name() == name && !n.left })
	}
	return slices.ContainsFunc(v.instances, func(i *instance) bool { return !i.left && has(i.tracks) }) ||
		slices.ContainsFunc(v.groups, func(g *group) bool { return v.wants(g) && has(g.tracks) })
}
