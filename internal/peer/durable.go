package peer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"had/internal/durable"
)

// identity.json holds an envelope: the record, and a checksum over the
// record's compact JSON, so that a flipped bit can't make another node of us.
type envelope struct {
	Format   int             `json:"format"`
	Checksum string          `json:"checksum"` // SHA-256, hex
	Identity json.RawMessage `json:"identity"`
}

const recordFormat = 1

func encodeRecord(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode this node's identity: %w", err)
	}
	data, err := json.MarshalIndent(envelope{Format: recordFormat, Checksum: checksum(body), Identity: body}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode this node's identity: %w", err)
	}
	return append(data, '\n'), nil
}

func decodeRecord(data []byte) (record, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return record{}, fmt.Errorf("the file is damaged: %w", err)
	}
	if e.Format != recordFormat {
		return record{}, fmt.Errorf("the file has format %d, this had knows format %d", e.Format, recordFormat)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, e.Identity); err != nil {
		return record{}, fmt.Errorf("the file is damaged: %w", err)
	}
	if got := checksum(body.Bytes()); got != e.Checksum {
		return record{}, fmt.Errorf("the file is damaged: its checksum is %.64q and its content has %q", e.Checksum, got)
	}
	var r record
	if err := json.Unmarshal(body.Bytes(), &r); err != nil {
		return record{}, fmt.Errorf("the file is damaged: %w", err)
	}
	return r, r.check()
}

// check returns an error for a record that encodeRecord never wrote.
func (r record) check() error {
	switch {
	case !validID(r.NodeID):
		return fmt.Errorf("the file is damaged: node ID %.40q; want 32 hex digits", r.NodeID)
	case r.Phase == gathering && r.Birth == nil:
		return nil
	case r.Phase != locked && r.Phase != born || r.Birth == nil:
		return fmt.Errorf("the file is damaged: phase %.40q doesn't go with its certificate", r.Phase)
	}
	if err := r.Birth.check(); err != nil {
		return fmt.Errorf("the file is damaged: %w", err)
	}
	if r.Roster != nil {
		if err := r.Roster.check(); err != nil {
			return fmt.Errorf("the file is damaged: %w", err)
		}
	}
	if !belongs(r.Birth, r.Roster, r.Node, r.NodeID) || r.Birth.Cluster != r.Cluster {
		return errors.New("the file is damaged: its certificate is another node's")
	}
	return nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

const tempPrefix = ".identity-"

// writeFileAtomic replaces path by a file with data, mode 0600: after a crash
// at any moment it holds the old content or the new, and after a nil error
// the new (fsync(2): the folder has to be synced for the name to last).
func writeFileAtomic(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return durable.SyncDir(dir)
}
