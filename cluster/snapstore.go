package cluster

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// checkedSnapshots wraps raft's file store, which has a checksum over a
// snapshot's content and none over what is said about it in meta.json: a
// flipped digit there would place the content at another log index, and this
// node would skip entries or apply some twice. So the content begins with a
// checksum of its place and membership. Nobody above sees it: Open and List
// tell of a snapshot without it.
type checkedSnapshots struct {
	raft.SnapshotStore
}

const placeSize = 4 // CRC-32C, big endian

// placeCRC covers what raft acts on in a meta.json, but the size and the ID,
// which are known without it.
func placeCRC(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64) ([]byte, error) {
	list, err := json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("encode the snapshot's members: %w", err)
	}
	var place []byte
	for _, n := range []uint64{uint64(version), index, term, membersIndex} { //nolint:gosec // versions are 0 and 1
		place = binary.BigEndian.AppendUint64(place, n)
	}
	return binary.BigEndian.AppendUint32(nil, crcOf(place, list)), nil
}

// Create implements raft.SnapshotStore.
func (c *checkedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	place, err := placeCRC(version, index, term, members, membersIndex)
	if err != nil {
		return nil, err
	}
	sink, err := c.SnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	if _, err := sink.Write(place); err != nil {
		return nil, errors.Join(fmt.Errorf("write the snapshot's place: %w", err), sink.Cancel())
	}
	return sink, nil
}

// Open implements raft.SnapshotStore. It reads the whole snapshot, a megabyte
// or two at most: raft sends the size that meta says, so it has to be true.
func (c *checkedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, file, err := c.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, nil, fmt.Errorf("read snapshot %s: %w", id, err)
	}
	place, err := placeCRC(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex)
	if err != nil {
		return nil, nil, err
	}
	if meta.ID != id || !bytes.HasPrefix(content, place) {
		return nil, nil, fmt.Errorf("open snapshot %s: %w: its content belongs elsewhere than its meta.json says", id, ErrDamagedSnapshot)
	}
	content = content[placeSize:]
	meta.Size = int64(len(content))
	return meta, io.NopCloser(bytes.NewReader(content)), nil
}

// List implements raft.SnapshotStore. Damaged snapshots are left out: raft
// would go on sending one to a follower that needs it.
func (c *checkedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := c.SnapshotStore.List()
	if err != nil {
		return nil, err
	}
	var whole []*raft.SnapshotMeta
	for _, m := range all {
		if meta, _, err := c.Open(m.ID); err == nil { // what it returns needs no Close
			whole = append(whole, meta)
		}
	}
	return whole, nil
}

// checkSnapshots returns an error when entries are missing between the newest
// whole snapshot and the log: raft would begin without them, or panic.
func checkSnapshots(snaps raft.SnapshotStore, log raft.LogStore) error {
	first, err := log.FirstIndex()
	if err != nil {
		return fmt.Errorf("read where the log begins: %w", err)
	}
	whole, err := snaps.List()
	if err != nil {
		return fmt.Errorf("list the snapshots: %w", err)
	}
	var covered uint64
	for _, m := range whole {
		covered = max(covered, m.Index)
	}
	if first > covered+1 {
		return fmt.Errorf("%w: the log begins at entry %d and what came before it is in no whole snapshot (the newest ends at %d)", ErrDamagedSnapshot, first, covered)
	}
	return nil
}
