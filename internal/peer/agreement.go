package peer

import (
	"time"
)

// phase is how far a node has come towards its cluster's birth. It only ever
// grows, and each value is on disk before anybody is told.
type phase string

const (
	gathering phase = "gathering" // learning the members' node IDs
	locked    phase = "locked"    // bound to one certificate, for as long as the data folder lives
	born      phase = "born"      // every member is known to have locked that certificate
)

// claimFresh is how old a gathered node ID may be when a certificate is made
// of it. It keeps a data folder that was emptied in the meantime out of the
// certificate; safety doesn't rest on it.
const claimFresh = 10 * time.Second

// record is what a data folder remembers of its node.
type record struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	NodeID  string `json:"node_id"`
	Phase   phase  `json:"phase"`
	Birth   *Birth `json:"birth,omitempty"` // set when locked or born
	// Roster is who belongs to the cluster since; nil: as at birth.
	Roster      *Roster `json:"roster,omitempty"`
	RaftStarted bool    `json:"raft_started,omitempty"`
	// Ended: the cluster has gone on without this node, which learned of it.
	Ended *ending `json:"ended,omitempty"`
}

// claim is what a member said of itself the last time it was heard.
type claim struct {
	nodeID    string
	phase     phase
	clusterID string // of the certificate it is locked on or born with
	at        time.Time
	host      *hello // of a born member that has taken this node in
}

// agreement is the birth protocol of one node without its I/O: what is heard
// goes in (judge, hear), what has to be made durable comes out (next, adopt).
//
// Invariants: a record with a certificate keeps that certificate; the
// certificate names this node with this folder's ID; hello tells of rec only
// what has been adopted, which is durable.
type agreement struct {
	rec     record
	members []Member // had.hcl's list, with this node
	claims  map[string]claim
}

// hear notes what a member said of itself. The caller has judged it.
func (a *agreement) hear(h hello, now time.Time) {
	if a.claims == nil {
		a.claims = make(map[string]claim)
	}
	c := claim{nodeID: h.NodeID, phase: h.Phase, clusterID: h.ClusterID, at: now}
	if a.rec.Phase == gathering && h.Phase == born && h.Roster != nil {
		c.host = &h
	}
	a.claims[h.From] = c
}

// next returns the record that has to become durable now, if any. The caller
// writes it and then adopts it.
func (a *agreement) next(now time.Time) (record, bool) {
	switch a.rec.Phase {
	case gathering:
		if b, r, ok := a.host(); ok {
			joined := a.rec
			joined.Phase, joined.Birth, joined.Roster = born, &b, &r
			return joined, true
		}
		b, ok := a.gathered(now)
		if !ok {
			return record{}, false
		}
		r := a.rec
		r.Phase, r.Birth = locked, &b
		return r, true
	case locked:
		if !a.allLocked() {
			return record{}, false
		}
		r := a.rec
		r.Phase = born
		return r, true
	default:
		return record{}, false
	}
}

// adopt makes the durable record the one this node acts on.
func (a *agreement) adopt(r record) { a.rec = r }

// gathered returns the certificate of all members when all were heard lately
// and those that are bound to a certificate are bound to this one. A member
// bound to another can't be followed: this node's ID isn't in its certificate,
// or an ID is in it that its bearer has lost.
func (a *agreement) gathered(now time.Time) (Birth, bool) {
	ms := make([]BornMember, 0, len(a.members))
	for _, m := range a.members {
		id := a.rec.NodeID
		if m.Name != a.rec.Node {
			c, ok := a.claims[m.Name]
			if !ok || now.Sub(c.at) > claimFresh {
				return Birth{}, false
			}
			id = c.nodeID
		}
		ms = append(ms, BornMember{Member: m, NodeID: id})
	}
	b := newBirth(a.rec.Cluster, ms)
	for _, c := range a.claims {
		if c.phase != gathering && c.clusterID != b.ID {
			return Birth{}, false
		}
	}
	return b, true
}

// allLocked reports whether every member is known to have locked this node's
// certificate. A lock is never given up, so claims of any age count; and a
// member that is born has established the same for all.
func (a *agreement) allLocked() bool {
	all := true
	for _, m := range a.rec.Birth.Members {
		if m.Name == a.rec.Node {
			continue
		}
		switch {
		case !a.lockedWithUs(m.Name):
			all = false
		case a.claims[m.Name].phase == born:
			return true
		}
	}
	return all
}

// lockedWithUs reports whether the member was heard to be bound to this node's
// certificate, under the ID that is in it.
func (a *agreement) lockedWithUs(name string) bool {
	b := a.rec.Birth
	c, heard := a.claims[name]
	if !heard || b == nil || c.phase == gathering || c.clusterID != b.ID {
		return false
	}
	m, ok := b.member(name)
	return ok && m.NodeID == c.nodeID
}

// outdated reports whether the refusal answers a hello this node has moved on
// from: it was gathering when it said so, and the birth has overtaken the
// message. A node that really was rolled back is still gathering: its lock
// was durable before anybody could be born with it.
func (a *agreement) outdated(no *refusal) bool {
	return no.Code == codeRolledBack && a.rec.Phase != gathering
}

// hello returns what this node says of itself to the node to.
func (a *agreement) hello(k kind, to string) hello {
	h := hello{
		Protocol: protocolVersion,
		Kind:     k,
		Cluster:  a.rec.Cluster,
		From:     a.rec.Node,
		NodeID:   a.rec.NodeID,
		To:       to,
		Phase:    a.rec.Phase,
	}
	if a.rec.Birth != nil {
		h.ClusterID, h.Former = a.rec.Birth.ID, a.rec.Birth.former()
		h.RosterIndex = a.rec.roster().Index
	}
	if k == kindMeet {
		h.Members = a.members
		h.Birth = a.rec.Birth
		if a.rec.Phase == born {
			r := a.rec.roster()
			h.Roster = &r
		}
	}
	return h
}
