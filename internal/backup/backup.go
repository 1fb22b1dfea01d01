// Package backup is the form of the files that hactl snapshot writes.
package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// A file is: magic, format (1 byte), SHA-256 of the rest (32 bytes), SnapshotFile as
// protobuf.
const (
	magic  = "had-snapshot"
	format = 1
	head   = len(magic) + 1 + sha256.Size
)

// ErrDamaged is returned for bytes that aren't a whole file.
var ErrDamaged = errors.New("it is damaged")

// Encode returns a file's content.
func Encode(f *hadv1.SnapshotFile) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode the snapshot: %w", err)
	}
	sum := sha256.Sum256(body)
	out := make([]byte, 0, head+len(body))
	out = append(append(out, magic...), format)
	return append(append(out, sum[:]...), body...), nil
}

// Decode reads what Encode wrote.
func Decode(data []byte) (*hadv1.SnapshotFile, error) {
	if !bytes.HasPrefix(data, []byte(magic)) || len(data) < head {
		if len(data) < head && bytes.HasPrefix([]byte(magic), data[:min(len(data), len(magic))]) {
			return nil, fmt.Errorf("%w: it ends after %d bytes", ErrDamaged, len(data))
		}
		return nil, errors.New("it isn't a file of hactl snapshot save")
	}
	if v := data[len(magic)]; v != format {
		return nil, fmt.Errorf("it has format %d, and this version reads %d: use the had that is as new as the one that saved it", v, format)
	}
	body := data[head:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], data[len(magic)+1:head]) {
		return nil, fmt.Errorf("%w: its checksum doesn't match its content", ErrDamaged)
	}
	f := new(hadv1.SnapshotFile)
	if err := proto.Unmarshal(body, f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if f.GetClusterId() == "" || f.GetState() == nil {
		return nil, fmt.Errorf("%w: it names no cluster", ErrDamaged)
	}
	return f, nil
}
