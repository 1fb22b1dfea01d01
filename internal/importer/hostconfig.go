package importer

import (
	"net/netip"
	"slices"
	"strings"
)

// hostconfig is what the FAILOVER_ lines of /etc/hostconfig say, of the primary
// server, of the secondary, or of both together.
type hostconfig struct {
	peer   netip.Addr // the primary's own address
	peerAt place
	pairs  []macPair
	mail   []string
	mailAt place
}

// macPair is an interface with an address that it takes over.
type macPair struct {
	iface string
	addr  netip.Addr
	at    place
}

// readHostconfig reads a file of NAME=value lines (hostconfig(5) of Mac OS X).
func (h *hostconfig) read(name, text string, l *ledger, bad *problems) {
	n := 0
	for raw := range strings.Lines(text) {
		n++
		at := place{name, n}
		line := strings.TrimSpace(raw)
		if line == "" {
			continue
		}
		l.read(at)
		if line[0] == '#' {
			l.comment(at)
			continue
		}
		variable, value, ok := strings.Cut(line, "=")
		switch {
		case !ok || !isParam(variable):
			l.note(line, "it is no NAME=value", at)
		case !strings.HasPrefix(variable, "FAILOVER_"):
			l.note("other settings", "they are not about IP failover", at)
		default:
			value, comment, why := shellValue(value)
			if why != "" {
				bad.add(at, "%s: %s", variable, why)
				continue
			}
			if comment {
				l.comment(at)
			}
			h.set(variable, value, at, l, bad)
		}
	}
}

// shellValue reads the right side of an assignment of sh(1) that holds no
// expansion.
func shellValue(text string) (value string, comment bool, why string) {
	text = strings.TrimSpace(text)
	if strings.ContainsAny(text, "“”‘’") {
		return "", false, `it has typographic quotes: write "…"`
	}
	var rest string
	if text != "" && (text[0] == '"' || text[0] == '\'') {
		end := strings.IndexByte(text[1:], text[0])
		if end < 0 {
			return "", false, "its quote is not closed"
		}
		value, rest = text[1:end+1], strings.TrimSpace(text[end+2:])
	} else {
		value, rest, _ = strings.Cut(text, " ")
		rest = strings.TrimSpace(rest)
	}
	switch {
	case strings.HasPrefix(rest, "#"):
		return value, true, ""
	case rest != "":
		return "", false, "there is more after the value: " + quote(rest)
	}
	return value, false, ""
}

func (h *hostconfig) set(variable, value string, at place, l *ledger, bad *problems) {
	if strings.TrimSpace(value) == "" {
		l.note(variable, "it is empty", at)
		return
	}
	switch variable {
	case "FAILOVER_PEER_IP":
		addr, err := netip.ParseAddr(value)
		if err != nil {
			bad.add(at, "%s: %s is not an IP address", variable, quote(value))
			return
		}
		if h.peer.IsValid() && h.peer != addr {
			l.note(variable+" "+value, "two servers are named as the primary: "+h.peer.String()+" is taken for it", at)
			return
		}
		h.peer, h.peerAt = addr, at
		l.carry(at, "a node's address in had.hcl")
		l.note("going back", "the primary got its addresses back as soon as it was heard again: had leaves them where they are until hactl move, or with failback in policy.hcl", at)
	case "FAILOVER_PEER_IP_PAIRS":
		for pair := range strings.FieldsSeq(value) {
			h.pair(variable, pair, at, l, bad)
		}
	case "FAILOVER_EMAIL_RECIPIENT":
		h.mailAt = at
		for _, to := range strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if !strings.Contains(to, "@") {
				to += "@localhost"
			}
			if !isMailbox(to) {
				l.note(to, "it is no mail address", at)
				continue
			}
			if !slices.Contains(h.mail, to) {
				h.mail = append(h.mail, to)
				l.carry(at, "notify in policy.hcl")
			}
		}
		l.note("the way of the mail", "it went by the host's own mail(1): see that something listens on port 25 of each node, or write another smtp in policy.hcl", at)
	case "FAILOVER_BCAST_IPS":
		l.note(variable+" "+value, "had sends no broadcasts: its nodes agree over one TCP port each", at)
	default:
		l.note(variable+" "+value, "failoverd(8) and heartbeatd(8) document no such setting", at)
	}
}

// pair reads interface:address[/mask] (failoverd(8)).
func (h *hostconfig) pair(variable, text string, at place, l *ledger, bad *problems) {
	iface, rest, ok := strings.Cut(text, ":")
	bare, mask, masked := strings.Cut(rest, "/")
	addr, err := netip.ParseAddr(bare)
	if !ok || err != nil {
		bad.add(at, "%s: %s is not interface:address, as in en0:192.0.2.10", variable, quote(text))
		return
	}
	if why := notVirtual(addr); why != "" {
		l.note(text, why, at)
		return
	}
	if masked {
		l.note("/"+mask, "had takes the prefix length from the interface's own address", at)
	}
	l.carry(at, "vip in policy.hcl")
	l.note(iface, "it is the Mac's name: had takes the interface whose subnet holds the address", at)
	h.pairs = append(h.pairs, macPair{iface, addr.Unmap(), at})
}
