package importer

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// view is what keepalived's configuration says as one node reads it.
type view struct {
	from   Source
	name   string // the node's name; "" if nothing says it
	opts   Options
	ledger *ledger
	bad    *problems

	mail      mail
	user      string // that scripts run as, "user" or "user group"; "": not said
	userAt    *node
	scripts   []*trackScript
	groups    []*group
	instances []*instance

	said []saying // for the ledger, in order
}

// saying is what there is to tell the ledger of a statement, unless it turns
// out later that the statement is left out.
type saying struct {
	of        *node
	to        string // it is carried there; otherwise it isn't
	what, why string
	at        []place
}

// mail is whom keepalived tells about changes.
type mail struct {
	said   []*node // every statement about it
	to     []string
	from   string
	server string // host:port
	at     place  // of the recipients
	alert  bool   // changes of VRRP are told
}

// trackScript is a vrrp_script.
type trackScript struct {
	name     string
	at       *node
	argv     []string
	user     string
	interval time.Duration
	timeout  time.Duration
	rise     int
	fall     int
	reverse  bool
	tracked  []*node // where instances and groups name it
}

// group is a vrrp_sync_group.
type group struct {
	name     string
	at       *node
	members  []string
	notifies []notify
	tracks   tracks
}

// instance is a vrrp_instance.
type instance struct {
	name      string
	at        *node
	state     string // MASTER, BACKUP or ""
	iface     string
	priority  int
	prioAt    *node
	source    netip.Addr
	peers     []netip.Addr
	addresses []address
	nopreempt *node
	delay     time.Duration
	delayAt   *node
	advert    time.Duration
	advertAt  *node
	notifies  []notify
	tracks    tracks
	alert     bool
	left      bool // out, by Options.Only
}

// tracks are the interfaces and scripts that an instance or a group depends on.
type tracks struct{ interfaces, scripts []*node }

// address is one of an instance's virtual addresses.
type address struct {
	addr  netip.Addr
	iface string // "" for the instance's
	at    *node
}

// carry claims a statement, and the words that say what it is.
func (v *view) carry(n *node, to string) {
	n.fate = true
	n.arg(0)
	v.said = append(v.said, saying{of: n, to: to, at: []place{n.at, n.brace, n.end}})
}

// lose lists a statement with all that is in its braces.
func (v *view) lose(n *node, why string) { v.list(n, n.text(), why, n.places()...) }

// list lists a statement in other words.
func (v *view) list(n *node, what, why string, at ...place) {
	n.fate, n.lost = true, true
	if n.name() == "auth_pass" { // wherever it stands
		what = n.name()
	}
	v.said = append(v.said, saying{of: n, what: what, why: why, at: at})
}

// note lists a part of a statement that is carried otherwise.
func (v *view) note(n *node, what, why string) {
	v.said = append(v.said, saying{of: n, what: what, why: why, at: []place{n.at}})
}

// leave leaves out a statement with all that is in its braces, whatever was
// said of it.
func (v *view) leave(n *node, why string) {
	n.leave()
	v.ledger.note(n.text(), why, n.places()...)
}

// tell tells the ledger all that was said.
func (v *view) tell() {
	for _, s := range v.said {
		switch {
		case s.of.left:
		case s.to != "":
			for _, at := range s.at {
				v.ledger.carry(at, s.to)
			}
		default:
			v.ledger.note(s.what, s.why, s.at...)
		}
	}
}

// keyword is what to do with a statement.
type keyword struct {
	do   func(*node)
	many bool // it may stand several times; otherwise the last one counts
}

// block goes through the statements of a block.
func (v *view) block(kids []*node, known map[string]keyword, losses []loss) {
	last := map[string]*node{}
	for _, n := range kids {
		last[n.name()] = n
	}
	for _, n := range kids {
		k, ok := known[n.name()]
		switch {
		case ok && !k.many && last[n.name()] != n:
			v.lose(n, fmt.Sprintf("line %d sets it again", last[n.name()].at.line))
		case ok:
			k.do(n)
		default:
			v.lose(n, whyLost(losses, n.name()))
		}
	}
}

// leftovers lists the words that nobody has understood.
func (v *view) leftovers(nodes []*node) {
	for _, n := range nodes {
		switch {
		case n.left || n.lost:
			continue
		case !n.fate:
			v.lose(n, unknownWord)
			continue
		}
		for _, w := range n.words {
			if !w.used {
				v.note(n, w.text, "keepalived documents no such word here")
			}
		}
		v.leftovers(n.kids)
	}
}

// Values of statements. Each claims the word, and refuses a wrong one.

func (v *view) text(n *node) string {
	s, ok := n.arg(1)
	if !ok || s == "" {
		v.bad.add(n.at, "%s has no value", n.name())
	}
	return s
}

func (v *view) number(n *node, low, high int) int {
	s := v.text(n)
	i, err := strconv.Atoi(s)
	if s != "" && (err != nil || i < low || i > high) {
		v.bad.add(n.at, "%s %s: it must be a whole number from %d to %d", n.name(), quote(s), low, high)
	}
	return i
}

