package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"had/cluster"
	"had/internal/durable"
	"had/internal/guard"
	"had/internal/journal"
	"had/internal/peer"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Recovery takes a node whose cluster has lost its majority for ever on as the
// only member of the cluster's next generation. The daemon is stopped, and kept
// from starting until Close.
type Recovery struct {
	cfg      Config
	at       time.Time
	journal  *journal.Journal
	survivor *peer.Survivor
	remains  *cluster.Remains
	lost     []*hadv1.Member
	leaving  bool
	grace    time.Duration

	step func(name string) // is told of each step before it is taken; for tests
}

// Loss is what a recovery finds and would do.
type Loss struct {
	Remains    *cluster.Remains
	Generation int             // that would begin
	Lost       []*hadv1.Member // every other member
	Wait       time.Duration   // after the start of had, before it owns
	Backup     string          // where a copy of the data folder would be
	Witness    bool            // this node is one by had.hcl, and can't be one alone
	Leaving    bool            // this node was being removed
}

// scratch is a folder in the data folder with a copy of raft's: reading it
// completes what a crash has left half done.
const scratch = "recovery"

// OpenRecovery reads what this node has of its cluster, and changes nothing of it.
// It fails while had runs, and where there is nothing to recover.
func OpenRecovery(cfg Config) (_ *Recovery, err error) {
	f := cfg.File
	r := &Recovery{cfg: cfg, at: time.Now().UTC().Truncate(time.Second), step: func(string) {}}
	if r.survivor, err = peer.OpenSurvivor(f.DataDir, f.Cluster, f.Node); err != nil {
		return nil, err
	}
	if r.journal, err = journal.Open(filepath.Join(f.DataDir, "journal.db"), r.survivor.NodeID()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	birth := r.survivor.Birth()
	copied := filepath.Join(f.DataDir, scratch)
	if err := os.RemoveAll(copied); err != nil {
		return nil, fmt.Errorf("remove what an earlier attempt has left: %w", err)
	}
	folder := filepath.Join(f.DataDir, birth.RaftFolder())
	if err := cluster.CheckStorage(folder); err != nil {
		return nil, err
	}
	err = durable.CopyDir(copied, folder)
	if err == nil {
		r.remains, err = cluster.ReadRemains(copied)
	}
	if err := errors.Join(err, os.RemoveAll(copied)); err != nil {
		return nil, fmt.Errorf("read what this node has of the cluster: %w", err)
	}
	members := r.remains.View().Roster.GetMembers()
	if r.leaving, err = stillMember(f, r.survivor.NodeID(), members); err != nil {
		return nil, err
	}
	if r.lost = others(r.survivor.NodeID(), members, birth, f.Members); len(r.lost) == 0 {
		return nil, fmt.Errorf("%s is the only member of the cluster %q (generation %d): it needs nobody else; start had", f.Node, f.Cluster, birth.Generation())
	}
	if p, _ := policy.ParsePolicy("policy.hcl", []byte(r.remains.View().Policy.GetText())); p != nil {
		r.grace = p.ReleaseGrace
	}
	return r, nil
}

// stillMember returns an error for a node that was removed, and reports whether it was
// being removed: a node never reads that its removal is complete, for it is no member
// by then.
func stillMember(f *policy.NodeFile, nodeID string, members []*hadv1.Member) (leaving bool, err error) {
	i := slices.IndexFunc(members, func(m *hadv1.Member) bool { return m.GetNodeId() == nodeID })
	if i < 0 {
		return false, fmt.Errorf("%s was removed from the cluster %q: nothing of it may go on here; empty its data folder", f.Node, f.Cluster)
	}
	return members[i].GetStanding() == hadv1.Member_STANDING_LEAVING, nil
}

// Close lets the daemon start again.
func (r *Recovery) Close() error { return r.journal.Close() }

// others are all members but the one with this node ID, as the log has them; the
// addresses of those that were there at the birth are had.hcl's where that lists them.
func others(nodeID string, members []*hadv1.Member, birth peer.Birth, listed []policy.Member) (lost []*hadv1.Member) {
	for _, is := range members {
		if is.GetNodeId() == nodeID {
			continue
		}
		m := &hadv1.Member{Name: is.GetName(), Address: is.GetAddress(), Witness: is.GetWitness(), NodeId: is.GetNodeId()}
		sinceBirth := slices.ContainsFunc(birth.Members, func(b peer.BornMember) bool { return b.NodeID == m.GetNodeId() })
		for _, f := range listed {
			if sinceBirth && f.Name == m.GetName() {
				m.Address = f.Address
			}
		}
		lost = append(lost, m)
	}
	return lost
}

// Loss says what was found and what Run would do.
func (r *Recovery) Loss() Loss {
	generation := r.survivor.Birth().Generation() + 1
	return Loss{
		Remains: r.remains, Generation: generation, Lost: r.lost, Witness: r.cfg.File.Self().Witness, Leaving: r.leaving,
		Wait:   cluster.UnknownWait(r.grace),
		Backup: fmt.Sprintf("%s.before-generation-%d-%s", filepath.Clean(r.cfg.File.DataDir), generation, r.at.Format("20060102T150405Z")),
	}
}

// answerLimit is how long a node may take to answer that is said to be lost.
const answerLimit = 2 * time.Second

// Answering names the lost nodes at whose address somebody takes connections: they
// aren't lost.
func (r *Recovery) Answering(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	alive := make([]bool, len(r.lost))
	var wg sync.WaitGroup
	for i, m := range r.lost {
		wg.Go(func() {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", m.GetAddress())
			if alive[i] = err == nil; alive[i] {
				_ = c.Close() // it was only to know
			}
		})
	}
	wg.Wait()
	for i, m := range r.lost {
		if alive[i] {
			names = append(names, fmt.Sprintf("%s (%s)", m.GetName(), m.GetAddress()))
		}
	}
	return names
}

// Run recovers. The caller has been told that each lost node is off for good. by
// and reason are kept in the history. It may be killed at any instant: until Adopt
// has replaced identity.json this node is one of its old cluster, and needs nothing
// that was touched; from then on it is the next generation, of which all is there.
func (r *Recovery) Run(ctx context.Context, by, reason string) error {
	f := r.cfg.File
	if names := r.Answering(ctx); len(names) > 0 {
		return fmt.Errorf("recover %s without %s: something answers there, so it isn't lost: stop had on it, or start had here and let them work together; nothing was changed", f.Cluster, strings.Join(names, ", "))
	}
	// What the guard of an earlier run has yet to say or to write comes before.
	if _, err := guard.Settle(ctx, f.DataDir); err != nil {
		return err
	}
	before, loss := r.survivor.Birth(), r.Loss()
	next := r.survivor.Next(peer.Member{Name: f.Node, Address: f.Self().Address}, bornMembers(r.lost), r.at)
	folder := filepath.Join(f.DataDir, next.RaftFolder())
	stream, seq := r.journal.Delivered()
	rec := cluster.Recovery{
		Birth: birthRecord(next), At: r.at, Grace: r.grace,
		Recovered: &hadv1.Recovered{
			ClusterId: next.ID, FormerId: before.ID, Generation: uint32(loss.Generation), //nolint:gosec // a handful
			Node: f.Node, Lost: r.lost, LastIndex: r.remains.LastIndex, By: by, Reason: reason,
		},
		Delivered: &hadv1.DeliveredStream{NodeId: r.survivor.NodeID(), Stream: stream, Seq: seq},
	}
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"copy the data folder", func() error { return durable.CopyDir(loss.Backup+".partial", f.DataDir) }},
		{"name the copy", func() error { return os.Rename(loss.Backup+".partial", loss.Backup) }},
		{"remove what an earlier attempt has left", func() error { return os.RemoveAll(folder) }},
		{"write the next generation's log", func() error { return r.remains.Write(folder, rec) }},
		{"read it again", func() error { return rereads(folder, rec) }},
		{"make it the one in force", func() error { return r.survivor.Adopt(next) }},
		{"remove the former log", func() error { return os.RemoveAll(filepath.Join(f.DataDir, before.RaftFolder())) }},
	} {
		r.step(s.name)
		if err := s.do(); err != nil {
			return fmt.Errorf("recover %s: %s: %w", f.Cluster, s.name, err)
		}
	}
	r.step("done")
	return nil
}

