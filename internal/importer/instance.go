package importer

import (
	"net/netip"
	"strings"
)

func (v *view) instance(n *node) {
	name, ok := v.named(n, func(name string) *node {
		for _, i := range v.instances {
			if i.name == name {
				return i.at
			}
		}
		return nil
	})
	if !ok {
		return
	}
	i := &instance{name: name, at: n, priority: 100}
	v.instances = append(v.instances, i)
	v.carry(n, "policy.hcl")
	known := map[string]keyword{
		"state": {func(n *node) { v.state(n, i) }, false},
		"interface": {func(n *node) {
			v.carry(n, "interface in policy.hcl")
			i.iface = v.interfaceName(n, v.text(n))
		}, false},
		"priority": {func(n *node) {
			v.carry(n, "prefer in policy.hcl")
			i.priority, i.prioAt = v.number(n, 1, 255), n
		}, false},
		"advert_int": {func(n *node) {
			v.carry(n, "detect in had.hcl")
			i.advert, i.advertAt = v.seconds(n, 255), n
		}, false},
		"unicast_src_ip": {func(n *node) {
			v.carry(n, "a node's address in had.hcl")
			i.source = v.ip(n, v.text(n))
		}, false},
		"unicast_peer": {func(n *node) {
			if !v.wantBlock(n) {
				return
			}
			v.carry(n, "nodes in had.hcl")
			for _, k := range n.kids {
				v.carry(k, "a node's address in had.hcl")
				i.peers = append(i.peers, v.ip(k, k.name()))
				v.lostWords(k, 1, wire)
			}
		}, true},
		"virtual_ipaddress":          {func(n *node) { v.addresses(n, i) }, true},
		"virtual_ipaddress_excluded": {func(n *node) { v.addresses(n, i) }, true},
		"nopreempt":                  {func(n *node) { v.carry(n, "no failback, which is the default"); i.nopreempt = n }, false},
		"preempt":                    {func(n *node) { v.carry(n, "failback in policy.hcl") }, false},
		"preempt_delay": {func(n *node) {
			v.carry(n, "failback in policy.hcl")
			i.delay, i.delayAt = v.seconds(n, 1000), n
		}, false},
		"authentication": {v.authentication, true},
		"smtp_alert": {func(n *node) {
			v.mailed(n)
			i.alert = v.truth(n)
		}, false},
	}
	v.notifyKeywords(known, "instance", &i.notifies)
	v.trackKeywords(known, &i.tracks)
	v.block(n.kids, known, instanceLosses())
}

func (v *view) state(n *node, i *instance) {
	switch s := v.text(n); s {
	case "MASTER", "BACKUP":
		i.state = s
		v.carry(n, "prefer in policy.hcl")
	case "":
	default:
		v.bad.add(n.at, "state %s: it must be MASTER or BACKUP", quote(s))
	}
}

// interfaceName refuses what Linux doesn't take for one (dev_valid_name in
// net/core/dev.c).
func (v *view) interfaceName(n *node, name string) string {
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == 0x7f }
	if name != "" && (len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, bad)) {
		v.bad.add(n.at, "%s can't be an interface's name", quote(name))
	}
	return name
}

// authentication is listed without the password.
func (v *view) authentication(n *node) {
	why := "the nodes prove who they are by TLS: see docs/install.md"
	v.list(n, "authentication", why, n.at, n.brace, n.end)
	for _, k := range n.kids {
		what := k.name()
		if what == "auth_type" {
			what = k.text()
		}
		v.list(k, what, why, k.places()...)
	}
}

// lostWords lists the words from the i-th on.
func (v *view) lostWords(n *node, i int, why string) {
	if i >= len(n.words) {
		return
	}
	var words []string
	for ; i < len(n.words); i++ {
		w, _ := n.arg(i)
		words = append(words, w)
	}
	v.note(n, strings.Join(words, " "), why)
}

func (v *view) addresses(n *node, i *instance) {
	if !v.wantBlock(n) {
		return
	}
	v.carry(n, "policy.hcl")
	for _, k := range n.kids {
		v.address(k, i)
	}
}

// address reads one line of virtual_ipaddress.
func (v *view) address(n *node, i *instance) {
	text := n.name()
	bare, length, hasLength := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(bare)
	if err == nil && hasLength {
		_, err = netip.ParsePrefix(text)
	}
	if err != nil {
		v.bad.add(n.at, "%s is not an IP address, with or without a prefix length", quote(text))
		n.fate = true
		return
	}
	if why := notVirtual(addr); why != "" {
		v.lose(n, why)
		return
	}
	v.carry(n, "vip in policy.hcl")
	a := address{addr: addr.Unmap(), at: n}
	if hasLength {
		v.note(n, "/"+length, "had takes the prefix length from the interface's own address")
	}
	for w := 1; w < len(n.words); w++ {
		v.addressWord(n, &w, &a)
	}
	i.addresses = append(i.addresses, a)
}

// addressWord reads an option at the w-th word, with its value if it has one.
func (v *view) addressWord(n *node, w *int, a *address) {
	option, _ := n.arg(*w)
	value := func() string {
		*w++
		s, ok := n.arg(*w)
		if !ok {
			v.bad.add(n.at, "%s has no value after it", option)
		}
		return s
	}
	lost := func(what, why string) { v.note(n, what, why) }
	switch option {
	case "dev":
		a.iface = v.interfaceName(n, value())
	case "scope":
		if s := value(); s != "global" && s != "0" {
			lost("scope "+s, "had's addresses have the scope global")
		}
	case "brd", "broadcast":
		lost(option+" "+value(), "Linux derives the broadcast address by itself")
	case "label":
		lost("label "+value(), "labels are for ifconfig; hactl status and ip address show the address")
	case "peer":
		lost("peer "+value(), "had carries no point-to-point addresses: see whether the plain address does")
	case "preferred_lft":
		lost("preferred_lft "+value(), "had sets the lifetimes of its addresses: they end with the lease")
	case "home", "-nodad", "mngtmpaddr", "noprefixroute", "autojoin":
		lost(option, "had sets the flags of its addresses itself")
	case "no_track":
		lost(option, "had puts an address back that somebody removed")
	case "use_vmac":
		lost(option, vmac)
		if *w+1 < len(n.words) && strings.Count(n.words[*w+1].text, ":") >= 4 {
			lost(value(), vmac)
		}
	case "track_group":
		lost("track_group "+value(), "it is for static addresses only")
	default:
		n.words[*w].used = false
	}
}

// notVirtual says why an address can't be carried over, or "".
func notVirtual(addr netip.Addr) string {
	addr = addr.Unmap()
	switch {
	case addr.Zone() != "":
		return "an address with a zone means another host on every link"
	case addr.IsLinkLocalUnicast():
		return "link-local addresses mean another host on every link: give the clients a global one"
	case addr.IsLoopback(), addr.IsMulticast(), addr.IsUnspecified(), addr.Is4() && (addr.As4()[0] == 0 || addr.As4()[0] >= 240):
		return "no host can be reached by it"
	}
	return ""
}
