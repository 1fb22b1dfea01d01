package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	defaultDetect  = 500 * time.Millisecond
	defaultDataDir = "/var/lib/had"
	runDir         = "/run/had"
	// defaultTokenKey is beside the node file: like it, it is put there by a person.
	defaultTokenKey = "/etc/had/token.key"
	tlsDir          = "/etc/had/tls"

	// maxMembers bounds a cluster: each more makes every commit wait for a
	// larger majority and adds nothing a failover needs.
	maxMembers = 7
	// maxSocket is the longest path a Unix socket can have, in bytes: the 108
	// of sun_path less its NUL (unix(7)).
	maxSocket = 107
)

// NodeFile is what had.hcl says: who the nodes are, and where this one keeps
// its things. All paths are absolute.
type NodeFile struct {
	Cluster           string
	Detect            time.Duration // how fast a silent node is noticed; every other time follows from it
	TwoVotersAccepted bool          // the operator wants two nodes although both are needed
	Members           []Member      // in file order
	Node              string        // which of Members this host is
	DataDir           string
	Socket            string // Unix socket that hactl talks to
	TLS               TLS
	Watchdog          Watchdog
	Telemetry         Telemetry `json:",omitzero"`
	TokenKey          string    // file of the key that seals reconnect tokens; it need not be there
}

// Member is one node of the cluster.
type Member struct {
	Name    string
	Address string // host:port
	Witness bool   // votes, but never owns
}

// TLS says how nodes prove who they are. The paths are empty when it is off.
type TLS struct {
	CA, Cert, Key string // paths of PEM files
	Insecure      bool   // it was turned off in writing
}

// Enabled reports whether connections between nodes are protected.
func (t TLS) Enabled() bool { return t.CA != "" }

// ValidNodeName reports whether a node may be called so.
func ValidNodeName(name string) bool { return validHostName(name) }

// Self returns the member this host is.
func (f *NodeFile) Self() Member {
	i := slices.IndexFunc(f.Members, func(m Member) bool { return m.Name == f.Node })
	return f.Members[i]
}

func nodeShape() shape {
	const inPolicy = "it belongs in the policy (hactl policy apply), not in the node file"
	return shape{
		attrs: map[string]string{"node": `"alpha"`, "data_dir": quote(defaultDataDir), "socket": quote(runDir + "/office.sock"), "token_key": quote(defaultTokenKey)},
		others: map[string]string{
			"vip": inPolicy, "hooks": inPolicy, "prefer": inPolicy, "volume": inPolicy, "fence": inPolicy,
			"check": inPolicy, "sync": inPolicy, "failback": inPolicy, "limits": inPolicy, "notify": inPolicy,
			"reconnect_token": inPolicy, "release_grace": inPolicy, "detect": "it belongs in the cluster block", "two_voters": "it belongs in the cluster block",
		},
		blocks: map[string]shape{
			"watchdog": {
				what:  "watchdog",
				attrs: map[string]string{"device": quote(defaultWatchdog), "timeout": quote(shortest(defaultDogTime))},
				once:  "a host has one for all that it owns",
			},
			"telemetry": telemetryShape(),
			"tls": {
				what:  "tls",
				attrs: map[string]string{"ca": quote(tlsDir + "/ca.pem"), "cert": quote(tlsDir + "/node.pem"), "key": quote(tlsDir + "/node-key.pem"), "insecure": "true"},
				once:  "write all of it there",
			},
			"cluster": {
				what:   `cluster "office"`,
				labels: 1,
				attrs:  map[string]string{"detect": quote(shortest(defaultDetect)), "two_voters": `"accept"`},
				once:   "a host in two clusters runs had twice, each with a file of its own",
				blocks: map[string]shape{
					"node": {
						what:   `node "alpha"`,
						labels: 1,
						attrs:  map[string]string{"address": `"10.0.0.11:7400"`, "role": `"witness"`},
					},
				},
			},
		},
	}
}

// ParseNode reads the text of had.hcl. hostname says who this host is when
// the file doesn't: a member's name, or one with a domain behind it. The
// result is nil if and only if the diagnostics have errors.
func ParseNode(filename string, src []byte, hostname string) (*NodeFile, Diagnostics) {
	s := newSource(filename, src)
	f := s.nodeFile(hostname)
	if s.failed() {
		f = nil
	}
	return f, s.result()
}

func (s *source) nodeFile(hostname string) *NodeFile {
	const smallest = `the smallest node file is one cluster block: cluster "office" { … } with a node "alpha" { address = "10.0.0.11:7400" } for every node`
	body := s.parse(smallest)
	if body == nil {
		return nil
	}
	if s.conform(body, nodeShape(), "the node file"); s.failed() {
		return nil
	}
	raw, ok := s.rawNodeFile(body)
	if !ok {
		s.errorf(s.start(), smallest, "there is no cluster block")
		return nil
	}
	return s.validNodeFile(raw, hostname)
}

