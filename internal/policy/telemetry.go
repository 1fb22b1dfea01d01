package policy

import (
	"net/netip"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Telemetry is where this node tells monitoring how it is. The zero value is
// nowhere.
type Telemetry struct {
	Listen   string // IP:port
	TLS      bool   // with the node's certificate, to who has one of the cluster's CA
	Insecure bool   // off loopback without TLS, in writing
}

const defaultTelemetry = "127.0.0.1:7480"

type rawTelemetry struct {
	listen        text
	tls, insecure bool
	at            hcl.Range
}

func telemetryShape() shape {
	return shape{
		what:  "telemetry",
		attrs: map[string]string{"listen": quote(defaultTelemetry), "tls": "true", "insecure": "true"},
		once:  "one address is enough, \"0.0.0.0:7480\" is all of a host's",
	}
}

func (s *source) rawTelemetry(b *hclsyntax.Block) *rawTelemetry {
	return &rawTelemetry{
		listen: s.optional(b.Body, "listen", quote(defaultTelemetry)),
		tls:    s.truth(b.Body, "tls"), insecure: s.truth(b.Body, "insecure"), at: b.DefRange(),
	}
}

// validTelemetry wants it in writing that others than this host may read it.
func (s *source) validTelemetry(raw *rawTelemetry, nodes TLS) Telemetry {
	if raw == nil {
		return Telemetry{}
	}
	t := Telemetry{Listen: defaultTelemetry, TLS: raw.tls, Insecure: raw.insecure}
	here := true
	if raw.listen.ok {
		raw.at = raw.listen.at
		var valid bool
		if t.Listen, here, valid = s.listenAddress(raw.listen); !valid {
			return Telemetry{}
		}
	}
	switch {
	case t.TLS && t.Insecure:
		s.errorf(raw.at, "leave one of them out", "telemetry has both tls = true and insecure = true")
	case t.TLS && !nodes.Enabled():
		s.errorf(raw.at, "the nodes need certificates first: hactl tls init; or leave tls out", "telemetry has tls = true, and this cluster has no TLS")
	case here || t.TLS:
	case !t.Insecure:
		s.errorf(raw.at, "write tls = true, which asks for a certificate of the cluster's CA; or insecure = true; or listen on 127.0.0.1",
			"everybody who reaches %s could read this node's telemetry", quote(t.Listen))
	default:
		s.warnf(raw.at, "write tls = true instead as soon as what reads it has a certificate (hactl tls issue --client NAME --role viewer)",
			"everybody who reaches %s can read names, addresses and states of this cluster", quote(t.Listen))
	}
	return t
}

// listenAddress reads where a server of this host listens, and whether that is
// loopback. A host's name may mean several addresses, and others tomorrow.
func (s *source) listenAddress(t text) (canonical string, loopback, ok bool) {
	host, port, hint := splitHostPort(t.value)
	if hint != "" {
		s.errorf(t.at, "write it as in "+quote(defaultTelemetry), "%s is not an address and port", quote(t.value))
		return "", false, false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		s.errorf(t.at, "a port is a number from 1 to 65535; had's own choice is 7480", "%s has no valid port", quote(t.value))
		return "", false, false
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" || addr.IsMulticast() {
		s.errorf(t.at, "write it as in "+quote(defaultTelemetry)+`, or "0.0.0.0:7480" for all addresses of the host`, "%s has no IP address of a host before the port", quote(t.value))
		return "", false, false
	}
	addr = addr.Unmap()
	return joinHostPort(addr, port), addr.IsLoopback(), true
}
