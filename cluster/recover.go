package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/durable"
	hadv1 "had/proto/had/v1"
)

// EpochGap is how many log entries, and so epochs, are left out where a generation
// of a cluster begins: what the lost majority may have agreed on after the
// survivor's log ended stays below. At four entries a second it is eight years,
// and the epochs of a reservation key have room for 34 of them.
const EpochGap = 1_000_000_000

// longestDetect is what had.hcl allows (internal/policy), and so what an epoch
// that the survivor knows nothing of may have promised.
const longestDetect = 10 * time.Second

// Remains is what the raft folder of a node that is stopped has of its cluster:
// the latest snapshot and every entry after it, committed or not. What had been
// committed is all among it if this node's vote was needed for it, and a part of
// it otherwise; an entry that never was committed does no harm there, for none
// claims that somebody let go who hadn't.
type Remains struct {
	LastIndex uint64
	LastTerm  uint64
	LastAt    time.Time // when the last entry was appended here, by the wall clock; zero: not known
	Voters    []Voter   // by raft's latest configuration

	term  uint64 // that this node has seen; no log entry has a later one
	state *State
}

// Voter is a member by raft's configuration.
type Voter struct {
	Name, NodeID string
	Votes        bool // false: it was being added or removed
}

// ReadRemains reads a raft folder that nobody uses. Opening it completes what a
// crash has left half done, so it is for a copy.
func ReadRemains(dir string) (r *Remains, err error) {
	s, err := OpenStorage(dir, io.Discard)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r = &Remains{}
	if r.term, err = s.Stable.GetUint64([]byte(keyCurrentTerm)); err != nil && !errors.Is(err, errNotFound) {
		return nil, fmt.Errorf("read this node's term: %w", err)
	}
	var broken error
	f := newFSM(func() {}, func(err error) { broken = cmp.Or(broken, err) })
	members, err := r.readSnapshot(s.Snapshots, f)
	if err != nil {
		return nil, err
	}
	if members, err = r.readLog(s.Log, f, members); err != nil {
		return nil, err
	}
	if broken != nil {
		return nil, broken
	}
	if r.LastIndex == 0 || f.state.birth == nil {
		return nil, errors.New("read this node's log: it has no record of the cluster's birth; this node was never part of a working cluster")
	}
	for _, m := range members.Servers {
		r.Voters = append(r.Voters, Voter{Name: string(m.Address), NodeID: string(m.ID), Votes: m.Suffrage == raft.Voter})
	}
	r.term, r.state = max(r.term, r.LastTerm), f.state
	return r, nil
}

func (r *Remains) readSnapshot(snaps raft.SnapshotStore, f *fsm) (members raft.Configuration, err error) {
	all, err := snaps.List() // newest first, without damaged ones
	if err != nil || len(all) == 0 {
		return members, err
	}
	meta, content, err := snaps.Open(all[0].ID)
	if err != nil {
		return members, err
	}
	if err := f.Restore(content); err != nil {
		return members, fmt.Errorf("read snapshot %s: %w", meta.ID, err)
	}
	r.LastIndex, r.LastTerm = meta.Index, meta.Term
	return meta.Configuration, nil
}

// readLog applies what comes after the snapshot.
func (r *Remains) readLog(store raft.LogStore, f *fsm, members raft.Configuration) (raft.Configuration, error) {
	checked := &checkedLog{LogStore: store, halt: halt{armed: new(atomic.Bool)}}
	last, err := store.LastIndex()
	if err != nil {
		return members, err
	}
	for i := r.LastIndex + 1; i <= last; i++ {
		var l raft.Log
		if err := checked.GetLog(i, &l); err != nil {
			return members, fmt.Errorf("read log entry %d: %w", i, err)
		}
		switch l.Type { // the others are raft's own and change nothing
		case raft.LogCommand:
			f.Apply(&l)
		case raft.LogConfiguration:
			members = raft.DecodeConfiguration(l.Data)
		}
		r.LastIndex, r.LastTerm, r.LastAt = l.Index, l.Term, l.AppendedAt
	}
	return members, nil
}

// View is the state after the last entry.
func (r *Remains) View() View { return r.state.View() }

// NextIndex is the log index at which the next generation begins.
func (r *Remains) NextIndex() uint64 { return r.LastIndex + EpochGap }

// Recovery says how the next generation of a cluster begins.
type Recovery struct {
	Birth     *hadv1.Birth     // its certificate: the survivor alone
	Recovered *hadv1.Recovered // for the history; names who is lost
	At        time.Time
	// Grace is the release grace of the policy in force, which an epoch that the
	// survivor knows nothing of may have had.
	Grace time.Duration
	// Delivered is up to which report of its own the survivor's journal knows the
	// log to have had; the survivor's log may lack the end of that.
	Delivered *hadv1.DeliveredStream
}

// Write makes raft's folder for the next generation, in dir, which must not exist:
// no log, and one snapshot whose state is that of the remains with who is lost
// taken out of it. All of it is on the disk when it returns.
func (r *Remains) Write(dir string, rec Recovery) error {
	index, term := r.NextIndex(), r.term
	state, err := r.next(rec)
	if err != nil {
		return err
	}
	data, err := state.Encode()
	if err != nil {
		return err
	}
	s, err := OpenStorage(dir, io.Discard)
	if err != nil {
		return err
	}
	err = s.Stable.SetUint64([]byte(keyCurrentTerm), term)
	if err == nil {
		err = writeSnapshot(s.Snapshots, index, term, rec.Birth, data)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	if err := errors.Join(durable.SyncDir(filepath.Join(dir, "snapshots")), durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	return nil
}

func writeSnapshot(snaps raft.SnapshotStore, index, term uint64, birth *hadv1.Birth, data []byte) error {
	var members raft.Configuration
	for _, m := range birth.GetMembers() {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(m.GetNodeId()), Address: raft.ServerAddress(m.GetName())})
	}
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, members, index, offline{})
	if err != nil {
		return err
	}
	return snapshotBytes(data).Persist(sink)
}

