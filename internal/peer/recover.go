package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Recovery is the part of a certificate that makes it one of a later generation:
// a cluster whose majority was lost goes on without it, as another cluster of the
// same name. Whoever belongs to an earlier generation is refused, so what is left
// of that can neither join nor be joined.
type Recovery struct {
	Former []string     `json:"former"` // IDs of the certificates before, oldest first; the first is the birth's
	At     time.Time    `json:"at"`     // shown to people
	Lost   []BornMember `json:"lost"`   // whom it goes on without, sorted by name
	// Draw is random: two recoveries of the same folder, for instance of a copy,
	// are two clusters.
	Draw string `json:"draw"`
}

// Generation counts from 1, the birth.
func (b Birth) Generation() int { return 1 + len(b.former()) }

// Origin is the ID of the certificate that the cluster was born with. What lies
// outside the data folders, in a kernel or on a shared disk, is known by it.
func (b Birth) Origin() string {
	if f := b.former(); len(f) > 0 {
		return f[0]
	}
	return b.ID
}

// RaftFolder is the name of raft's folder within the data folder. Each generation
// has its own, so that replacing identity.json is all it takes to go over to the
// next.
func (b Birth) RaftFolder() string {
	if g := b.Generation(); g > 1 {
		return fmt.Sprintf("raft-%d", g)
	}
	return "raft"
}

func (b Birth) former() []string {
	if b.Recovered == nil {
		return nil
	}
	return b.Recovered.Former
}

// append adds what the digest covers. It may never change, as Birth.digest.
func (r *Recovery) append(buf []byte) []byte {
	str := func(s string) {
		buf = binary.AppendUvarint(buf, uint64(len(s)))
		buf = append(buf, s...)
	}
	str("recovered")
	buf = binary.AppendUvarint(buf, uint64(len(r.Former)))
	for _, id := range r.Former {
		str(id)
	}
	str(r.At.UTC().Format(time.RFC3339))
	for _, m := range r.Lost {
		str(m.Name)
		str(m.NodeID)
	}
	str(r.Draw)
	return buf
}

func (r *Recovery) check() error {
	if len(r.Former) == 0 || !validID(r.Draw) {
		return errors.New("certificate of a recovery doesn't say of what")
	}
	for _, id := range r.Former {
		if !validID(id) {
			return fmt.Errorf("certificate of a recovery names a former one %.40q; want 32 hex digits", id)
		}
	}
	return nil
}

// Survivor is the identity of a node whose cluster has lost its majority, while
// had is stopped.
type Survivor struct {
	dir   string
	rec   record
	write func(path string, data []byte) error // as Identity's
}

// OpenSurvivor reads the identity in a data folder. The member list of had.hcl
// isn't held against it: it is about to change. It fails, and changes nothing,
// for a folder that is another's, damaged, or has never been part of a cluster.
func OpenSurvivor(dir, cluster, self string) (*Survivor, error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read this node's identity: %w", err)
	}
	r, err := decodeRecord(data)
	if err != nil {
		return nil, fmt.Errorf("read this node's identity from %s: %w", path, err)
	}
	if err := checkOwner(r, dir, cluster, self); err != nil {
		return nil, err
	}
	if r.Ended != nil {
		return nil, fmt.Errorf("open the data folder %s: %w by %s on %s: %s", dir, ErrRefusedForGood, r.Ended.By, r.Ended.At.Format(time.RFC3339), r.Ended.Sentence)
	}
	if r.Phase != born || !r.RaftStarted {
		return nil, fmt.Errorf("open the data folder %s: the cluster %q was never born here, so there is nothing to recover: stop had everywhere, empty every node's data folder and start them together", dir, cluster)
	}
	return &Survivor{dir: dir, rec: r, write: writeFileAtomic}, nil
}

// Birth is the certificate in force.
func (s *Survivor) Birth() Birth { return s.rec.Birth.clone() }

// NodeID is the ID of the data folder, which it keeps.
func (s *Survivor) NodeID() string { return s.rec.NodeID }

// Next is the certificate of the generation that follows: this node alone.
func (s *Survivor) Next(self Member, lost []BornMember, at time.Time) Birth {
	before := s.rec.Birth
	r := &Recovery{Former: append(slices.Clone(before.former()), before.ID), At: at.UTC().Truncate(time.Second), Draw: newNodeID()}
	r.Lost = slices.SortedFunc(slices.Values(lost), func(x, y BornMember) int { return strings.Compare(x.Name, y.Name) })
	b := Birth{Cluster: before.Cluster, Members: []BornMember{{Member: self, NodeID: s.rec.NodeID}}, Recovered: r}
	b.ID = b.digest()
	return b
}

// Adopt makes a certificate of Next the one in force. It is the one step that
// takes this node from its old cluster to the new one: before it nothing that the
// old one needs may be gone, and all that the new one needs must be durable.
func (s *Survivor) Adopt(next Birth) error {
	r := s.rec
	r.Birth = &next
	if err := r.check(); err != nil {
		return err
	}
	data, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if err := s.write(filepath.Join(s.dir, identityFile), data); err != nil {
		return fmt.Errorf("record this node's identity: %w", err)
	}
	s.rec = r
	return nil
}

// stale is why a node that says h can't be talked to if one of the two belongs to
// an earlier generation of the other's cluster; nil: neither does.
func (a *agreement) stale(h hello, no refuse) *refusal {
	if a.rec.Phase != born || h.Phase == gathering || h.ClusterID == a.rec.Birth.ID {
		return nil
	}
	switch ours := a.rec.Birth; {
	case slices.Contains(ours.former(), h.ClusterID):
		return no(codeFormer, true, "%s", overtaken(h.From, a.rec.Node, ours.Cluster, ours.Generation()))
	case slices.Contains(h.Former, ours.ID):
		return no(codeLater, false, "%s", overtaken(a.rec.Node, h.From, ours.Cluster, 1+len(h.Former)))
	}
	return nil
}

// overtaken says what has become of a node that was left behind.
func overtaken(old, survivor, cluster string, generation int) string {
	return fmt.Sprintf("%.80q belongs to the cluster %q as it was before it was recovered on %.80q without %[1]q: it may own nothing and gets no vote. "+
		"Stop had on %[1]s, empty its data folder, and add it to the recovered cluster (generation %[4]d) as a new node: docs/disaster.md", old, cluster, survivor, generation)
}

// ending is the word by which a node learned that its cluster has gone on without
// it.
type ending struct {
	By       string    `json:"by"`
	Sentence string    `json:"sentence"`
	At       time.Time `json:"at"`
}

// endWith keeps the word for good: the next start must not need to hear it again.
// A process beside the daemon leaves that to it.
func (id *Identity) endWith(by, sentence string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	r := id.agreement.rec
	if r.Ended != nil || !id.keeps {
		return nil
	}
	r.Ended = &ending{By: by, Sentence: sentence, At: time.Now().UTC().Truncate(time.Second)}
	return id.save(r)
}
