package peer

import (
	"errors"
	"fmt"
	"strings"
)

// code names a reason for a refusal; it travels with the sentence and never
// changes its meaning.
type code string

const (
	codeProtocol    code = "protocol"    // another version of the preamble
	codeCluster     code = "cluster"     // a node of a cluster with another name
	codeAddressee   code = "addressee"   // meant for another node
	codeSameName    code = "same-name"   // claims to be this node
	codeStranger    code = "stranger"    // not in the member list
	codeCertificate code = "certificate" // its TLS certificate is another node's
	codeList        code = "list"        // another member list
	codeNodeID      code = "node-id"     // not the node that took part in the birth
	codeBirth       code = "birth"       // bound to another birth certificate
	codeRolledBack  code = "rolled-back" // has forgotten a birth it took part in
	codeUnborn      code = "unborn"      // the cluster isn't born yet
	codeFormer      code = "former"      // of an earlier generation of this cluster
	codeLater       code = "later"       // of a later one: this node was left behind
	codeBusy        code = "busy"        // too many operators are connected
)

const (
	remedyBorn = "it gets no vote. Put its own data folder back; if that is lost, empty its data_dir, and on " +
		"any other member: hactl node remove, then hactl node add"
	remedyUnborn = "the birth can't be completed. As long as no node says that the cluster was born, nothing was ever owned: " +
		"stop had on every node, empty every node's data folder and start them together"
)

// refusal is why a node doesn't talk to another.
type refusal struct {
	Code     code   `json:"code"`
	Sentence string `json:"sentence"` // reads the same on both sides
	// ForGood: the refusing node is bound to a birth certificate that rules
	// the other out; only a person can change that.
	ForGood bool `json:"for_good,omitempty"`
}

// ErrRefusedForGood is matched by an error that says that this node can't
// become, or is no longer, part of the cluster its data folder and had.hcl
// say it belongs to. Trying again is pointless before a person has acted.
var ErrRefusedForGood = errors.New("refused for good")

// RefusedError tells that another node refuses this one.
type RefusedError struct {
	Peer     string // the refusing node
	Sentence string // its reason
	ForGood  bool
	ToAdd    bool // the cluster exists, and this node can be added to it
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refuses this node: %s", e.Peer, e.Sentence)
}

// Is reports a match with ErrRefusedForGood.
func (e *RefusedError) Is(target error) bool { return e.ForGood && target == ErrRefusedForGood }

// judge returns why this node refuses the node that said h, or nil. It is the
// same for both ends of a connection.
func (a *agreement) judge(h hello) *refusal {
	bound := a.rec.Phase != gathering
	no := func(c code, forGood bool, format string, args ...any) *refusal {
		return &refusal{Code: c, Sentence: printable(fmt.Sprintf(format, args...)), ForGood: forGood}
	}
	stale := a.stale(h, no)
	switch {
	case h.Protocol != protocolVersion:
		return no(codeProtocol, false, "%.80q (had %.40q) speaks version %d of the node protocol and %s version %d: run the same had on all nodes", h.From, h.Had, h.Protocol, a.rec.Node, protocolVersion)
	case h.Cluster != a.rec.Cluster:
		return no(codeCluster, bound, "%.80q is a node of the cluster %.80q and %s of %q: compare the cluster name and the addresses in their had.hcl", h.From, h.Cluster, a.rec.Node, a.rec.Cluster)
	case h.From == a.rec.Node && (h.To == a.rec.Node || h.NodeID != a.rec.NodeID):
		return no(codeSameName, false, "another host also calls itself %s: check `node` in its had.hcl, and its host name", a.rec.Node)
	case h.To != a.rec.Node:
		return no(codeAddressee, false, "%.80q looks for %.80q at the address of %s: compare the addresses in their had.hcl", h.From, h.To, a.rec.Node)
	case stale != nil:
		return stale
	case a.rec.Phase == born && h.Phase == gathering:
		return a.judgeNewcomer(h, no)
	case !bound && h.Kind == kindMeet && a.joins(h):
		return a.judgeHost(h, no)
	case a.rec.Phase != born && !a.listed(h.From):
		return no(codeStranger, bound, "%.80q isn't in the member list of %s (%s)", h.From, a.rec.Node, a.names())
	case h.Kind == kindMeet && !bound:
		return a.judgeGathering(h, no)
	case h.Kind == kindMeet:
		return a.judgeBound(h, no)
	case a.rec.Phase != born:
		return no(codeUnborn, false, "%s isn't born yet: it waits to meet all members", a.rec.Node)
	default:
		return a.judgeBound(h, no)
	}
}

