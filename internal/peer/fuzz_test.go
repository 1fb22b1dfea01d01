package peer

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fuzzBirth is the certificate of the three members, with fixed IDs.
func fuzzBirth() Birth {
	var ms []BornMember
	for i, m := range three() {
		ms = append(ms, BornMember{Member: m, NodeID: strings.Repeat(string(rune('0'+i)), 2*idBytes)})
	}
	return newBirth("office", ms)
}

// FuzzDecodeRecord reads identity files of any bytes. What is accepted says
// the same after it was written again.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range fuzzRecords() {
		data, err := encodeRecord(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":1,"checksum":"","identity":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeRecord(again)
		if err != nil {
			t.Fatalf("what was read can't be read again: %v", err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("another record was written than read:\n%s", diff)
		}
	})
}

// FuzzDamagedIdentity overwrites a part of an identity file with any bytes.
// It is found, or the file still says the same.
func FuzzDamagedIdentity(f *testing.F) {
	f.Add(uint16(0), []byte{1})
	f.Add(uint16(120), []byte("A"))
	f.Add(uint16(200), []byte("\x00\xff"))
	records := fuzzRecords()
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		for _, r := range records {
			data, err := encodeRecord(r)
			if err != nil {
				t.Fatal(err)
			}
			copy(data[int(at)%len(data):], patch)
			got, err := decodeRecord(data)
			if err == nil && cmp.Diff(r, got) != "" {
				t.Fatalf("%q at %d made another node of it, unnoticed:\n%s", patch, at, cmp.Diff(r, got))
			}
		}
	})
}

// fuzzRecords are alpha's, in each phase.
func fuzzRecords() []record {
	b := fuzzBirth()
	fresh := record{Cluster: "office", Node: "alpha", NodeID: b.Members[0].NodeID, Phase: gathering}
	bound := fresh
	bound.Phase, bound.Birth = locked, &b
	done := bound
	done.Phase, done.RaftStarted = born, true
	return []record{fresh, bound, done}
}

// FuzzMeet lets alpha hear any frames, in each phase: a phase never goes back,
// a certificate is never exchanged for another, and each names this node by
// this folder's ID.
func FuzzMeet(f *testing.F) {
	var dialogue []byte
	b := fuzzBirth()
	for _, p := range []phase{gathering, locked, born} {
		for _, m := range b.Members[1:] {
			a := agreement{rec: record{Cluster: "office", Node: m.Name, NodeID: m.NodeID, Phase: p}, members: three()}
			if p != gathering {
				a.rec.Birth = &b
			}
			var buf bytes.Buffer
			if err := writeFrame(&buf, a.hello(kindMeet, "alpha")); err != nil {
				f.Fatal(err)
			}
			f.Add(buf.Bytes())
			dialogue = append(dialogue, buf.Bytes()...)
		}
	}
	f.Add(dialogue)
	f.Fuzz(func(t *testing.T, frames []byte) {
		for _, start := range fuzzRecords() {
			a := agreement{rec: start, members: three()}
			now := time.Unix(1, 0)
			for r := bytes.NewReader(frames); r.Len() > 0; {
				var h hello
				if readFrame(r, &h) != nil {
					break
				}
				if h.check() != nil || a.judge(h) != nil {
					continue
				}
				a.hear(h, now)
				next, ok := a.next(now)
				if !ok {
					continue
				}
				before := a.rec
				a.adopt(next)
				if err := next.check(); err != nil {
					t.Fatalf("a record that would be refused at the next start: %v", err)
				}
				phases := []phase{gathering, locked, born}
				if slices.Index(phases, next.Phase) <= slices.Index(phases, before.Phase) || next.NodeID != before.NodeID ||
					before.Birth != nil && before.Birth.ID != next.Birth.ID {
					t.Fatalf("%+v was followed by %+v", before, next)
				}
			}
		}
	})
}
