package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// plan is the cluster to be, whatever it was made from.
type plan struct {
	source   string // for the first line of each file: "keepalived from keepalived.conf"
	opts     Options
	detect   time.Duration // 0: had's default
	nodes    []planNode
	prefer   []string
	vips     []planVIP
	scripts  []File // below the hooks folder
	checks   []planCheck
	mail     *planMail
	failback *planFailback
	todo     []string
}

type planNode struct {
	name    string
	address netip.Addr // not valid: nothing says it
	witness bool
	named   bool // by its own configuration or the operator; otherwise made up
}

type planVIP struct {
	name    string
	address netip.Addr
	iface   string // on every node; "": derived by had
	byNode  []pair // where it differs
	from    string
}

type pair struct{ key, value string }

type planCheck struct {
	kind, name string
	attrs      []pair // values as HCL has them
	from       string
}

type planMail struct {
	to           []string
	from, server string
	origin       string
}

// planFailback is moving back to the preferred node; without it nothing does.
type planFailback struct {
	delay time.Duration
	from  string
}

// addNodes adds the nodes that a cluster needs and nobody has named. VRRP and
// IPFailover do with two; had needs a third to tell a dead node from a cut
// cable.
func (p *plan) addNodes() {
	for len(p.owners()) < 2 {
		p.nodes = append(p.nodes, planNode{name: p.freeName("node-")})
	}
	if len(p.nodes) == 2 {
		p.nodes = append(p.nodes, planNode{name: p.freeName("witness"), witness: true})
		p.todo = append(p.todo, "A third machine has to vote, because two nodes can't tell a dead one from a cut cable. Any small one will do: it is "+p.nodes[2].name+" in had.hcl (--witness NAME=ADDRESS).")
	}
}

// addAddresses fills in the addresses that nothing says, and lists what the
// operator has to replace.
func (p *plan) addAddresses() {
	for i, n := range p.nodes {
		switch {
		case !n.address.IsValid():
			p.nodes[i].address = p.freeAddress()
			p.todo = append(p.todo, fmt.Sprintf("Nothing says where %s is: replace %s in had.hcl, which is for documentation only (RFC 5737), by the address at which the other nodes reach it%s.", n.name, p.nodes[i].address, or(!n.named && !n.witness, ", and the name "+n.name+" by its host's everywhere (--node NAME=ADDRESS)")))
		case !n.named:
			p.todo = append(p.todo, fmt.Sprintf("Nothing says what the host at %s is called: replace the name %s by its host's everywhere (--node NAME=%s).", n.address, n.name, n.address))
		}
	}
}

func or(condition bool, text string) string {
	if condition {
		return text
	}
	return ""
}

// owners are the nodes that may own.
func (p *plan) owners() []planNode {
	return slices.DeleteFunc(slices.Clone(p.nodes), func(n planNode) bool { return n.witness })
}

// freeName returns stem, with a number where it ends in "-", as no node is
// called yet.
func (p *plan) freeName(stem string) string {
	for i := 1; ; i++ {
		name := stem
		if strings.HasSuffix(stem, "-") {
			name += fmt.Sprint(len(p.nodes) + i)
		} else if i > 1 {
			name += fmt.Sprint("-", i)
		}
		if !slices.ContainsFunc(p.nodes, func(n planNode) bool { return strings.EqualFold(n.name, name) }) {
			return name
		}
	}
}

// freeAddress returns an address of TEST-NET-3, which stands for nothing.
func (p *plan) freeAddress() netip.Addr {
	a := netip.AddrFrom4([4]byte{203, 0, 113, 1})
	for slices.ContainsFunc(p.nodes, func(n planNode) bool { return n.address == a }) ||
		slices.ContainsFunc(p.vips, func(v planVIP) bool { return v.address == a }) {
		a = a.Next()
	}
	return a
}

// fromOptions takes the nodes that the operator has named: those that may own,
// and after all others have been found the witnesses.
func (p *plan) fromOptions(witness bool) {
	for _, n := range p.opts.Nodes {
		if n.Witness == witness {
			p.nodes = append(p.nodes, planNode{name: n.Name, address: n.Address, witness: n.Witness, named: true})
		}
	}
}