type refuse func(c code, forGood bool, format string, args ...any) *refusal

// judgeGathering judges a meeting as a node that is free to agree.
func (a *agreement) judgeGathering(h hello, no refuse) *refusal {
	theirs := h.Members
	if h.Birth != nil {
		theirs = h.Birth.list()
	}
	if d := differences(a.rec.Node, a.members, h.From, theirs, true); len(d) > 0 {
		return no(codeList, false, "%s and %s have different member lists: %s. Give every node the same cluster block", a.rec.Node, h.From, strings.Join(d, "; "))
	}
	if h.Birth == nil {
		return nil
	}
	if us, _ := h.Birth.member(a.rec.Node); us.NodeID != a.rec.NodeID {
		return no(codeNodeID, false, "%s knows %s by the ID %s, and its data folder holds %s: it was emptied or replaced", h.From, a.rec.Node, shortID(us.NodeID), shortID(a.rec.NodeID))
	}
	return nil
}

// judgeBound judges as a node that is locked or born, by its certificate.
func (a *agreement) judgeBound(h hello, no refuse) *refusal {
	ours := a.rec.Birth
	if a.rec.Phase == born && h.Phase == born && h.ClusterID == ours.ID {
		return a.judgeMember(h, no)
	}
	m, ok := ours.member(h.From)
	if !ok {
		return no(codeStranger, true, "%s isn't in the birth certificate %s of the cluster %q", h.From, shortID(ours.ID), ours.Cluster)
	}
	if h.Phase != gathering && h.ClusterID != ours.ID {
		return no(codeBirth, true, "the data folder of %s belongs to the cluster %q born as %s, that of %s to %q born as %s: %s", h.From, h.Cluster, shortID(h.ClusterID), a.rec.Node, ours.Cluster, shortID(ours.ID), a.remedy())
	}
	if h.NodeID != m.NodeID {
		return no(codeNodeID, true, "%s was born in this cluster with the ID %s and now presents %s: its data folder was emptied or replaced; %s", h.From, shortID(m.NodeID), shortID(h.NodeID), a.remedy())
	}
	if h.Phase != gathering {
		if h.Kind != kindMeet && h.Phase != born {
			return no(codeUnborn, false, "%s isn't born yet: it waits to meet all members", h.From)
		}
		return nil
	}
	if d := differences(a.rec.Node, ours.list(), h.From, h.Members, true); len(d) > 0 {
		return no(codeList, true, "%s has agreed to the birth of the cluster with another member list than that of %s: %s. Give every node the list of %s", a.rec.Node, h.From, strings.Join(d, "; "), a.rec.Node)
	}
	return nil
}

// remedy tells a person what to do about a node the certificate rules out.
func (a *agreement) remedy() string {
	if a.rec.Phase == born {
		return remedyBorn
	}
	return remedyUnborn
}

// joins reports whether a node that is free finds with h a cluster that it could
// only be added to: it had no part in the birth.
func (a *agreement) joins(h hello) bool {
	if h.Phase != born || h.Roster == nil {
		return false
	}
	m, ok := h.Birth.member(a.rec.Node)
	return !ok || m.NodeID != a.rec.NodeID
}

func (a *agreement) listed(name string) bool {
	_, ok := a.listedAs(name)
	return ok
}

func (a *agreement) names() string {
	names := make([]string, len(a.members))
	for i, m := range a.members {
		names[i] = m.Name
	}
	return strings.Join(names, ", ")
}
