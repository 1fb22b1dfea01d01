package policy

import (
	"net/netip"
	"strconv"
	"strings"
)

// virtualAddress reads a VIP's address. It is never IPv4-mapped: 10.0.0.1 and
// ::ffff:10.0.0.1 are one address to the kernel.
func (s *source) virtualAddress(t text) (netip.Addr, bool) {
	if p, err := netip.ParsePrefix(t.value); err == nil {
		s.errorf(t.at, "leave the prefix length out, it comes from the interface: address = "+quote(p.Addr().String()), "%s is a prefix, not an address", quote(t.value))
		return netip.Addr{}, false
	}
	if p, err := netip.ParseAddrPort(t.value); err == nil {
		s.errorf(t.at, "leave the port out: address = "+quote(p.Addr().String()), "%s has a port: a virtual address carries all of them", quote(t.value))
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(t.value)
	if err != nil {
		hint := `write it as in "192.0.2.10" or "2001:db8::10"; names aren't resolved`
		if strings.Contains(err.Error(), "leading zero") {
			hint = "leave leading zeros out: some programs read them as octal"
		}
		s.errorf(t.at, hint, "%s is not an IP address", quote(t.value))
		return netip.Addr{}, false
	}
	if addr.Zone() != "" {
		s.errorf(t.at, "name the interface on a line of its own: interface = "+quote(addr.Zone()), "%s has a zone", quote(t.value))
		return netip.Addr{}, false
	}
	addr = addr.Unmap()
	if why := notVirtual(addr); why != "" {
		s.errorf(t.at, "take a free address of the network that clients reach the nodes by", "%s can't be a virtual address: %s", quote(t.value), why)
		return netip.Addr{}, false
	}
	return addr, true
}

// notVirtual says why nobody can reach addr on whichever node holds it, or "".
// The ranges are those of RFC 6890 and its registries.
func notVirtual(addr netip.Addr) string {
	switch {
	case addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0:
		return "it means \"no address\""
	case addr.IsLoopback():
		return "loopback never leaves the host"
	case addr.IsMulticast():
		return "it is a multicast group, which several hosts hold at once"
	case addr.IsLinkLocalUnicast():
		return "link-local addresses mean another host on every link"
	case addr.Is4() && addr.As4()[0] >= 240:
		return "it is reserved or broadcast"
	}
	return ""
}

// nodeAddress checks a "host:port" where the other nodes reach one of them,
// and returns it in its canonical form with whether it is loopback.
func (s *source) nodeAddress(t text) (canonical string, loopback, ok bool) {
	host, port, hint := splitHostPort(t.value)
	if hint != "" {
		s.errorf(t.at, hint, "%s is not an address and port", quote(t.value))
		return "", false, false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		s.errorf(t.at, "a port is a number from 1 to 65535; had's own choice is 7400", "%s has no valid port", quote(t.value))
		return "", false, false
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if !validHostName(host) || allDigitsAndDots(host) {
			s.errorf(t.at, `write it as in "10.0.0.11:7400" or "[2001:db8::11]:7400"`, "%s has neither an IP address nor a host name before the port", quote(t.value))
			return "", false, false
		}
		s.warnf(t.at, "write the IP address", "%s has to be looked up: a slow name server then delays every reconnection", quote(host))
		return strings.ToLower(host) + ":" + port, false, true
	}
	addr = addr.Unmap()
	if addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
		s.errorf(t.at, "the file is the same on every node: write the address by which all of them reach this one", "%s doesn't mean the same host everywhere", quote(t.value))
		return "", false, false
	}
	return joinHostPort(addr, port), addr.IsLoopback(), true
}

// splitHostPort splits at the last colon; hint is not empty when that can't
// be right.
func splitHostPort(address string) (host, port, hint string) {
	if addr, err := netip.ParseAddr(address); err == nil {
		return "", "", "add the port: " + quote(joinHostPort(addr, "7400"))
	}
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		if validHostName(address) {
			return "", "", "add the port: " + quote(address+":7400")
		}
		return "", "", `write it as in "10.0.0.11:7400" or "[2001:db8::11]:7400"`
	}
	host, port = address[:i], address[i+1:]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return "", "", `an IPv6 address is written as in "[2001:db8::11]:7400"`
		}
	} else if strings.Contains(host, ":") {
		return "", "", `an IPv6 address is written in brackets, as in "[2001:db8::11]:7400"`
	}
	if port == "" {
		return "", "", "add the port: " + quote(address+"7400")
	}
	return host, port, ""
}

func joinHostPort(addr netip.Addr, port string) string {
	if addr.Is4() {
		return addr.String() + ":" + port
	}
	return "[" + addr.String() + "]:" + port
}

// allDigitsAndDots tells a mistyped IPv4 address from a host name: no
// top-level domain is a number (RFC 3696 §2).
func allDigitsAndDots(host string) bool {
	return strings.Trim(host, "0123456789.") == ""
}
