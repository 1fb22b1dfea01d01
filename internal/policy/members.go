package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// CheckMembers refuses what p, as ParsePolicy returned it, says about nodes
// that aren't members or never own, addresses that are a member's own, and a
// fence that leaves out a node which may own. It doesn't change p and may be
// called at any time: a policy outlives changes of membership.
func (p *Policy) CheckMembers(members []Member) Diagnostics {
	s := &source{name: p.filename, text: p.text}
	for _, t := range p.raw.prefer {
		s.checkOwner(t, members)
	}
	for i, v := range p.raw.vips {
		for _, a := range v.byNode {
			s.checkOwner(a.key, members)
		}
		s.checkNotNode(v.address, p.VIPs[i].Address, members)
	}
	s.checkFenced(p.raw.fence, p.Fence, members)
	return s.result()
}

// checkOwner refuses the name of a node that can't own.
func (s *source) checkOwner(t text, members []Member) {
	var owners []string
	for _, m := range members {
		switch {
		case m.Name == t.value && m.Witness:
			s.errorf(t.at, "leave it out: a witness votes, but never owns", "%s is a witness", quote(t.value))
			return
		case m.Name == t.value:
			return
		case !m.Witness:
			owners = append(owners, m.Name)
		}
	}
	s.errorf(t.at, suggest(t.value, owners), "%s is not a node of the cluster", quote(t.value))
}

// checkNotNode refuses a virtual address that a node has for itself: taking
// it away from its owner would cut that node off.
func (s *source) checkNotNode(t text, addr netip.Addr, members []Member) {
	i := slices.IndexFunc(members, func(m Member) bool {
		host, err := netip.ParseAddrPort(m.Address)
		return err == nil && host.Addr().Unmap() == addr
	})
	if i >= 0 {
		s.errorf(t.at, "a virtual address is one more, which belongs to no host: take a free one", "%s is the address of node %s", addr, quote(members[i].Name))
	}
}

// CheckTaken refuses what another cluster on a node's host has in its policy, too:
// each would give it an owner. taken is by "vip.NAME" or "volume.NAME".
func (p *Policy) CheckTaken(node string, taken map[string]string) Diagnostics {
	s := &source{name: p.filename, text: p.text}
	refuse := func(block, name string, at hcl.Range) {
		if why := taken[block+"."+name]; why != "" {
			s.errorf(at, "take it out of that cluster's policy first, or give this one another", "on %s, %s", node, why)
		}
	}
	for i, v := range p.VIPs {
		refuse("vip", v.Name, p.raw.vips[i].address.at)
	}
	for i, v := range p.Volumes {
		refuse("volume", v.Name, p.raw.volumes[i].name.at)
	}
	return s.result()
}

// CheckRead warns of a node whose had, an older one, doesn't read this policy. why is
// what that says of it, as Diagnostics.Err does.
func (p *Policy) CheckRead(node, why string) Diagnostics {
	s := &source{name: p.filename, text: p.text}
	first, _, _ := strings.Cut(why, "\n")
	s.warnf(s.start(), "upgrade had on "+node+" first: hactl upgrade shows which one each node runs",
		"the had on %s doesn't read this policy, so %[1]s could own nothing: it says %s", node, first)
	return s.result()
}

// CheckInterfaces refuses the addresses that a node has no interface for.
// problem returns a sentence for the VIP of that name, or "". It doesn't
// change p.
func (p *Policy) CheckInterfaces(node string, problem func(vip string) string) Diagnostics {
	s := &source{name: p.filename, text: p.text}
	for i, v := range p.VIPs {
		why := problem(v.Name)
		if why == "" {
			continue
		}
		raw := p.raw.vips[i]
		at := raw.address.at
		if raw.one.ok {
			at = raw.one.at
		}
		for _, a := range raw.byNode {
			if a.key.value == node {
				at = a.value.at
			}
		}
		s.errorf(at, "name an interface that "+node+" has; one that differs by node is written interface = { "+node+" = \"eth0\" }",
			"%s can't carry %s: %s", node, v.Address, why)
	}
	return s.result()
}
