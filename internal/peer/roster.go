package peer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Roster is who belongs to a cluster since its birth, as the log has it. A node
// keeps the latest one it has seen, for it must know whom to ask before it has
// read its log.
type Roster struct {
	ClusterID string       `json:"cluster_id"` // of the certificate that it goes on from
	Index     uint64       `json:"index"`      // log index of the latest change; 0: as at birth
	Members   []BornMember `json:"members"`    // in the order in which they joined
}

func (r Roster) member(name string) (BornMember, bool) { return memberIn(r.Members, name) }

func memberIn(members []BornMember, name string) (BornMember, bool) {
	i := slices.IndexFunc(members, func(m BornMember) bool { return m.Name == name })
	if i < 0 {
		return BornMember{}, false
	}
	return members[i], true
}

func (r Roster) clone() Roster {
	r.Members = slices.Clone(r.Members)
	return r
}

func (r Roster) check() error {
	if !validID(r.ClusterID) {
		return fmt.Errorf("list of members names the cluster ID %.40q; want 32 hex digits", r.ClusterID)
	}
	for _, m := range r.Members {
		if m.Name == "" || !validID(m.NodeID) {
			return fmt.Errorf("list of members gives %.60q the node ID %.40q; want 32 hex digits", m.Name, m.NodeID)
		}
	}
	return nil
}

// roster returns the members of the cluster that this node is bound to.
func (r record) roster() Roster {
	if r.Roster != nil && r.Roster.ClusterID == r.Birth.ID {
		return *r.Roster
	}
	return Roster{ClusterID: r.Birth.ID, Members: r.Birth.Members}
}

// belongs reports whether a data folder's ID is in the certificate or the roster
// that goes with it.
func belongs(b *Birth, r *Roster, node, nodeID string) bool {
	if m, ok := b.member(node); ok && m.NodeID == nodeID {
		return true
	}
	if r == nil || r.ClusterID != b.ID {
		return false
	}
	m, ok := r.member(node)
	return ok && m.NodeID == nodeID
}

// judgeNewcomer judges as a born node one that belongs to no cluster yet. None of
// the reasons is for good: a person may add it at any time.
func (a *agreement) judgeNewcomer(h hello, no refuse) *refusal {
	ours := a.rec.Birth
	m, ok := a.rec.roster().member(h.From)
	switch {
	case h.Kind != kindMeet:
		return no(codeUnborn, false, "%s belongs to no cluster yet", h.From)
	case !ok:
		return no(codeStranger, false, "%s isn't a member of the cluster %q: hactl node add %s --address HOST:PORT, on any member, makes it one", h.From, ours.Cluster, h.From)
	case m.NodeID != h.NodeID:
		return no(codeNodeID, false, "%s is a member of this cluster with the ID %s and now presents %s: its data folder was emptied or replaced, and %s", h.From, shortID(m.NodeID), shortID(h.NodeID), a.remedy())
	case !m.Joining:
		return no(codeRolledBack, true, "%s is a member of this cluster and its data folder doesn't remember it: an older copy of the folder was put back, so it may have forgotten votes; %s", h.From, a.remedy())
	}
	return nil
}

// judgeMember judges as a born node one of the same certificate. One that knows
// of a later change of the members is let in: it comes from a log that this node
// hasn't read yet. Whom this node dials itself, it must know (Dialer.known).
func (a *agreement) judgeMember(h hello, no refuse) *refusal {
	r := a.rec.roster()
	m, ok := r.member(h.From)
	switch {
	case ok && m.NodeID == h.NodeID, h.RosterIndex > r.Index:
		return nil
	case !ok:
		return no(codeStranger, true, "%s, with the ID %s, is no member of the cluster %q any more: it was removed. Empty its data_dir before it is added again", h.From, shortID(h.NodeID), a.rec.Cluster)
	}
	return no(codeNodeID, true, "%s is a member of this cluster with the ID %s and presents %s: it was replaced by another. Empty its data_dir before it is added again", h.From, shortID(m.NodeID), shortID(h.NodeID))
}

// judgeHost judges, as a node that belongs to no cluster yet, a born one that says
// who its members are.
func (a *agreement) judgeHost(h hello, no refuse) *refusal {
	m, ok := h.Roster.member(a.rec.Node)
	i := slices.IndexFunc(a.members, func(m Member) bool { return m.Name == a.rec.Node })
	switch {
	case !ok || m.NodeID != a.rec.NodeID:
		return no(codeStranger, false, "%s waits to be added to the cluster %q, which exists already: hactl node add %s, on one of its members", a.rec.Node, a.rec.Cluster, a.rec.Node)
	case m.Witness != a.members[i].Witness:
		return no(codeList, false, "%s was added as a %s, and its own had.hcl makes it a %s: correct that, or remove it and add it again", a.rec.Node, role(m.Member), role(a.members[i]))
	}
	return nil
}