// rawNodeFile is had.hcl as it is written.
type rawNodeFile struct {
	name      text
	at        hcl.Range // of the cluster block's first line
	detect    time.Duration
	twoVoters text
	members   []rawMember

	node, dataDir, socket, tokenKey text
	tls                             *rawTLS       // nil when not written
	watchdog                        *rawWatchdog  // nil when not written
	telemetry                       *rawTelemetry // nil when not written
}

type rawMember struct{ name, address, role text }

type rawTLS struct {
	ca, cert, key text
	insecure      bool
	at            hcl.Range
}

func (s *source) rawNodeFile(body *hclsyntax.Body) (raw rawNodeFile, ok bool) {
	raw.node = s.optional(body, "node", `"alpha"`)
	raw.dataDir = s.optional(body, "data_dir", quote(defaultDataDir))
	raw.socket = s.optional(body, "socket", quote(runDir+"/office.sock"))
	raw.tokenKey = s.optional(body, "token_key", quote(defaultTokenKey))
	for _, b := range body.Blocks {
		switch b.Type {
		case "cluster":
			ok = true
			s.rawCluster(b, &raw)
		case "watchdog":
			raw.watchdog = s.rawWatchdog(b)
		case "telemetry":
			raw.telemetry = s.rawTelemetry(b)
		case "tls":
			raw.tls = &rawTLS{
				ca:       s.optional(b.Body, "ca", quote(tlsDir+"/ca.pem")),
				cert:     s.optional(b.Body, "cert", quote(tlsDir+"/node.pem")),
				key:      s.optional(b.Body, "key", quote(tlsDir+"/node-key.pem")),
				insecure: s.truth(b.Body, "insecure"),
				at:       b.DefRange(),
			}
		}
	}
	return raw, ok
}

func (s *source) rawCluster(b *hclsyntax.Block, raw *rawNodeFile) {
	raw.name, raw.at = label(b), b.DefRange()
	raw.twoVoters = s.optional(b.Body, "two_voters", `"accept"`)
	raw.detect = s.duration(b.Body, "detect", defaultDetect, span{
		min: 100 * time.Millisecond, low: "a busy host pauses that long without being dead; 200ms is fast, 500ms the default, 1s careful",
		max: 10 * time.Second, high: "a dead owner's addresses would be away for about half a minute; 500ms is the default, 1s careful",
	})
	for _, n := range b.Body.Blocks {
		raw.members = append(raw.members, rawMember{
			name:    label(n),
			address: s.required(n, "address", `"10.0.0.11:7400"`),
			role:    s.optional(n.Body, "role", `"witness"`),
		})
	}
}

func (s *source) validNodeFile(raw rawNodeFile, hostname string) *NodeFile {
	f := &NodeFile{Cluster: raw.name.value, Detect: raw.detect}
	if !validHostName(f.Cluster) {
		s.errorf(raw.name.at, "name it like a host: letters, digits, \"-\" and \".\"; it becomes part of file names", "%s can't be a cluster's name", quote(f.Cluster))
	}
	members, loopbacks := s.validMembers(raw.members)
	f.Members = members
	f.TwoVotersAccepted = s.twoVotersAccepted(raw.twoVoters)
	s.checkVoters(raw.at, f.Members, f.TwoVotersAccepted)
	if !s.failed() {
		f.Node = s.self(raw, f.Members, hostname)
	}
	f.DataDir = s.path(raw.dataDir, "data_dir", defaultDataDir)
	f.TokenKey = s.path(raw.tokenKey, "token_key", defaultTokenKey)
	f.Socket = s.path(raw.socket, "socket", runDir+"/"+f.Cluster+".sock")
	if raw.socket.ok && len(f.Socket) > maxSocket {
		s.errorf(raw.socket.at, "choose a shorter one", "socket is longer than the %d bytes Linux allows", maxSocket)
	}
	f.TLS = s.validTLS(raw.tls, loopbacks == len(f.Members))
	f.Watchdog = s.validWatchdog(raw.watchdog)
	f.Telemetry = s.validTelemetry(raw.telemetry, f.TLS)
	return f
}