// rereads makes sure that what was written is what was meant.
func rereads(folder string, rec cluster.Recovery) error {
	got, err := cluster.ReadRemains(folder)
	if err != nil {
		return err
	}
	if id := got.View().Birth.GetClusterId(); id != rec.Birth.GetClusterId() || len(got.Voters) != 1 {
		return fmt.Errorf("it is of cluster %s with %d voters; wanted %s with 1", id, len(got.Voters), rec.Birth.GetClusterId())
	}
	return nil
}

func bornMembers(members []*hadv1.Member) (born []peer.BornMember) {
	for _, m := range members {
		born = append(born, peer.BornMember{Member: peer.Member{Name: m.GetName(), Address: m.GetAddress(), Witness: m.GetWitness()}, NodeID: m.GetNodeId()})
	}
	return born
}

// birthRecord is a certificate as the log has it.
func birthRecord(b peer.Birth) *hadv1.Birth {
	r := &hadv1.Birth{Cluster: b.Cluster, ClusterId: b.ID}
	for _, m := range b.Members {
		r.Members = append(r.Members, &hadv1.Member{Name: m.Name, Address: m.Address, Witness: m.Witness, NodeId: m.NodeID})
	}
	if b.Recovered != nil {
		r.Former = b.Recovered.Former
	}
	return r
}
