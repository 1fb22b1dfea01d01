package backup

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

func sample(t testing.TB) []byte {
	t.Helper()
	data, err := Encode(&hadv1.SnapshotFile{
		Cluster: "office", ClusterId: "0123456789abcdef0123456789abcdef", Index: 42,
		State: &hadv1.State{Policy: &hadv1.Policy{Version: 3, Text: "vip \"web\" { address = \"192.0.2.10\" }\n"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	data := sample(t)
	f, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Encode(f)
	if err != nil || !slices.Equal(data, again) {
		t.Errorf("encoded again it is another file: %v", err)
	}
}

// Every single flipped bit and every truncation is noticed.
func TestDamage(t *testing.T) {
	data := sample(t)
	for i := range data {
		for bit := range 8 {
			bad := slices.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := Decode(bad); err == nil {
				t.Fatalf("bit %d of byte %d may be flipped", bit, i)
			}
		}
		if _, err := Decode(data[:i]); err == nil || i > 0 && !errors.Is(err, ErrDamaged) {
			t.Fatalf("the first %d bytes: %v", i, err)
		}
	}
	if _, err := Decode(append(data, 0)); err == nil {
		t.Error("a byte may follow it")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		other, err := Decode(again)
		if err != nil || !proto.Equal(s, other) {
			t.Errorf("what is read can't be written and read again: %v", err)
		}
	})
}
