package wal

import (
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzFlippedByte changes one byte anywhere in a log: it is found or harmless.
// Only of a log that wasn't closed, the last Append may be gone.
func FuzzFlippedByte(f *testing.F) {
	for _, closed := range []bool{true, false} {
		for _, at := range []uint32{0, 8, 16, 24, 28, 32, 36, 40, 44, 48, 60} {
			f.Add(closed, uint8(0), at, byte(1))
			f.Add(closed, uint8(2), at, byte(0x80))
		}
	}
	type log struct {
		intact image
		names  []string
		m      model
	}
	var logs map[bool]log // by whether it was closed
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, closed bool, file uint8, at uint32, mask byte) {
		if logs == nil {
			logs = map[bool]log{}
			for closed, end := range map[bool]func(*Log) error{true: (*Log).Close, false: (*Log).closeFiles} {
				intact, m := sample(t, end)
				logs[closed] = log{intact, slices.Sorted(maps.Keys(intact)), m}
			}
		}
		want := logs[closed]
		for name, b := range want.intact { // the one before may have written to them
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		name := want.names[int(file)%len(want.names)]
		b := slices.Clone(want.intact[name])
		b[int(at)%len(b)] ^= mask
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := open(dir, testSize, noSync)
		if errors.Is(err, ErrDamaged) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.closeFiles() }() // only read
		if err := want.m.diff(l); err != nil && (closed || (model{want.m.first, want.m.recs[:len(want.m.recs)-1]}).diff(l) != nil) {
			t.Fatalf("%#x in byte %d of %s went unnoticed: %v", mask, int(at)%len(b), name, err)
		}
	})
}

// FuzzDecodeFrame reads frames of any bytes, with a checksum that matches: what
// is read lies within the frame.
func FuzzDecodeFrame(f *testing.F) {
	s := &segment{number: 1, size: testSize}
	for _, recs := range [][]string{nil, {""}, {"one", "another"}} {
		b, _ := encodeFrame(s, 0, records, 7, toBytes(recs))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frameHeaderSize {
			return
		}
		b = slices.Clone(b)
		length := binary.LittleEndian.Uint32(b[8:])
		if int64(length) <= int64(len(b)-frameHeaderSize) {
			binary.LittleEndian.PutUint32(b, checksum(s.number, 0, b[4:frameHeaderSize+length]))
		}
		got, size := decodeFrame(s, b, 0)
		if size == 0 {
			return
		}
		var recs [][]byte
		for _, p := range got.places {
			if int(p.at)+int(p.size) > frameHeaderSize+int(length) {
				t.Fatalf("record %+v reaches beyond a payload of %d bytes", p, length)
			}
			recs = append(recs, b[p.at:p.at+p.size])
		}
		if again, _ := encodeFrame(s, 0, got.kind, got.first, recs); frameSize(recs) > padded(frameHeaderSize+int(length)) || len(again) != frameSize(recs) {
			t.Fatalf("%d records are written in %d bytes and were read from %d", len(recs), len(again), length)
		}
	})
}