// offline stands for a transport where raft wants one to write down how a node is
// reached, which is by its name.
type offline struct{ raft.Transport }

// EncodePeer implements raft.Transport.
func (offline) EncodePeer(_ raft.ServerID, name raft.ServerAddress) []byte { return []byte(name) }

// next is the state with which the next generation begins.
//
// Nothing that says who may hold anything goes backwards: epochs go on above all
// that were, and an open one stays open under its own terms. What a person has
// confirmed is written down where evidence belongs, as if with hactl fence
// confirm. And for each lost node that could own, one more epoch is open, which
// stands for any that the survivor's log doesn't know of: it has the longest lease
// that could ever have been agreed on, to be waited out from the start of the
// survivor's had.
func (r *Remains) next(rec Recovery) (*State, error) {
	data, err := r.state.Encode()
	if err != nil {
		return nil, err
	}
	s, err := DecodeState(data) // a copy
	if err != nil {
		return nil, err
	}
	e := Entry{Index: r.NextIndex(), Term: r.term}
	cmd := &hadv1.Command{At: timestamppb.New(rec.At), Proposer: rec.Recovered.GetNode()}
	events := []*hadv1.Event{{Node: rec.Recovered.GetNode(), Body: &hadv1.Event_Recovered{Recovered: rec.Recovered}}}

	witness := s.memberNamed(rec.Recovered.GetNode()).GetWitness()
	s.applied, s.birth = e.Index, rec.Birth
	departed := slices.Clone(s.roster.GetDeparted())
	for _, m := range rec.Recovered.GetLost() {
		departed = append(departed, &hadv1.Departed{Name: m.GetName(), NodeId: m.GetNodeId(), Index: e.Index, At: cmd.GetAt()})
	}
	s.roster = bornRoster(rec.Birth)
	s.roster.Departed = departed
	if s.move != nil {
		events = append(events, s.endMove("the cluster was recovered"))
		s.forgetMove()
	}
	for _, m := range rec.Recovered.GetLost() {
		events = append(events, s.confirmLost(m, rec)...)
	}
	s.keepUnknown(e, cmd, rec)
	if d := rec.Delivered; d != nil {
		key := streamKey{d.GetNodeId(), d.GetStream()}
		s.delivered[key] = max(s.delivered[key], d.GetSeq())
	}
	if witness {
		// It has to be more for as long as it is alone, and shall still own nothing.
		d := &hadv1.Drain{Node: rec.Recovered.GetNode(), By: rec.Recovered.GetBy(), Reason: "it was the witness of the cluster that was recovered"}
		s.drained[d.GetNode()] = d
		events = append(events, &hadv1.Event{Node: d.GetNode(), Body: &hadv1.Event_Drained{Drained: d}})
	}
	s.record(e, cmd, events...)
	return s, nil
}

// confirmLost writes down what was confirmed about a lost node, and forgets what
// only mattered while it was a member.
func (s *State) confirmLost(m *hadv1.Member, rec Recovery) (events []*hadv1.Event) {
	for _, c := range s.open {
		if c.GetInstance().GetNodeId() != m.GetNodeId() || !atRisk(c) {
			continue
		}
		secured := &hadv1.Secured{
			Epoch: c.GetEpoch(), Instance: c.GetInstance(), Kind: hadv1.Secured_KIND_CONFIRMED, By: rec.Recovered.GetBy(),
			Detail:     "when the cluster was recovered without it" + reason(rec.Recovered.GetReason()),
			LeaseIndex: c.GetLastLeaseIndex(), At: timestamppb.New(rec.At),
		}
		changed := proto.CloneOf(c)
		changed.Secured = secured
		s.replaceClaim(changed)
		events = append(events, &hadv1.Event{Node: m.GetName(), Epoch: c.GetEpoch(), Body: &hadv1.Event_Secured{Secured: secured}})
	}
	s.forgetNode(m.GetName())
	return events
}

// keepUnknown opens an epoch for each lost node that could own, in place of any
// that this log doesn't know of.
func (s *State) keepUnknown(e Entry, cmd *hadv1.Command, rec Recovery) {
	var owners []*hadv1.Member
	for _, m := range rec.Recovered.GetLost() {
		if !m.GetWitness() {
			owners = append(owners, m)
		}
	}
	terms := unknownTerms(rec.Grace)
	for i, m := range owners {
		epoch := e.Index - uint64(len(owners)-i) //nolint:gosec // a handful
		s.open = append(s.open, &hadv1.Claim{
			Epoch: epoch, LastLeaseIndex: epoch, Terms: terms, At: cmd.GetAt(),
			Instance: &hadv1.Instance{Node: m.GetName(), NodeId: m.GetNodeId(), BootId: "unknown", Nonce: "unknown"},
			Cause:    "it stands for what the survivor's log may not know of " + m.GetName(),
		})
		// A file system that protects itself against a second host is worth its time.
		s.lastEpoch, s.doubted = epoch, epoch
	}
}

// unknownTerms are the longest that an epoch may have had.
func unknownTerms(grace time.Duration) *hadv1.Terms {
	t := TimingFor(longestDetect).Terms(LayerLifetime)
	t.ReleaseGraceNs = int64(grace)
	return t
}

// UnknownWait is how long the survivor waits, from the start of had, for epochs of
// lost nodes that its log may not know of.
func UnknownWait(grace time.Duration) time.Duration { return TakeoverWait(unknownTerms(grace)) }

func reason(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
