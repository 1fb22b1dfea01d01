package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Identity is who this node is: its data folder's ID, and the birth
// certificate it is bound to. It may be used by several goroutines.
type Identity struct {
	dir   string
	write func(path string, data []byte) error // writeFileAtomic; the seam for crash tests
	keeps bool                                 // this process is the one that writes the file

	mu        sync.Mutex
	agreement agreement
}

const identityFile = "identity.json"

// OpenIdentity opens the identity of the node self in the data folder dir. On
// a node's first start it creates the folder (mode 0700) and draws the node
// ID. The members are had.hcl's whole list, with self.
//
// It returns an error, and changes nothing, when identity.json is damaged or
// missing from a folder that is in use, when the folder is another cluster's
// or another node's, and when the members' names or roles aren't those of the
// birth certificate. Addresses may change after the birth.
func OpenIdentity(dir, cluster, self string, members []Member) (*Identity, error) {
	id, err := ReadIdentity(dir, cluster, self, members)
	if err == nil {
		id.keeps = true
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	if err := checkUnused(dir); err != nil {
		return nil, err
	}
	id = newIdentity(dir, members)
	id.keeps = true
	r := record{Cluster: cluster, Node: self, NodeID: newNodeID(), Phase: gathering}
	if err := id.save(r); err != nil {
		return nil, err
	}
	return id, nil
}

// ReadIdentity is OpenIdentity for a process beside the daemon: it changes
// nothing, and fails with fs.ErrNotExist where there is no identity yet. What
// the daemon records afterwards, such as the birth, it doesn't see.
func ReadIdentity(dir, cluster, self string, members []Member) (*Identity, error) {
	if err := checkMembers(cluster, self, members); err != nil {
		return nil, err
	}
	id := newIdentity(dir, members)
	data, err := os.ReadFile(id.path())
	if err != nil {
		return nil, fmt.Errorf("read this node's identity: %w", err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return nil, fmt.Errorf("read this node's identity from %s: %w. It was left as it is: put a copy back that was made since the cluster's birth", id.path(), err)
	}
	if err := checkRecord(r, dir, cluster, self, members); err != nil {
		return nil, err
	}
	id.agreement.adopt(r)
	return id, nil
}

func newIdentity(dir string, members []Member) *Identity {
	return &Identity{dir: dir, write: writeFileAtomic, agreement: agreement{members: slices.Clone(members)}}
}

// checkMembers returns an error for a list no cluster can be born from.
func checkMembers(cluster, self string, members []Member) error {
	if cluster == "" {
		return errors.New("open this node's identity: the cluster has no name")
	}
	names := make(map[string]bool)
	for _, m := range members {
		if m.Name == "" || m.Address == "" {
			return fmt.Errorf("open this node's identity: the member %q at %q lacks a name or an address", m.Name, m.Address)
		}
		if names[m.Name] {
			return fmt.Errorf("open this node's identity: two members are called %q", m.Name)
		}
		names[m.Name] = true
	}
	if !names[self] {
		return fmt.Errorf("open this node's identity: this node, %q, isn't in the member list", self)
	}
	return checkFits(cluster, self, members)
}

// checkUnused returns an error when dir, which has no identity, holds other
// files: it was in use, and a new identity would make this node a stranger
// with an old log.
func checkUnused(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the data folder: %w", err)
	}
	var found []string
	for _, e := range entries {
		if n := e.Name(); n != "lost+found" && !strings.HasPrefix(n, tempPrefix) {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("open the data folder %s: it holds %s and no %s, so it was in use and its identity is lost: put its own %[3]s back (emptied, this node would be a stranger to the others: docs/operations.md)",
		dir, strings.Join(found[:min(3, len(found))], ", "), identityFile)
}

// checkRecord returns an error when the folder's record isn't about this node
// as had.hcl describes it.
func checkRecord(r record, dir, cluster, self string, members []Member) error {
	if err := checkOwner(r, dir, cluster, self); err != nil {
		return err
	}
	if r.Ended != nil {
		return fmt.Errorf("open the data folder %s: %w by %s on %s: %s", dir, ErrRefusedForGood, r.Ended.By, r.Ended.At.Format(time.RFC3339), r.Ended.Sentence)
	}
	if r.Birth == nil {
		return nil
	}
	if r.Phase == born {
		return checkRole(r, dir, members)
	}
	if d := differences("the birth certificate", r.Birth.list(), "had.hcl", members, false); len(d) > 0 {
		return fmt.Errorf("open the data folder %s: had.hcl doesn't list the members the cluster was born with: %s. Put the old list back; only addresses may change", dir, strings.Join(d, "; "))
	}
	return nil
}

// checkOwner returns an error when the folder's record is another node's.
func checkOwner(r record, dir, cluster, self string) error {
	if r.Cluster != cluster {
		return fmt.Errorf("open the data folder %s: it belongs to the cluster %q, and had.hcl describes %q: set `data_dir` to the right folder", dir, r.Cluster, cluster)
	}
	if r.Node != self {
		return fmt.Errorf("open the data folder %s: it belongs to the node %q, and this is %q: check `node` and `data_dir` in had.hcl, and the host name", dir, r.Node, self)
	}
	return nil
}

// checkRole returns an error when had.hcl makes this node another kind of member
// than it is. Of the others the cluster knows by itself.
func checkRole(r record, dir string, members []Member) error {
	is, _ := r.roster().member(r.Node)
	for _, m := range members {
		if m.Name == r.Node && m.Witness != is.Witness {
			return fmt.Errorf("open the data folder %s: had.hcl makes %s a %s, and it is a member as a %s: put had.hcl right, or remove the node from the cluster and add it again", dir, r.Node, role(m), role(is.Member))
		}
	}
	return nil
}

// checkFits returns an error when a preamble with this member list would be
// too long to send.
func checkFits(cluster, self string, members []Member) error {
	id := strings.Repeat("0", 2*idBytes)
	ms := make([]BornMember, len(members))
	for i, m := range members {
		ms[i] = BornMember{Member: m, NodeID: id}
	}
	b := newBirth(cluster, ms)
	r := Roster{ClusterID: b.ID, Members: ms}
	a := agreement{rec: record{Cluster: cluster, Node: self, NodeID: id, Phase: born, Birth: &b, Roster: &r}, members: members}
	reserve := &refusal{Sentence: strings.Repeat("x", maxSentence)}
	if err := writeFrame(discard{}, answer{Refused: reserve, Hello: a.hello(kindMeet, self)}); err != nil {
		return fmt.Errorf("open this node's identity: %w", err)
	}
	return nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (id *Identity) path() string { return filepath.Join(id.dir, identityFile) }

// save makes r durable and adopts it. After an error the file holds either
// record; this process goes on with the one it had.
func (id *Identity) save(r record) error {
	data, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if err := id.write(id.path(), data); err != nil {
		return fmt.Errorf("record this node's identity: %w", err)
	}
	id.agreement.adopt(r)
	return nil
}

// NodeID returns the ID of this node's data folder, 32 hex digits.
func (id *Identity) NodeID() string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.rec.NodeID
}

// Name returns this node's name.
func (id *Identity) Name() string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.rec.Node
}

// Cluster returns the cluster's name.
func (id *Identity) Cluster() string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.rec.Cluster
}

// Birth returns the certificate the cluster was born with; false before the
// birth is complete.
func (id *Identity) Birth() (Birth, bool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	r := id.agreement.rec
	if r.Phase != born {
		return Birth{}, false
	}
	return r.Birth.clone(), true
}

// MarkRaftStarted records durably that raft's files exist in this data folder.
// The daemon calls it after it has created them and before raft may vote.
func (id *Identity) MarkRaftStarted() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	r := id.agreement.rec
	if r.Phase != born {
		return errors.New("record that raft was started: the cluster isn't born yet")
	}
	if r.RaftStarted {
		return nil
	}
	r.RaftStarted = true
	return id.save(r)
}

