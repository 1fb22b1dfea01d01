// Package policy turns the two files people write, had.hcl (the node's own
// facts) and policy.hcl (what the cluster owns), into checked values.
//
// A file is read in four stages, and each only runs when the one before it
// found no errors: text to a syntax tree (source.go), unknown names
// (shape.go), values as they are written with their places (the raw types),
// checked values (NodeFile, Policy). Whatever this version can't honour is
// refused: nobody should believe in a protection that isn't there.
//
// Values are literals. Expressions are never evaluated, so no file can make
// had compute. The one exception looks up and doesn't compute: in the command of
// a sync, ${vip.NAME.address} stands for the address of that vip (reference.go).
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxInterface is the longest name of an interface, in bytes: IFNAMSIZ less
// its NUL (netdevice(7)).
const maxInterface = 15

// Policy is what policy.hcl says: what the cluster owns. All of it moves
// together, to one owner.
type Policy struct {
	Prefer []string // nodes, most wanted first; others follow
	VIPs   []VIP    // in file order, which is the order of every stage
	Hooks  Hooks

	Volumes  []Volume  // in file order, in which they are mounted; unmounted in reverse
	Fence    Fence     // with methods if there are volumes
	Channels []Channel `json:",omitempty"` // on which notifications go out, in file order; at most 16
	Syncs    []Sync    // in file order

	ReleaseGrace time.Duration // how much longer than the lease a cut-off owner may take to release; 0 for none
	Tokens       []Token       `json:",omitempty"` // in file order

	Checks   []Check  `json:",omitzero"` // in file order
	Failback Failback `json:",omitzero"`
	Limits   Limits   `json:",omitzero"` // zero: none are written, see [Limits.OrDefault]

	// What the checks that come later need to show a place.
	filename, text string
	raw            rawPolicy
}

// VIP is a virtual IP address.
type VIP struct {
	Name            string
	Address         netip.Addr        // global unicast, without zone, never IPv4-mapped
	Interface       string            // on every node; "" with no InterfaceByNode: derived
	InterfaceByNode map[string]string // nil unless it differs by node
}

// InterfaceOn returns the interface that carries the address on node, and ""
// when it is the one whose subnet contains the address.
func (v VIP) InterfaceOn(node string) string {
	if name, ok := v.InterfaceByNode[node]; ok {
		return name
	}
	return v.Interface
}

func policyShape() shape {
	const inNode = "it belongs in the node file (/etc/had/had.hcl), not in the policy"
	return shape{
		attrs: map[string]string{"prefer": `["alpha", "beta"]`, "release_grace": quote(shortest(exampleGrace))},
		others: map[string]string{
			"cluster": inNode, "node": inNode, "data_dir": inNode, "socket": inNode, "tls": inNode,
			"watchdog": inNode, "telemetry": inNode,
		},
		blocks: map[string]shape{
			"reconnect_token": tokenShape(),
			"volume":          volumeShape(),
			"fence":           fenceShape(),
			"notify":          notifyShape(),
			"sync":            syncShape(),
			"check":           checkShape(),
			"failback":        failbackShape(),
			"limits":          limitsShape(),
			"vip": {
				what:   `vip "web"`,
				labels: 1,
				attrs:  map[string]string{"address": `"192.0.2.10"`, "interface": `"eth0"`},
				later:  []string{"open"},
			},
			"hooks": {
				what:  "hooks",
				attrs: map[string]string{"dir": quote(defaultHooksDir), "timeout": quote(shortest(defaultHooksTimeout))},
				once:  "write all of it there",
				blocks: map[string]shape{
					"stage": {
						what:   `stage "PostAcq"`,
						labels: 1,
						attrs:  map[string]string{"on_failure": `"continue"`},
					},
				},
			},
		},
	}
}

// ParsePolicy reads the text of policy.hcl. It knows nothing of the cluster:
// see [Policy.CheckMembers]. The result is nil if and only if the diagnostics
// have errors.
func ParsePolicy(filename string, src []byte) (*Policy, Diagnostics) {
	s := newSource(filename, src)
	p := s.policy()
	if s.failed() {
		p = nil
	}
	return p, s.result()
}

func (s *source) policy() *Policy {
	body := s.parse(`the smallest policy is one line: vip "web" { address = "192.0.2.10" }; to own nothing on purpose, write a comment that says so`)
	if body == nil {
		return nil
	}
	s.hideNotifySecrets(body)
	if s.conform(body, policyShape(), "the policy"); s.failed() {
		return nil
	}
	raw := s.rawPolicy(body)
	volumes := s.validVolumes(raw.volumes)
	p := &Policy{
		Prefer:       s.validPrefer(raw.prefer),
		VIPs:         s.validVIPs(raw.vips),
		Hooks:        s.validHooks(raw.hooks),
		Volumes:      volumes,
		Fence:        s.validFence(raw.fence, raw.volumes),
		Channels:     s.validChannels(raw.channels),
		ReleaseGrace: raw.grace,
		Tokens:       s.validTokens(raw.tokens, volumes),
		Checks:       s.validChecks(raw.checks, volumes),
		Failback:     s.validFailback(raw.failback, raw.preferred()),
		Limits:       raw.limits,
		filename:     s.name,
		text:         s.text,
		raw:          raw,
	}
	p.Syncs = s.validSyncs(raw.syncs, p.VIPs)
	s.checkReachable(raw, p.Volumes)
	s.adviseNotify(p)
	switch {
	case len(p.VIPs) == 0 && len(p.Volumes) > 0:
		s.warnf(s.start(), `add one: vip "web" { address = "192.0.2.10" }`, "the policy has no vip: its volumes move, but no hook runs and no client can follow")
	case len(p.VIPs) == 0:
		s.warnf(s.start(), `add one: vip "web" { address = "192.0.2.10" }`, "the policy has no vip: the cluster will own nothing")
	}
	return p
}

