package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// RevokedFile lies beside the CA's certificate, where the CA is and on every node:
// whose certificates don't count any more. It need not be there.
const RevokedFile = "revoked"

// maxRevoked bounds the file, in bytes: more than a thousand names.
const maxRevoked = 64 << 10

// Revoked says whose certificates don't count any more. A name's later ones do: so
// that whoever lost a key can be given another. The zero value revokes nothing.
type Revoked struct{ all []revocation }

// revocation is one line of the file: "client alice 2026-11-30T20:15:00Z".
type revocation struct {
	node bool // otherwise a client, whatever its role
	name string
	// until is the last beginning of a certificate (its notBefore) that doesn't count.
	// It is the CA's time on both sides, so that no host's clock matters.
	until time.Time
}

func (r revocation) String() string {
	kind := "client"
	if r.node {
		kind = "node"
	}
	return fmt.Sprintf("%s %s %s", kind, r.name, r.until.UTC().Format(time.RFC3339))
}

// same reports whether two are about one name. Host names are the same in upper and
// lower case, and so is everything here: refusing too much is the smaller harm.
func (r revocation) same(o revocation) bool {
	return r.node == o.node && strings.EqualFold(r.name, o.name)
}

// ParseRevoked reads the file's text: a line for each name, comments after "#".
func ParseRevoked(text []byte) (out Revoked, err error) {
	if len(text) > maxRevoked {
		return Revoked{}, fmt.Errorf("it has %d bytes, more than the %d that are read", len(text), maxRevoked)
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		said, _, _ := strings.Cut(string(line), "#")
		fields := strings.Fields(said)
		if len(fields) == 0 {
			continue
		}
		r, err := parseRevocation(fields)
		if err != nil {
			return Revoked{}, fmt.Errorf("line %d: %w", n, err)
		}
		out = out.with(r)
	}
	return out, nil
}

func parseRevocation(fields []string) (r revocation, err error) {
	bad := fmt.Errorf("%.80q isn't \"node NAME TIME\" or \"client NAME TIME\", with a time like 2026-11-30T20:15:00Z", strings.Join(fields, " "))
	if len(fields) != 3 {
		return r, bad
	}
	r.name = fields[1]
	switch {
	case fields[0] == "node" && ValidHost(r.name):
		r.node = true
	case fields[0] != "client" || !ValidClient(r.name):
		return r, bad
	}
	if r.until, err = time.Parse(time.RFC3339, fields[2]); err != nil {
		return r, bad
	}
	return r, nil
}

// with adds one; of two about one name the later counts.
func (v Revoked) with(r revocation) Revoked {
	all := slices.Clone(v.all)
	i := slices.IndexFunc(all, r.same)
	switch {
	case i < 0:
		all = append(all, r)
	case r.until.After(all[i].until):
		all[i] = r
	}
	return Revoked{all}
}

// Count is how many names have revoked certificates.
func (v Revoked) Count() int { return len(v.all) }

// Digest is the same for the same names and times, in whatever order and case they
// are written.
func (v Revoked) Digest() string {
	lines := make([]string, len(v.all))
	for i, r := range v.all {
		lines[i] = strings.ToLower(r.String())
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:8])
}

// Covers returns whose certificate c is, if it is revoked.
func (v Revoked) Covers(c *x509.Certificate) (who string, revoked bool) {
	name, _ := NameIn(c) // one of another CA's tools has none
	for _, r := range v.all {
		is := strings.EqualFold(name.Client, r.name)
		if r.node {
			is = strings.EqualFold(name.Node, r.name) || c.VerifyHostname(r.name) == nil
		}
		if is && !c.NotBefore.After(r.until) {
			return r.name, true
		}
	}
	return "", false
}

// begin returns when a new certificate shall begin: as said, but after all of its
// name that are revoked.
func (v Revoked) begin(n Name, at time.Time) time.Time {
	for _, r := range v.all {
		if r.same(revocation{node: n.Node != "", name: n.Node + n.Client}) && !at.Truncate(time.Second).After(r.until) {
			return r.until.Add(time.Second) // what an X.509 time can tell apart (RFC 5280 §4.1.2.5)
		}
	}
	return at
}

// ReadRevoked reads the file of a folder; without one nothing is revoked.
func ReadRevoked(dir string) (v Revoked, text []byte, err error) {
	path := filepath.Join(dir, RevokedFile)
	text, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Revoked{}, nil, nil
	}
	if err == nil {
		v, err = ParseRevoked(text)
	}
	if err != nil {
		return Revoked{}, nil, fmt.Errorf("read whose certificates are revoked from %s: %w", path, err)
	}
	return v, text, nil
}

// Revoke notes in a CA's folder that what was issued until now to these names
// doesn't count any more, and returns the file's path.
func Revoke(dir string, names []Name, now time.Time) (path string, err error) {
	v, _, err := ReadRevoked(dir)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		// What is issued now begins earlier (backdate).
		v = v.with(revocation{node: n.Node != "", name: n.Node + n.Client, until: now.Add(-backdate).Truncate(time.Second).UTC()})
	}
	var text strings.Builder
	text.WriteString("# Certificates of these names that begin at or before these times don't count.\n")
	for _, r := range v.all {
		fmt.Fprintln(&text, r)
	}
	path = filepath.Join(dir, RevokedFile)
	return path, replace(path, 0o644, []byte(text.String()))
}