// RaftStarted reports whether MarkRaftStarted has ever succeeded. If so and
// raft's files are missing, somebody deleted them: the node has forgotten its
// votes and must not start.
func (id *Identity) RaftStarted() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.rec.RaftStarted
}

// member returns how to reach the node called name.
func (id *Identity) member(name string) (BornMember, bool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.peerNamed(name)
}

// others returns the other members: had.hcl's until the cluster is born.
func (id *Identity) others() []Member {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.peers()
}

// Others returns the names of the other members.
func (id *Identity) Others() (names []string) {
	for _, m := range id.others() {
		names = append(names, m.Name)
	}
	return names
}

func (id *Identity) hello(k kind, to, version string) hello {
	id.mu.Lock()
	defer id.mu.Unlock()
	h := id.agreement.hello(k, to)
	h.Had = version
	return h
}

func (id *Identity) judge(h hello) *refusal {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.judge(h)
}

func (id *Identity) outdated(no *refusal) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.outdated(no)
}

// hear judges like judge and, in the same step, notes what an acceptable
// member said of itself.
func (id *Identity) hear(h hello) *refusal {
	id.mu.Lock()
	defer id.mu.Unlock()
	if no := id.agreement.judge(h); no != nil {
		return no
	}
	id.agreement.hear(h, time.Now())
	return nil
}

// advance takes the next durable step towards birth, if one is due, and
// returns the phase reached.
func (id *Identity) advance() (now phase, moved bool, err error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if r, ok := id.agreement.next(time.Now()); ok {
		if err := id.save(r); err != nil {
			return id.agreement.rec.Phase, false, err
		}
		moved = true
	}
	return id.agreement.rec.Phase, moved, nil
}

func (id *Identity) phase() phase {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.agreement.rec.Phase
}

// confirmed reports whether the member was heard to have locked this node's
// certificate, or to gather like this node.
func (id *Identity) confirmed(name string) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.agreement.rec.Phase == gathering {
		c, ok := id.agreement.claims[name]
		return ok && time.Since(c.at) <= claimFresh
	}
	return id.agreement.lockedWithUs(name)
}