// rawPolicy is policy.hcl as it is written.
type rawPolicy struct {
	prefer   []text
	vips     []rawVIP
	hooks    rawHooks
	volumes  []rawVolume
	fence    rawFence
	grace    time.Duration
	tokens   []rawToken
	channels []rawChannel
	syncs    []rawSync

	checks   []rawCheck
	failback rawFailback
	limits   Limits
}

// preferred are the names that prefer holds.
func (r rawPolicy) preferred() (names []string) {
	for _, t := range r.prefer {
		names = append(names, t.value)
	}
	return names
}

type rawVIP struct {
	name, address text
	one           text            // interface = "eth0"
	byNode        []rawAssignment // interface = { alpha = "eth0" }
}

func (s *source) rawPolicy(body *hclsyntax.Body) rawPolicy {
	raw := rawPolicy{
		prefer: s.list(body, "prefer", `["alpha", "beta"]`),
		hooks:  rawHooks{timeout: defaultHooksTimeout},
		grace:  s.grace(body),
	}
	for _, b := range body.Blocks {
		switch b.Type {
		case "vip":
			v := rawVIP{name: label(b), address: s.required(b, "address", `"192.0.2.10"`)}
			if a := b.Body.Attributes["interface"]; a != nil {
				v.one, v.byNode = s.rawInterface(a)
			}
			raw.vips = append(raw.vips, v)
		case "hooks":
			raw.hooks = s.rawHooks(b.Body)
		case "volume":
			raw.volumes = append(raw.volumes, s.rawVolume(b))
		case "fence":
			raw.fence = s.rawFence(b)
		case "reconnect_token":
			raw.tokens = append(raw.tokens, s.rawToken(b))
		case "notify":
			raw.channels = append(raw.channels, rawNotify(b))
		case "sync":
			raw.syncs = append(raw.syncs, s.rawSync(b))
		case "check":
			raw.checks = append(raw.checks, s.rawCheck(b))
		case "failback":
			raw.failback = s.rawFailback(b)
		case "limits":
			raw.limits = s.limits(b)
		}
	}
	return raw
}

// rawInterface reads a name, or a map from nodes to names.
func (s *source) rawInterface(a *hclsyntax.Attribute) (one text, byNode []rawAssignment) {
	const example = `interface = "eth0" or interface = { alpha = "eth0", beta = "eth1" }`
	object, ok := a.Expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		return s.literal(a.Expr, a.Name, example), nil
	}
	byNode = s.assignments(object, "each node of interface", "each interface", example)
	if len(object.Items) == 0 {
		s.errorf(a.Expr.Range(), "leave the line out to derive it from the address", "interface is an empty map")
	}
	return text{}, byNode
}

func (s *source) validPrefer(raw []text) []string {
	var names []string
	for _, t := range raw {
		if !validHostName(t.value) {
			s.errorf(t.at, nodeNameHint, "%s can't be a node's name", quote(t.value))
		}
		if slices.Contains(names, t.value) {
			s.errorf(t.at, "name each node once, most wanted first", "prefer names %s twice", quote(t.value))
		}
		names = append(names, t.value)
	}
	return names
}

func (s *source) validVIPs(raw []rawVIP) []VIP {
	var vips []VIP
	names, addresses := map[string]text{}, map[netip.Addr]text{}
	for _, r := range raw {
		v := VIP{Name: r.name.value}
		if !validIdentifier(v.Name) {
			s.errorf(r.name.at, identHint, "%s can't be a vip's name", quote(v.Name))
		}
		if first, twice := names[v.Name]; twice {
			s.errorf(r.name.at, fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line), "two vips are called %s", quote(v.Name))
		} else {
			names[v.Name] = r.name
		}
		if r.address.ok {
			addr, ok := s.virtualAddress(r.address)
			if first, twice := addresses[addr]; ok && twice {
				s.errorf(r.address.at, fmt.Sprintf("the first is on line %d; leave one of them out", first.at.Start.Line), "two vips have the address %s", addr)
			} else if ok {
				addresses[addr] = r.address
			}
			v.Address = addr
		}
		if r.one.ok {
			s.checkInterface(r.one)
			v.Interface = r.one.value
		}
		v.InterfaceByNode = s.validInterfaceMap(r.byNode)
		vips = append(vips, v)
	}
	return vips
}

func (s *source) validInterfaceMap(raw []rawAssignment) map[string]string {
	if raw == nil {
		return nil
	}
	byNode := map[string]string{}
	for _, r := range raw {
		if !validHostName(r.key.value) {
			s.errorf(r.key.at, nodeNameHint, "%s can't be a node's name", quote(r.key.value))
		}
		if _, twice := byNode[r.key.value]; twice {
			s.errorf(r.key.at, "name each node once", "interface names node %s twice", quote(r.key.value))
		}
		s.checkInterface(r.value)
		byNode[r.key.value] = r.value.value
	}
	return byNode
}

// checkInterface refuses what Linux doesn't take as an interface's name
// (dev_valid_name in net/core/dev.c), and what no one could type.
func (s *source) checkInterface(t text) {
	name := t.value
	bad := func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r == 0x7f }
	switch {
	case name == "":
		s.errorf(t.at, "leave the line out to derive it from the address", "the interface has no name")
	case len(name) > maxInterface:
		s.errorf(t.at, "ip link shows the names", "the interface name %s is longer than the %d bytes Linux allows", quote(name), maxInterface)
	case name == "." || name == ".." || strings.ContainsFunc(name, bad):
		s.errorf(t.at, "ip link shows the names", "%s can't be an interface's name", quote(name))
	}
}
