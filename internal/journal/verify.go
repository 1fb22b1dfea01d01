package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// verify reads the whole file without bbolt and returns an error unless every
// page bbolt would use is sound and all contents match the seal. bbolt trusts
// its file: one flipped bit can make it loop until memory is gone, panic where
// nobody can recover, or be content with the state before the last write.
//
// The layout is that of bbolt's internal/common, in the byte order of the
// machine.
func verify(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	m, err := newestMeta(b)
	if err != nil {
		return err
	}
	if m.pages > uint64(len(b))/m.pageSize {
		return errors.New("its end is missing")
	}
	v := verifier{file: b[:m.pages*m.pageSize], pageSize: m.pageSize, used: make(map[uint64]struct{})}
	if err := v.bucket("", m.root); err != nil {
		return err
	}
	if want, err := decodeUint(v.want); err != nil || v.got != seal(want) {
		return errors.New("its contents don't match their checksum")
	}
	return nil
}

// meta is the part of a meta page that leads to the rest.
type meta struct {
	pageSize, root, pages, transaction uint64
}

// newestMeta requires both meta pages to be sound. bbolt is content with one,
// the older of the two if need be, and would so forget the last write; but a
// meta page lies within one disk sector, so no crash leaves half of one.
func newestMeta(b []byte) (meta, error) {
	first, err := readMeta(b)
	if err != nil {
		return meta{}, err
	}
	if first.pageSize == 0 || first.pageSize > uint64(len(b)) {
		return meta{}, errors.New("its end is missing")
	}
	second, err := readMeta(b[first.pageSize:])
	if err != nil {
		return meta{}, err
	}
	if second.transaction > first.transaction {
		return second, nil
	}
	return first, nil
}

// readMeta reads the meta page at the start of b: a page header, then magic,
// version, page size and flags (4 bytes each), root page, its sequence, free
// list, number of pages and transaction (8 each), and the FNV-1a of these.
func readMeta(b []byte) (meta, error) {
	const summed = 56
	if len(b) < headerSize+summed+8 {
		return meta{}, errors.New("its end is missing")
	}
	b = b[headerSize:]
	h := fnv.New64a()
	_, _ = h.Write(b[:summed]) // a hash takes everything
	if h.Sum64() != u64(b[summed:]) {
		return meta{}, errors.New("a meta page doesn't match its checksum")
	}
	return meta{pageSize: uint64(u32(b[8:])), root: u64(b[16:]), pages: u64(b[40:]), transaction: u64(b[48:])}, nil
}

const (
	headerSize  = 16 // of a page: ID (8), flags (2), count (2), pages that follow as part of it (4)
	elementSize = 16 // of a key in a page
	branchPage  = 1
	leafPage    = 2
)

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// verifier walks the tree of pages. No page may be reached twice, so the walk
// ends.
type verifier struct {
	file     []byte
	pageSize uint64
	used     map[uint64]struct{}
	want     []byte // the seal as it is stored
	got      seal
}

// bucket verifies the tree below a root page. The keys of a bucket ascend.
func (v *verifier) bucket(name string, root uint64) error {
	var last []byte
	return v.tree(name, root, &last)
}

func (v *verifier) tree(name string, id uint64, last *[]byte) error {
	page, err := v.page(id)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if u16(page[8:]) != branchPage {
		err = v.leaf(name, page, last)
	} else {
		err = v.branch(name, page, last)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// page returns a page with those that are part of it.
func (v *verifier) page(id uint64) ([]byte, error) {
	all := uint64(len(v.file)) / v.pageSize
	if id < 2 || id >= all {
		return nil, errors.New("there is no such page")
	}
	page := v.file[id*v.pageSize:]
	if u64(page) != id {
		return nil, fmt.Errorf("it says that it is page %d", u64(page))
	}
	count := uint64(u32(page[12:])) + 1
	if count > all-id {
		return nil, errors.New("it reaches beyond the end")
	}
	for n := id; n < id+count; n++ {
		if _, twice := v.used[n]; twice {
			return nil, errors.New("it is used twice")
		}
		v.used[n] = struct{}{}
	}
	return page[:count*v.pageSize], nil
}

// branch verifies an inner page: element i is offset and size of a key, and
// the page that holds the keys from that one on.
func (v *verifier) branch(name string, page []byte, last *[]byte) error {
	for i := range int(u16(page[10:])) {
		e, err := part(page, headerSize+i*elementSize, elementSize)
		if err != nil {
			return err
		}
		key, err := part(page, headerSize+i*elementSize+int(u32(e)), int(u32(e[4:])))
		if err != nil {
			return err
		}
		if *last != nil && bytes.Compare(key, *last) <= 0 {
			return errors.New("its keys are out of order")
		}
		// The subtree must not have a key before this one. Without any key, as
		// after a deletion, the next branch is checked against this one.
		low := key
		if err := v.tree(name, u64(e[8:]), &low); err != nil {
			return err
		}
		*last = low
	}
	return nil
}

// leaf verifies a page of keys and values: element i is flags, offset and size
// of a key, and size of the value that follows it.
func (v *verifier) leaf(name string, page []byte, last *[]byte) error {
	if u16(page[8:]) != leafPage {
		return fmt.Errorf("its type is %#x", u16(page[8:]))
	}
	for i := range int(u16(page[10:])) {
		e, err := part(page, headerSize+i*elementSize, elementSize)
		if err != nil {
			return err
		}
		at, size := headerSize+i*elementSize+int(u32(e[4:])), int(u32(e[8:]))
		key, err := part(page, at, size)
		if err != nil {
			return err
		}
		value, err := part(page, at+size, int(u32(e[12:])))
		if err != nil {
			return err
		}
		// The first key of a page may be the one its branch names.
		if c := bytes.Compare(key, *last); *last != nil && (c < 0 || c == 0 && i > 0) {
			return errors.New("its keys are out of order")
		}
		*last = key
		if err := v.value(name, key, value, u32(e)&1 != 0); err != nil {
			return err
		}
	}
	return nil
}

// value takes one key of a bucket. Only the root, which has no name, holds
// buckets, and nothing else: a root page and a sequence, and when the page is 0
// the bucket is small and follows as a page within the value.
func (v *verifier) value(name string, key, value []byte, isBucket bool) error {
	const bucketSize = 16
	switch {
	case isBucket != (name == ""):
		return fmt.Errorf("key %x is in the wrong place", key)
	case !isBucket && name == metaBucket && string(key) == sealKey:
		v.want = value
		return nil
	case !isBucket:
		v.got ^= sum(name, key, value)
		return nil
	case len(value) < bucketSize:
		return fmt.Errorf("bucket %q is cut off", key)
	case u64(value) != 0:
		return v.bucket(string(key), u64(value))
	case len(value) < bucketSize+headerSize:
		return fmt.Errorf("bucket %q is cut off", key)
	default:
		var last []byte
		return v.leaf(string(key), value[bucketSize:], &last)
	}
}

// part returns size bytes of page, if it has them.
func part(page []byte, at, size int) ([]byte, error) {
	if at > len(page) || size > len(page)-at {
		return nil, errors.New("a key or value reaches beyond its end")
	}
	return page[at : at+size], nil
}
