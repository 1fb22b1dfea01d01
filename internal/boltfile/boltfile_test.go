package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

const (
	pageSize   = minPageSize // small pages make deep trees
	testBucket = "logs"
)

func openBolt(t *testing.T, path string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize: pageSize, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoGrowSync: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	db.NoSync = true
	return db
}

func update(t *testing.T, db *bolt.DB, change func(tx *bolt.Tx) error) {
	t.Helper()
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
}

func key(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// contents walks a file that must be sound.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := Walk(path, func(bucket string, key, value []byte) error {
		got[bucket+"/"+string(key)] = string(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Whatever bbolt writes is sound and read as bbolt reads it: a refusal would
// keep a healthy node down.
func TestWhatBoltWritesIsSound(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		path := filepath.Join(t.TempDir(), "db")
		db := openBolt(t, path)
		if len(contents(t, path)) != 0 {
			t.Fatal("a new file has contents")
		}
		update(t, db, func(tx *bolt.Tx) error {
			for _, name := range []string{"conf", testBucket, "small"} {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("small")).Put([]byte("k"), []byte("v"))
		})
		want := map[string]string{"small/k": "v"}
		oldest, next := 1000, 1000
		for round := range 60 {
			update(t, db, func(tx *bolt.Tx) error { return churn(r, tx.Bucket([]byte(testBucket)), want, &oldest, &next) })
			if round%4 == 0 && !maps.Equal(contents(t, path), want) {
				t.Fatalf("seed %d, round %d: the walk read something else than was written", seed, round)
			}
			if round%20 == 19 { // a new bbolt finds the free pages by itself
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = openBolt(t, path)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// churn changes a bucket the way a log, and then a journal, is used: append,
// cut at either end, remove anywhere; values of up to several pages.
func churn(r *rand.Rand, b *bolt.Bucket, want map[string]string, oldest, next *int) error {
	remove := func(n int) error {
		delete(want, testBucket+"/"+string(key(n)))
		return b.Delete(key(n))
	}
	for range r.IntN(200) {
		value := bytes.Repeat([]byte{byte(*next)}, r.IntN(100))
		if r.IntN(50) == 0 {
			value = bytes.Repeat(value, 60)
		}
		want[testBucket+"/"+string(key(*next))] = string(value)
		if err := b.Put(key(*next), value); err != nil {
			return err
		}
		*next++
	}
	for size := *next - *oldest; size > 0 && r.IntN(3) > 0; size = *next - *oldest {
		first, count := *oldest, r.IntN(size+1)
		switch r.IntN(4) {
		case 0:
			*oldest += count
		case 1:
			*next -= count
			first = *next
		case 2:
			first += r.IntN(size - count + 1)
		case 3:
			count = 0
		}
		for n := first; n < first+count; n++ {
			if err := remove(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// samples are files of several shapes, by name.
func samples(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, s := range map[string]struct{ keys, size int }{
		"new":     {0, 0},
		"inline":  {3, 20},
		"page":    {15, 30},
		"branch":  {90, 60},
		"deep":    {1400, 60},
		"long":    {9, 5000},
		"cut off": {-200, 60}, // as many keys were there once
	} {
		path := filepath.Join(t.TempDir(), "db")
		db := openBolt(t, path)
		if s.keys != 0 {
			update(t, db, func(tx *bolt.Tx) error {
				if _, err := tx.CreateBucket([]byte("conf")); err != nil {
					return err
				}
				b, err := tx.CreateBucket([]byte(testBucket))
				for n := 0; err == nil && n < max(s.keys, -s.keys); n++ {
					err = b.Put(key(n), bytes.Repeat([]byte{byte(n)}, s.size))
				}
				return err
			})
		}
		for n := s.keys; n < 0; n++ {
			update(t, db, func(tx *bolt.Tx) error { return tx.Bucket([]byte(testBucket)).Delete(key(-1 - n)) })
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	return files
}

// What the walk finds sound, bbolt can read and write, whatever the damage: it
// doesn't panic, which in a goroutine of its own ends this test's process, nor
// loop. Most damages are refused.
func TestBoltSurvivesWhatIsFoundSound(t *testing.T) {
	for name, whole := range samples(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			sound, refused := 0, 0
			try := func(bad []byte) {
				if sound > 0 && bytes.Equal(bad, whole) {
					return
				}
				if walk(bad, nil) != nil {
					refused++
					return
				}
				sound++
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				exercise(t, path)
			}
			try(whole)
			if sound != 1 {
				t.Fatal("the whole file was refused")
			}
			r := rand.New(rand.NewPCG(uint64(len(whole)), 2))
			pages := usedPages(t, whole)
			for i := 0; i < len(pages); i += 1 + len(pages)/30 {
				for _, bad := range harmHeader(r, whole, pages[i]) {
					try(bad)
				}
			}
			for range 300 {
				try(harmAnywhere(r, whole, pages))
			}
			if refused < 80 || sound < 10 {
				t.Errorf("%d damaged files were found sound, %d refused: the damage tests too little", sound, refused)
			}
		})
	}
}

// usedPages returns where the pages begin that hold something.
func usedPages(t *testing.T, file []byte) []int {
	t.Helper()
	m, err := newestMeta(file)
	if err != nil {
		t.Fatal(err)
	}
	w := walker{file: file, pageSize: m.pageSize, used: map[uint64]struct{}{0: {}, 1: {}}}
	w.visit = func(string, []byte, []byte) error { return nil }
	if err := w.bucket("", m.root); err != nil {
		t.Fatal(err)
	}
	var pages []int
	for _, id := range slices.Sorted(maps.Keys(w.used)) {
		pages = append(pages, int(id*m.pageSize))
	}
	return pages
}

// harmHeader returns copies of the file in which one field of a page's header
// or of its first elements has another value.
func harmHeader(r *rand.Rand, whole []byte, page int) (bad [][]byte) {
	fields := []struct{ at, size int }{{0, 8}, {8, 2}, {10, 2}, {12, 4}}
	for element := range 2 {
		for field := range 4 {
			fields = append(fields, struct{ at, size int }{headerSize + element*elementSize + field*4, 4})
		}
	}
	for _, f := range fields {
		old := whole[page+f.at : page+f.at+f.size]
		for _, value := range [][]byte{
			bytes.Repeat([]byte{0}, f.size),
			bytes.Repeat([]byte{0xff}, f.size),
			append([]byte{old[0] + 1}, old[1:]...),
			append([]byte{old[0] - 1}, old[1:]...),
			append([]byte{byte(r.IntN(32))}, old[1:]...),
		} {
			b := slices.Clone(whole)
			copy(b[page+f.at:], value)
			bad = append(bad, b)
		}
	}
	return bad
}

// harmAnywhere returns a copy with flipped bits, with a page in the place of
// another, or without its end.
func harmAnywhere(r *rand.Rand, whole []byte, pages []int) []byte {
	b := slices.Clone(whole)
	from, to := pages[r.IntN(len(pages))], pages[r.IntN(len(pages))]
	switch r.IntN(6) {
	case 0:
		return b[:r.IntN(len(b))]
	case 1:
		copy(b[to:to+pageSize], whole[from:from+pageSize])
	case 2: // the same, and it says that it is the other
		copy(b[to+8:to+pageSize], whole[from+8:from+pageSize])
	default:
		for range 1 + r.IntN(3) {
			b[from+r.IntN(pageSize)] ^= 1 << r.IntN(8)
		}
	}
	return b
}

// exercise reads and changes everything in a file with bbolt.
func exercise(t *testing.T, path string) {
	t.Helper()
	db := openBolt(t, path)
	var keys [][]byte
	update(t, db, func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(testBucket))
		if err != nil {
			return err
		}
		if err := b.ForEach(func(k, _ []byte) error { keys = append(keys, slices.Clone(k)); return nil }); err != nil {
			return err
		}
		for i, k := range keys {
			if i%3 == 0 {
				err = b.Put(k, []byte(strings.Repeat("x", i%200)))
			} else if i%3 == 1 {
				err = b.Delete(k)
			}
			if err != nil {
				return err
			}
		}
		return b.Put(key(1<<40), []byte("new"))
	})
	update(t, db, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(testBucket))
		for _, k := range keys {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
		if v := b.Get(key(1 << 40)); string(v) != "new" {
			return fmt.Errorf("read %q where %q was written", v, "new")
		}
		return nil
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
