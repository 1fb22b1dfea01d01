package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzDamagedFile overwrites a part of a journal with any bytes. Open finds
// it, or everything the journal knows is as it was.
func FuzzDamagedFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal.db")
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(16), []byte("\xed\x0c\xda\xed\x02\x00\x00\x00"))
	f.Add(uint32(4096+16+40), []byte{255, 255, 255, 255})
	f.Add(uint32(3*4096+8), []byte{1, 0, 255, 255})
	var intact []byte
	var want content
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		if intact == nil { // once a process: the fuzzer's workers don't share what f's function made
			made := sample(t, 30)
			j := open(t, made)
			want = contentOf(t, j)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if intact, err = os.ReadFile(made); err != nil {
				t.Fatal(err)
			}
		}
		damaged := append([]byte(nil), intact...)
		copy(damaged[int(at)%len(damaged):], patch)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path, nodeID)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("the error doesn't say which file: %v", err)
			}
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				t.Fatal("the damaged file was removed")
			}
			return
		}
		defer j.Close()
		if !contentOf(t, j).equal(want) {
			t.Fatalf("%d bytes at %d changed what the journal says, unnoticed", len(patch), at)
		}
	})
}

// FuzzLoad reads records of any bytes, as a journal of another version or one
// whose checksum happens to match might have them. What is accepted can be
// written again.
func FuzzLoad(f *testing.F) {
	f.Add(metaBucket, []byte(tenureKey), []byte(`{"version":1,"epoch":7,"instance":{"node":"alpha"},"addresses":[{"vip":"web","address":"192.0.2.10"}],"hook_timeout_ns":1}`))
	f.Add(metaBucket, []byte(seqKey), encodeUint(7))
	f.Add(reportsBucket, encodeUint(1), []byte("\x0a\x05alpha\x12\x05alpha"))
	f.Add(runningBucket, []byte("r1"), []byte(`{"ID":"r1","Stage":"PreAcq","VIP":"192.0.2.10","Started":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, bucket string, key, value []byte) {
		j := &Journal{nodeID: nodeID, changed: make(chan struct{})}
		if err := j.load(bucket, key, value); err != nil {
			return
		}
		tenure, err := j.Tenure()
		if err != nil {
			t.Fatalf("accepted when loaded and refused when asked for: %v", err)
		}
		if tenure != nil {
			if _, err := encodeTenure(tenure); err != nil {
				t.Errorf("a tenure that was read can't be written: %v", err)
			}
		}
		for _, r := range j.Pending(10) {
			if _, err := proto.Marshal(r); err != nil {
				t.Errorf("a report that was read can't be written: %v", err)
			}
		}
		for _, r := range j.Interrupted() {
			_ = r.VIP.String() // what ReportInterrupted does with it
		}
	})
}
