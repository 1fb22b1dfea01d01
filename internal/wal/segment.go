package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"had/internal/durable"
)

// A segment is one file. All of it is written, with zeros, before its first
// frame: a frame then needs no space and changes nothing in the file system
// but its own block, and a file that isn't as long as it says has lost its end.
type segment struct {
	file   *os.File
	path   string
	number uint64 // segments are numbered without gaps
	size   int64
}

// The layout of a segment, all numbers little endian: magic (8 bytes), number
// (8), size (8), CRC-32C of these (4), 4 zeros; then frames, then zeros.
//
// A frame: CRC-32C (4) of the segment's number, the frame's offset and all
// that follows here; kind (4), bytes of the payload (4), number of records
// (4), index of the first record (8); the payload; zeros up to a multiple of
// 8. The payload is a length (4) and then the bytes for each record.
const (
	magic             = "hadwal1\n"
	segmentHeaderSize = 32
	frameHeaderSize   = 24
	blockSize         = 4096
)

type kind uint32

const (
	records kind = 1 + iota // from its first index on, these and no others
	sealed                  // the last frame of its segment: a next one exists
	closed                  // the log was closed: all before this was complete
)

type frame struct {
	kind   kind
	first  uint64
	places []place // without the segment
}

// place is where a record is.
type place struct {
	segment  *segment
	at, size uint32
}

func padded(n int) int { return (n + 7) &^ 7 }

func checksum(number uint64, at int64, b []byte) uint32 {
	var where [16]byte
	binary.LittleEndian.PutUint64(where[:], number)
	binary.LittleEndian.PutUint64(where[8:], uint64(at))
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(where[:], table), table, b)
}

// encodeFrame returns the frame for the given place, and where its records
// are.
func encodeFrame(s *segment, at int64, k kind, first uint64, recs [][]byte) ([]byte, []place) {
	b := make([]byte, frameHeaderSize, frameSize(recs))
	places := make([]place, 0, len(recs))
	for _, r := range recs {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r)))
		places = append(places, place{segment: s, at: uint32(at) + uint32(len(b)), size: uint32(len(r))})
		b = append(b, r...)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(k))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-frameHeaderSize))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(recs)))
	binary.LittleEndian.PutUint64(b[16:], first)
	binary.LittleEndian.PutUint32(b, checksum(s.number, at, b[4:]))
	return b[:cap(b)], places
}

// frameSize is what a frame takes in its segment.
func frameSize(recs [][]byte) int {
	n := frameHeaderSize
	for _, r := range recs {
		n += 4 + len(r)
	}
	return padded(n)
}

// decodeFrame returns the frame at an offset of a whole segment, and its size;
// 0 when there is no valid one.
func decodeFrame(s *segment, file []byte, at int64) (f frame, size int64) {
	b := file[at:]
	if len(b) < frameHeaderSize {
		return f, 0
	}
	f.kind = kind(binary.LittleEndian.Uint32(b[4:]))
	length := int64(binary.LittleEndian.Uint32(b[8:]))
	if f.kind < records || f.kind > closed || length > int64(len(b)-frameHeaderSize) {
		return f, 0
	}
	b = b[:frameHeaderSize+length]
	if binary.LittleEndian.Uint32(b) != checksum(s.number, at, b[4:]) {
		return f, 0
	}
	f.first = binary.LittleEndian.Uint64(b[16:])
	offset := frameHeaderSize
	for range binary.LittleEndian.Uint32(b[12:]) {
		if len(b)-offset < 4 {
			return f, 0
		}
		n := int(binary.LittleEndian.Uint32(b[offset:]))
		offset += 4
		if n > len(b)-offset {
			return f, 0
		}
		f.places = append(f.places, place{segment: s, at: uint32(at) + uint32(offset), size: uint32(n)})
		offset += n
	}
	return f, int64(padded(len(b)))
}

// segmentPath is the name of a segment's file.
func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, suffix))
}

const (
	suffix     = ".wal"
	unfinished = ".new" // not yet a segment
)

// createSegment makes a segment of zeros. It appears by rename, whole.
func createSegment(dir string, number uint64, size int64, sync func(*os.File) error) (_ *segment, err error) {
	path := segmentPath(dir, number)
	f, err := os.OpenFile(path+unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(path+unfinished))
		}
	}()
	block := make([]byte, blockSize)
	copy(block, magic)
	binary.LittleEndian.PutUint64(block[8:], number)
	binary.LittleEndian.PutUint64(block[16:], uint64(size))
	binary.LittleEndian.PutUint32(block[24:], checksum(number, 0, block[:24]))
	// Each block by itself: from one big write, a kernel may keep the file in
	// big pages, and XFS before Linux 6.6 writes such a page whole for a frame.
	for at := int64(0); at < size; at += blockSize {
		if _, err := f.WriteAt(block[:min(blockSize, size-at)], at); err != nil {
			return nil, err
		}
		clear(block)
	}
	if err := sync(f); err != nil {
		return nil, err
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return nil, err
	}
	return &segment{file: f, path: path, number: number, size: size}, durable.SyncDir(dir)
}

// openSegment opens a segment and returns all of it, too.
func openSegment(dir string, number uint64) (*segment, []byte, error) {
	path := segmentPath(dir, number)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case len(b) < segmentHeaderSize:
		return nil, nil, damaged(path, "it has only %d bytes", len(b))
	case string(b[:8]) != magic || binary.LittleEndian.Uint32(b[24:]) != checksum(number, 0, b[:24]):
		return nil, nil, damaged(path, "it doesn't begin as segment %d does", number)
	case binary.LittleEndian.Uint64(b[16:]) != uint64(len(b)):
		return nil, nil, damaged(path, "it has %d bytes where %d belong", len(b), binary.LittleEndian.Uint64(b[16:]))
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	return &segment{file: f, path: path, number: number, size: int64(len(b))}, b, nil
}

// read calls visit for each frame and returns where they end, and the last
// one's kind; 0: there is none.
func (s *segment) read(b []byte, visit func(frame) error) (end int64, last kind, err error) {
	end = segmentHeaderSize
	for last != sealed {
		f, size := decodeFrame(s, b, end)
		if size == 0 {
			break
		}
		if err := visit(f); err != nil {
			return 0, 0, damaged(s.path, "byte %d: %v", end, err)
		}
		end, last = end+size, f.kind
	}
	// A frame is written when the one before is on the disk. So a crash can
	// spoil the last one, which nobody has been told of, and no other.
	for at := end + 8; at < s.size; at += 8 {
		if _, size := decodeFrame(s, b, at); size > 0 {
			return 0, 0, damaged(s.path, "what is written from byte %d to %d doesn't match its checksum", end, at)
		}
	}
	return end, last, nil
}

// write puts a frame on the disk.
func (s *segment) write(b []byte, at int64, sync func(*os.File) error) error {
	if _, err := s.file.WriteAt(b, at); err != nil {
		return err
	}
	return sync(s.file)
}

// fdatasync writes what is needed to read the file's contents. fsync writes
// its times, too, for which a file system must write its own log.
func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