// host returns a cluster that has taken this node in, as one of its members said.
func (a *agreement) host() (Birth, Roster, bool) {
	for _, c := range a.claims {
		if c.host != nil && belongs(c.host.Birth, c.host.Roster, a.rec.Node, a.rec.NodeID) {
			return *c.host.Birth, *c.host.Roster, true
		}
	}
	return Birth{}, Roster{}, false
}

// Roster returns the members of the cluster as this node knew them last; false
// before it belongs to one.
func (id *Identity) Roster() (Roster, bool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.agreement.rec.Phase != born {
		return Roster{}, false
	}
	return id.agreement.rec.roster().clone(), true
}

// Follow records durably a later list of members, out of the log. One without this
// node is left out: what it was is all that it still is.
func (id *Identity) Follow(index uint64, members []BornMember) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	r := id.agreement.rec
	if r.Phase != born {
		return errors.New("record the members: the cluster isn't born yet")
	}
	next := Roster{ClusterID: r.Birth.ID, Index: index, Members: slices.Clone(members)}
	if m, ok := next.member(r.Node); !ok || m.NodeID != r.NodeID || index <= r.roster().Index {
		return nil
	}
	r.Roster = &next
	if err := r.check(); err != nil {
		return fmt.Errorf("record the members: %w", err)
	}
	return id.save(r)
}

// Learn takes a later list of members for this process alone, in one that writes
// nothing: what the daemon beside it has recorded.
func (id *Identity) Learn(r Roster) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	rec := id.agreement.rec
	if rec.Phase != born || r.ClusterID != rec.Birth.ID {
		return errors.New("learn the members: they are another cluster's")
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("learn the members: %w", err)
	}
	rec.Roster = &r
	id.agreement.adopt(rec)
	return nil
}

// Disagreements says how had.hcl differs from who belongs to the cluster, whole
// sentences. The cluster goes by its log; had.hcl is how a node finds the others
// when it is new.
func (id *Identity) Disagreements() []string {
	id.mu.Lock()
	defer id.mu.Unlock()
	a := &id.agreement
	if a.rec.Phase != born {
		return nil
	}
	var list []Member
	for _, m := range a.rec.roster().Members {
		if f, ok := a.listedAs(m.Name); ok && a.bornAs(m) {
			m.Address = f.Address // had.hcl's counts
		}
		list = append(list, m.Member)
	}
	d := differences("the cluster", list, "had.hcl", a.members, true)
	if len(d) == 0 {
		return nil
	}
	return []string{"had.hcl doesn't list the nodes as they are: " + strings.Join(d, "; ") + ". The cluster goes by its own list (hactl node list); put had.hcl right for the day this node starts anew"}
}

func (a *agreement) listedAs(name string) (Member, bool) {
	i := slices.IndexFunc(a.members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return Member{}, false
	}
	return a.members[i], true
}

// bornAs reports whether a member is one of the birth's.
func (a *agreement) bornAs(m BornMember) bool {
	b, ok := a.rec.Birth.member(m.Name)
	return ok && b.NodeID == m.NodeID
}

// peerNamed returns how to reach a node: while the cluster isn't born, had.hcl's
// entry. Afterwards the member's; its address is had.hcl's if it has been a member
// since the birth, so that it may change, and otherwise that with which it was
// added: had.hcl may still tell of whom it replaced.
func (a *agreement) peerNamed(name string) (BornMember, bool) {
	f, listed := a.listedAs(name)
	if a.rec.Phase != born {
		return BornMember{Member: f}, listed
	}
	m, ok := a.rec.roster().member(name)
	if ok && listed && a.bornAs(m) {
		m.Address = f.Address
	}
	return m, ok
}

// peers returns all other nodes as peerNamed does.
func (a *agreement) peers() (out []Member) {
	if a.rec.Phase != born {
		return slices.DeleteFunc(slices.Clone(a.members), func(m Member) bool { return m.Name == a.rec.Node })
	}
	for _, m := range a.rec.roster().Members {
		if m.Name != a.rec.Node {
			m, _ = a.peerNamed(m.Name)
			out = append(out, m.Member)
		}
	}
	return out
}