// validMembers returns the members and how many of them have a loopback
// address.
func (s *source) validMembers(raw []rawMember) (members []Member, loopbacks int) {
	names, addresses := map[string]text{}, map[string]text{}
	var loopback, remote text // one of each
	for _, r := range raw {
		m := Member{Name: r.name.value, Witness: s.isWitness(r.role)}
		if !validHostName(m.Name) {
			s.errorf(r.name.at, nodeNameHint, "%s can't be a node's name", quote(m.Name))
		}
		// Host names are the same in upper and lower case.
		if first, twice := names[strings.ToLower(m.Name)]; twice {
			s.errorf(r.name.at, fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line), "two nodes are called %s", quote(m.Name))
		} else {
			names[strings.ToLower(m.Name)] = r.name
		}
		if r.address.ok {
			address, isLoopback, ok := s.nodeAddress(r.address)
			if first, twice := addresses[address]; ok && twice {
				s.errorf(r.address.at, fmt.Sprintf("the first is on line %d; each needs an address of its own", first.at.Start.Line), "two nodes have the address %s", quote(address))
			} else if ok {
				addresses[address] = r.address
			}
			m.Address = address
			switch {
			case isLoopback:
				loopback = r.address
				loopbacks++
			case ok:
				remote = r.address
			}
		}
		members = append(members, m)
	}
	if loopback.ok && remote.ok {
		s.errorf(loopback.at, "write the address by which the other nodes reach this one", "the node on %s can't reach a node on %s", quote(remote.value), quote(loopback.value))
	}
	return members, loopbacks
}

func (s *source) isWitness(role text) bool {
	if role.ok && role.value != "witness" {
		hint := `the only role is "witness"; leave the line out for a node that may own`
		if nearest(role.value, []string{"witness"}) != "" {
			hint = `did you mean "witness"?`
		}
		s.errorf(role.at, hint, "unknown role %s", quote(role.value))
	}
	return role.value == "witness"
}

func (s *source) twoVotersAccepted(t text) bool {
	if t.ok && t.value != "accept" {
		s.errorf(t.at, `write two_voters = "accept", or leave the line out`, "two_voters can't be %s", quote(t.value))
	}
	return t.ok
}

// checkVoters says what the number of nodes means. Every node votes, a
// witness too.
func (s *source) checkVoters(at hcl.Range, members []Member, twoAccepted bool) {
	n := len(members)
	var owners []string
	for _, m := range members {
		if !m.Witness {
			owners = append(owners, m.Name)
		}
	}
	switch {
	case n == 0:
		s.errorf(at, `add one for each: node "alpha" { address = "10.0.0.11:7400" }`, "the cluster has no nodes")
		return
	case n > maxMembers:
		s.errorf(at, "split it into several clusters, each with its own virtual addresses", "the cluster has %d nodes, more than the %d that are allowed", n, maxMembers)
	case n == 2 && !twoAccepted:
		s.errorf(at, `a witness is any small third machine: node "gamma" { … role = "witness" }; if you can live with it, write two_voters = "accept"`,
			"two voters stop when either dies: add a witness or accept it in writing")
	case n > 2 && n%2 == 0:
		s.warnf(at, "add a witness, or leave one node out", "%d voters survive no more failures than %d", n, n-1)
	}
	switch len(owners) {
	case 0:
		s.errorf(at, `leave role = "witness" out for the nodes that may own`, "all nodes are witnesses: none may own anything")
	case 1:
		s.warnf(at, "add a second node that may own", "only %s may own: there is nothing to fail over to", quote(owners[0]))
	}
}

// self returns which of members this host is.
func (s *source) self(raw rawNodeFile, members []Member, hostname string) string {
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	list := "its nodes: " + strings.Join(names, ", ")
	if raw.node.ok {
		if slices.Contains(names, raw.node.value) {
			return raw.node.value
		}
		if n := nearest(raw.node.value, names); n != "" {
			list = "did you mean " + quote(n) + "? " + list
		}
		s.errorf(raw.node.at, list, "%s is not a node of cluster %s", quote(raw.node.value), quote(raw.name.value))
		return ""
	}
	short, _, _ := strings.Cut(hostname, ".")
	for _, host := range []string{hostname, short} {
		if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, host) }); i >= 0 {
			return names[i]
		}
	}
	if n := nearest(short, names); n != "" {
		list = "did you mean " + quote(n) + "? " + list
	}
	s.errorf(raw.at, list+`; a host of another name says which it is: node = `+quote(names[0]), "this host is called %s, and no node of cluster %s is", quote(hostname), quote(raw.name.value))
	return ""
}

func (s *source) validTLS(raw *rawTLS, allLoopback bool) TLS {
	if raw == nil {
		if allLoopback {
			return TLS{}
		}
		raw = &rawTLS{}
	}
	if raw.insecure {
		if raw.ca.ok || raw.cert.ok || raw.key.ok {
			s.errorf(raw.at, "leave out either insecure or the files", "insecure = true turns TLS off, but files for it are named too")
		}
		if !allLoopback {
			s.warnf(raw.at, "leave insecure out as soon as the nodes have certificates", "without TLS, everybody who reaches a node's port can act as a node")
		}
		return TLS{Insecure: true}
	}
	return TLS{
		CA:   s.path(raw.ca, "ca", tlsDir+"/ca.pem"),
		Cert: s.path(raw.cert, "cert", tlsDir+"/node.pem"),
		Key:  s.path(raw.key, "key", tlsDir+"/node-key.pem"),
	}
}