// seconds reads a time in seconds, with fractions.
func (v *view) seconds(n *node, high float64) time.Duration {
	s := v.text(n)
	f, err := strconv.ParseFloat(s, 64)
	if s != "" && (err != nil || !(f >= 0 && f <= high)) {
		v.bad.add(n.at, "%s %s: it must be a number of seconds from 0 to %g", n.name(), quote(s), high)
		return 0
	}
	return time.Duration(f * float64(time.Second)).Round(time.Millisecond)
}

func (v *view) ip(n *node, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		v.bad.add(n.at, "%s is not an IP address", quote(text))
		return netip.Addr{}
	}
	return a.Unmap()
}

// truth reads an optional yes or no; without one it is yes.
func (v *view) truth(n *node) bool {
	s, ok := n.arg(1)
	switch {
	case !ok, slices.Contains([]string{"on", "true", "yes"}, s):
		return true
	case slices.Contains([]string{"off", "false", "no"}, s):
		return false
	}
	v.bad.add(n.at, "%s %s: it must be one of on, off, true, false, yes, no", n.name(), quote(s))
	return false
}

// wantBlock refuses a statement that needs braces and has none.
func (v *view) wantBlock(n *node) bool {
	if !n.block {
		v.bad.add(n.at, "%s has no { after it", n.name())
	}
	return n.block
}

// named reads the name of a block, and refuses a second block of that name.
func (v *view) named(n *node, taken func(string) *node) (string, bool) {
	name, ok := n.arg(1)
	if !ok {
		v.bad.add(n.at, "%s has no name", n.name())
	}
	if first := taken(name); ok && first != nil {
		v.bad.add(n.at, "there is a second %s %s; the first is at %s", n.name(), name, first.at)
		ok = false
	}
	return name, v.wantBlock(n) && ok
}

// read interprets all statements.
func (v *view) read(nodes []*node) {
	v.block(nodes, map[string]keyword{
		"global_defs":     {v.globals, true},
		"vrrp_script":     {v.script, true},
		"vrrp_sync_group": {v.group, true},
		"vrrp_instance":   {v.instance, true},
	}, rootLosses())
	v.resolve()
	v.leftovers(nodes)
	v.tell()
}

func (v *view) globals(n *node) {
	if !v.wantBlock(n) {
		return
	}
	v.carry(n, "policy.hcl")
	v.block(n.kids, map[string]keyword{
		"notification_email": {func(n *node) {
			if !v.wantBlock(n) {
				return
			}
			v.mailed(n)
			v.mail.at = n.at
			for _, k := range n.kids {
				if !isMailbox(k.name()) {
					v.lose(k, "it is no mail address with a domain")
					continue
				}
				v.carry(k, "notify in policy.hcl")
				v.mail.to = append(v.mail.to, k.name())
			}
		}, false},
		"notification_email_from": {func(n *node) {
			if from := v.text(n); isMailbox(from) {
				v.mailed(n)
				v.mail.from = from
				return
			}
			v.lose(n, "it is no mail address with a domain")
		}, false},
		"smtp_server": {v.smtpServer, false},
		"smtp_alert":  {v.globalAlert, false}, "smtp_alert_vrrp": {v.globalAlert, false},
		"router_id": {func(n *node) {
			id := v.text(n)
			if v.name == "" && ValidName(id) {
				v.name = id
			}
			if id == v.name {
				v.carry(n, "the node's name in had.hcl")
				return
			}
			v.lose(n, "had knows its nodes by their host names")
		}, false},
		"script_user": {func(n *node) {
			v.carry(n, "the hook scripts and checks")
			v.user, v.userAt = v.runAs(n, 1), n
		}, false},
		"enable_script_security": {func(n *node) {
			v.carry(n, "always so: a script that others may write is never run")
		}, false},
	}, globalLosses())
}

func (v *view) smtpServer(n *node) {
	host, port := v.text(n), "25"
	if p, ok := n.arg(2); ok {
		port = p
	}
	if i, err := strconv.Atoi(port); err != nil || i < 1 || i > 65535 {
		v.bad.add(n.at, "smtp_server has the port %s: it must be a number from 1 to 65535", quote(port))
		return
	}
	a, err := netip.ParseAddr(host)
	switch {
	case host != "" && (err != nil && !ValidName(host) || a.Zone() != ""):
		v.bad.add(n.at, "smtp_server %s: it must be a host name or an IP address", quote(host))
		return
	case a.Is6():
		host = "[" + host + "]"
	}
	v.mailed(n)
	v.mail.server = host + ":" + port
}

// mailed claims a statement about mail.
func (v *view) mailed(n *node) {
	v.carry(n, "notify in policy.hcl")
	v.mail.said = append(v.mail.said, n)
}

func (v *view) globalAlert(n *node) {
	v.mailed(n)
	if v.truth(n) {
		v.mail.alert = true
	}
}

// runAs reads "user [group]" from the i-th word on.
func (v *view) runAs(n *node, i int) string {
	user, ok := n.arg(i)
	if !ok {
		return ""
	}
	if group, ok := n.arg(i + 1); ok && group != user {
		return user + " " + group
	}
	return user
}
