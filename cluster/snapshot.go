package cluster

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// A snapshot is: magic, format (1 byte), CRC-32C of the rest (4 bytes, big
// endian), State as protobuf. raft's file store has a checksum of its own;
// this one also covers the way over the network. The format says whether a had
// from before there were levels can go on from it.
const (
	snapshotMagic   = "had-state"
	snapshotFormat  = 1
	snapshotLeveled = 2 // the state's level is above the first
	snapshotHeader  = len(snapshotMagic) + 1 + 4
)

// ErrDamagedSnapshot is returned for bytes that are not a whole snapshot.
var ErrDamagedSnapshot = errors.New("the snapshot is damaged")

// Encode returns the state as snapshot bytes; equal states give equal bytes.
func (s *State) Encode() ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.message())
	if err != nil {
		return nil, fmt.Errorf("encode the state: %w", err)
	}
	out := make([]byte, 0, snapshotHeader+len(body))
	out = append(out, snapshotMagic...)
	if s.levelInForce() > level.First {
		out = append(out, snapshotLeveled)
	} else {
		out = append(out, snapshotFormat)
	}
	out = binary.BigEndian.AppendUint32(out, crcOf(body))
	return append(out, body...), nil
}

// DecodeState reads what Encode wrote.
func DecodeState(data []byte) (*State, error) {
	if len(data) < snapshotHeader || string(data[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: it doesn't begin as one", ErrDamagedSnapshot)
	}
	if f := data[len(snapshotMagic)]; f != snapshotFormat && f != snapshotLeveled {
		return nil, fmt.Errorf("%w or from a newer had: format %d, this version reads %d and %d", ErrDamagedSnapshot, f, snapshotFormat, snapshotLeveled)
	}
	body := data[snapshotHeader:]
	if binary.BigEndian.Uint32(data[len(snapshotMagic)+1:]) != crcOf(body) {
		return nil, fmt.Errorf("%w: its checksum doesn't match", ErrDamagedSnapshot)
	}
	m := new(hadv1.State)
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedSnapshot, err)
	}
	if err := tooOld(m.GetLevel().GetRise()); err != nil {
		return nil, fmt.Errorf("take over a snapshot: %w", err)
	}
	return stateFrom(m), nil
}

// Saved returns the state applied here, with its history, as a snapshot holds it.
// It is to be read only.
func (n *Node) Saved() *hadv1.State { return n.fsm.saved() }

func (s *State) message() *hadv1.State {
	m := &hadv1.State{
		AppliedIndex: s.applied, Birth: s.birth, Policy: s.policy, Open: s.open,
		LastEpoch: s.lastEpoch, LastOwner: s.lastOwner, Move: s.move, LastMove: s.lastMove,
		History: s.history, EventsDropped: s.dropped, DoubtedEpoch: s.doubted,
		Tokens: s.tokens, Notify: s.notify, Syncs: s.syncs,
		Frozen: s.frozen, Failing: s.failing, Failovers: s.failovers, Held: s.held,
		EarlierPolicies: s.earlier, PolicyTrial: s.trial,
		Level: s.level,
	}
	if len(s.roster.GetDeparted()) > 0 || s.roster.GetIndex() != 0 {
		m.Roster = s.roster // otherwise it is the birth's, which every version knows
	}
	for _, n := range s.nodes {
		m.Nodes = append(m.Nodes, n)
	}
	slices.SortFunc(m.Nodes, func(a, b *hadv1.NodeRecord) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, node := range slices.Sorted(maps.Keys(s.drained)) {
		m.Drained = append(m.Drained, s.drained[node])
	}
	for k, seq := range s.delivered {
		m.Delivered = append(m.Delivered, &hadv1.DeliveredStream{NodeId: k.nodeID, Stream: k.stream, Seq: seq})
	}
	slices.SortFunc(m.Delivered, func(a, b *hadv1.DeliveredStream) int {
		return cmp.Or(cmp.Compare(a.GetNodeId(), b.GetNodeId()), cmp.Compare(a.GetStream(), b.GetStream()))
	})
	return m
}

func stateFrom(m *hadv1.State) *State {
	s := NewState()
	s.applied, s.birth, s.policy, s.open = m.GetAppliedIndex(), m.GetBirth(), m.GetPolicy(), m.GetOpen()
	if s.roster = m.GetRoster(); s.roster == nil && s.birth != nil {
		s.roster = bornRoster(s.birth) // it is of a version that knew no other members
	}
	s.lastEpoch, s.lastOwner, s.move, s.lastMove = m.GetLastEpoch(), m.GetLastOwner(), m.GetMove(), m.GetLastMove()
	s.history, s.dropped, s.doubted = m.GetHistory(), m.GetEventsDropped(), m.GetDoubtedEpoch()
	s.tokens, s.notify, s.syncs = m.GetTokens(), m.GetNotify(), m.GetSyncs()
	s.frozen, s.failing, s.failovers, s.held = m.GetFrozen(), m.GetFailing(), m.GetFailovers(), m.GetHeld()
	s.earlier, s.trial = m.GetEarlierPolicies(), m.GetPolicyTrial()
	s.level = m.GetLevel()
	for _, d := range m.GetDrained() {
		s.drained[d.GetNode()] = d
	}
	for _, n := range m.GetNodes() {
		s.nodes[n.GetName()] = n
	}
	for _, d := range m.GetDelivered() {
		s.delivered[streamKey{d.GetNodeId(), d.GetStream()}] = d.GetSeq()
	}
	return s
}
