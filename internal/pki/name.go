package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is what an operator may do. Each may do what the ones before it may.
type Role int

// The roles, from the least to the most.
const (
	NoRole   Role = iota
	Viewer        // reads
	Operator      // what day-to-day work takes: moves, rehearsals
	Admin         // what decides who may own, and everything else
)

// String returns the role's name, as it is in certificates.
func (r Role) String() string {
	switch r {
	case Viewer:
		return "viewer"
	case Operator:
		return "operator"
	case Admin:
		return "admin"
	default:
		return "no role"
	}
}

// Roles are all roles, from the least to the most.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// RoleOf returns the role of a name.
func RoleOf(name string) (Role, error) {
	for _, r := range Roles() {
		if r.String() == name {
			return r, nil
		}
	}
	return NoRole, fmt.Errorf("there is no role %q: take viewer, operator or admin", name)
}

// Name is whom a certificate is made out to: a node, or a person or program
// with a role.
type Name struct {
	Cluster string
	Node    string // empty: not a node
	Role    Role
	Client  string // with a role: who has it
}

// scheme is that of the URIs that carry names:
//
//	had://office/node/alpha
//	had://office/role/operator/alice
//
// They are subject alternative names (RFC 5280 §4.2.1.6). The common name says
// the same to people, and is believed by nobody.
const scheme = "had"

// String returns the URI.
func (n Name) String() string {
	u := url.URL{Scheme: scheme, Host: n.Cluster, Path: "/node/" + n.Node}
	if n.Node == "" {
		u.Path = "/role/" + n.Role.String() + "/" + n.Client
	}
	return u.String()
}

// ErrNoName means that a certificate has no name of ours, as one that another
// CA's tools made.
var ErrNoName = errors.New("it carries no had:// name")

// NameIn returns the one name that a certificate carries. The error is
// ErrNoName when it has none.
func NameIn(c *x509.Certificate) (Name, error) {
	var found []*url.URL
	for _, u := range c.URIs {
		if u.Scheme == scheme {
			found = append(found, u)
		}
	}
	switch len(found) {
	case 0:
		return Name{}, ErrNoName
	case 1:
		return parseName(found[0])
	}
	return Name{}, fmt.Errorf("it carries %d had:// names; one is allowed", len(found))
}

func parseName(u *url.URL) (n Name, err error) {
	bad := fmt.Errorf("its name %.200q is none of had's", u)
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || !ValidHost(u.Host) {
		return n, bad
	}
	n.Cluster = u.Host
	kind, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch kind {
	case "node":
		if !ValidHost(rest) {
			return Name{}, bad
		}
		n.Node = rest
		return n, nil
	case "role":
		role, who, _ := strings.Cut(rest, "/")
		if n.Role, err = RoleOf(role); err != nil || !ValidClient(who) {
			return Name{}, bad
		}
		n.Client = who
		return n, nil
	}
	return Name{}, bad
}

// maxName is the longest name in bytes: that of a host (hostname(7)).
const maxName = 253

// ValidHost reports whether a cluster or a node can have this name: letters,
// digits, and "." or "-" between them.
func ValidHost(name string) bool { return valid(name, ".-") }

// ValidClient is ValidHost for a person or program, which may have "_" and "@"
// in its name, too.
func ValidClient(name string) bool { return valid(name, ".-_@") }

func valid(name, between string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(between, r) && i > 0 && i < len(name)-1:
		default:
			return false
		}
	}
	return true
}
