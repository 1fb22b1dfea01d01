package peer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Member is one node as had.hcl lists it.
type Member struct {
	Name    string `json:"name"`
	Address string `json:"address"` // host:port
	Witness bool   `json:"witness,omitempty"`
}

// BornMember is a member and the ID its data folder held when it became one.
type BornMember struct {
	Member
	NodeID string `json:"node_id"` // 32 hex digits
	// Joining: it has no vote yet. Never set in a certificate.
	Joining bool `json:"joining,omitempty"`
}

// Birth is a cluster's birth certificate. Two certificates are the same
// exactly when their IDs are.
type Birth struct {
	Cluster string       `json:"cluster"`
	ID      string       `json:"id"`      // 32 hex digits, a digest of the rest
	Members []BornMember `json:"members"` // sorted by name

	Recovered *Recovery `json:"recovered,omitempty"` // nil: it is that of a birth
}

const idBytes = 16

// newNodeID draws a random 128-bit ID.
func newNodeID() string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == idBytes && s == strings.ToLower(s)
}

// shortID is enough of an ID to tell two apart in a sentence.
func shortID(id string) string {
	if len(id) <= 8 {
		return id
	}
	return id[:8] + "…"
}

// newBirth makes the certificate of members under cluster.
func newBirth(cluster string, members []BornMember) Birth {
	b := Birth{Cluster: cluster, Members: slices.SortedFunc(slices.Values(members), func(x, y BornMember) int {
		return strings.Compare(x.Name, y.Name)
	})}
	b.ID = b.digest()
	return b
}

// digest returns the certificate's ID: the first 16 bytes of SHA-256 over its
// fields, each string preceded by its length, in the order of the members'
// names. The encoding may never change: it would give every cluster a new ID.
func (b Birth) digest() string {
	var buf []byte
	str := func(s string) {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	str("had birth 1")
	str(b.Cluster)
	for _, m := range b.Members {
		str(m.Name)
		str(m.Address)
		str(m.NodeID)
		if m.Witness {
			buf = append(buf, 1)
		} else {
			buf = append(buf, 0)
		}
	}
	if b.Recovered != nil {
		buf = b.Recovered.append(buf)
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:idBytes])
}

// check returns an error when the certificate contradicts itself.
func (b Birth) check() error {
	if id := b.digest(); b.ID != id {
		return fmt.Errorf("birth certificate %.40q has the digest %s", b.ID, id)
	}
	for i, m := range b.Members {
		if !validID(m.NodeID) {
			return fmt.Errorf("birth certificate gives %.60q the node ID %.40q; want 32 hex digits", m.Name, m.NodeID)
		}
		if i > 0 && b.Members[i-1].Name >= m.Name {
			return fmt.Errorf("birth certificate lists %.60q out of order", m.Name)
		}
	}
	if b.Recovered != nil {
		return b.Recovered.check()
	}
	return nil
}

// member returns the member called name.
func (b Birth) member(name string) (BornMember, bool) {
	return memberIn(b.Members, name)
}

// list returns the members as had.hcl would list them.
func (b Birth) list() []Member {
	l := make([]Member, len(b.Members))
	for i, m := range b.Members {
		l[i] = m.Member
	}
	return l
}

// clone returns a copy that shares nothing.
func (b Birth) clone() Birth {
	b.Members = slices.Clone(b.Members)
	return b
}

// differences says how the list theirs, as whose keeps it, differs from ours,
// as here keeps it: "gamma is listed by alpha only". Addresses count only when
// asked for. The result is empty when the lists agree.
func differences(here string, ours []Member, whose string, theirs []Member, addresses bool) []string {
	var out []string
	for _, o := range ours {
		i := slices.IndexFunc(theirs, func(t Member) bool { return t.Name == o.Name })
		if i < 0 {
			out = append(out, fmt.Sprintf("%q is in the list of %s only", o.Name, here))
			continue
		}
		t := theirs[i]
		if t.Witness != o.Witness {
			out = append(out, fmt.Sprintf("%q is a %s for %s and a %s for %s", o.Name, role(o), here, role(t), whose))
		}
		if addresses && t.Address != o.Address {
			out = append(out, fmt.Sprintf("%q has the address %s for %s and %.80q for %s", o.Name, o.Address, here, t.Address, whose))
		}
	}
	for _, t := range theirs {
		if !slices.ContainsFunc(ours, func(o Member) bool { return o.Name == t.Name }) {
			out = append(out, fmt.Sprintf("%.80q is in the list of %s only", t.Name, whose))
		}
	}
	return out
}

func role(m Member) string {
	if m.Witness {
		return "witness"
	}
	return "data node"
}
