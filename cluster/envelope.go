package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// A log entry's data is: format (1 byte), flags (1 byte), CRC-32C of what
// follows it and the two bytes before it (4 bytes, big endian), the Command
// as protobuf. bbolt notices no flipped bit, so every command carries its own
// checksum from proposer to Apply.
const (
	envelopeFormat = 1
	envelopeHeader = 6
	flagLease      = 1 << 0 // Acquire or LeaseRenew: appending it restarts the local wait
)

// ErrDamagedCommand is returned for a log entry that isn't what was proposed.
var ErrDamagedCommand = errors.New("the log entry is damaged")

func crcOf(parts ...[]byte) uint32 {
	var sum uint32
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

// isLease reports whether cmd gives or extends a lease.
func isLease(cmd *hadv1.Command) bool {
	return cmd.GetAcquire() != nil || cmd.GetLeaseRenew() != nil
}

func encodeCommand(cmd *hadv1.Command) ([]byte, error) {
	body, err := proto.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode a command: %w", err)
	}
	var flags byte
	if isLease(cmd) {
		flags |= flagLease
	}
	out := make([]byte, envelopeHeader, envelopeHeader+len(body))
	out[0], out[1] = envelopeFormat, flags
	binary.BigEndian.PutUint32(out[2:], crcOf(out[:2], body))
	return append(out, body...), nil
}

// carriesLease reads the flag without decoding the command.
func carriesLease(data []byte) bool {
	return len(data) >= envelopeHeader && data[0] == envelopeFormat && data[1]&flagLease != 0
}

func decodeCommand(data []byte) (*hadv1.Command, error) {
	if len(data) < envelopeHeader {
		return nil, fmt.Errorf("%w: only %d bytes", ErrDamagedCommand, len(data))
	}
	if data[0] != envelopeFormat {
		return nil, fmt.Errorf("%w or from a newer had: format %d, this version reads %d", ErrDamagedCommand, data[0], envelopeFormat)
	}
	if binary.BigEndian.Uint32(data[2:]) != crcOf(data[:2], data[envelopeHeader:]) {
		return nil, fmt.Errorf("%w: its checksum doesn't match", ErrDamagedCommand)
	}
	cmd := new(hadv1.Command)
	if err := proto.Unmarshal(data[envelopeHeader:], cmd); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamagedCommand, err)
	}
	if isLease(cmd) != carriesLease(data) {
		// Nodes that appended it have not started their wait again.
		return nil, fmt.Errorf("%w: its lease flag doesn't match its record", ErrDamagedCommand)
	}
	return cmd, nil
}
