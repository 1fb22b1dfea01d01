// Package boltfile reads a bbolt file without bbolt, which trusts its files:
// one flipped bit can make it loop until memory is gone, be content with the
// state before the last write, or panic in a goroutine of its own, where
// nobody can recover. A file that Walk finds sound does none of that.
//
// The layout is that of bbolt's internal/common, in the byte order of the
// machine.
package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// Walk reads the whole file at path and calls visit for every key of every
// bucket, in order; visit may be nil. What visit gets is valid for good. An
// error of visit ends the walk.
//
// Walk accepts what bbolt writes with NoFreelistSync, with buckets at the top
// only, and requires more than bbolt itself: both meta pages are whole, each
// page of the tree is reached once, and the keys of a bucket ascend. A page
// that nothing leads to isn't looked at. The caller holds bbolt's lock, or
// knows otherwise that nobody is writing.
func Walk(path string, visit func(bucket string, key, value []byte) error) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return walk(b, visit)
}

func walk(b []byte, visit func(bucket string, key, value []byte) error) error {
	m, err := newestMeta(b)
	if err != nil {
		return err
	}
	if m.pages > uint64(len(b))/m.pageSize {
		return errors.New("its end is missing")
	}
	if visit == nil {
		visit = func(string, []byte, []byte) error { return nil }
	}
	w := walker{file: b[:m.pages*m.pageSize], pageSize: m.pageSize, visit: visit, used: make(map[uint64]struct{})}
	if m.freelist != noFreelist {
		if err := w.emptyFreelist(m.freelist); err != nil {
			return fmt.Errorf("page %d: %w", m.freelist, err)
		}
	}
	return w.bucket("", m.root)
}

// meta is the part of a meta page that leads to the rest.
type meta struct {
	pageSize, root, freelist, pages, transaction uint64
}

const (
	noFreelist  = ^uint64(0)
	minPageSize = 1024
)

// newestMeta requires both meta pages to be sound. bbolt is content with one,
// the older of the two if need be, and would so forget the last write; but a
// meta page lies within one disk sector, so no crash leaves half of one.
func newestMeta(b []byte) (meta, error) {
	first, err := readMeta(b)
	if err != nil {
		return meta{}, err
	}
	if first.pageSize < minPageSize || first.pageSize > uint64(len(b)) {
		return meta{}, errors.New("its end is missing")
	}
	second, err := readMeta(b[first.pageSize:])
	if err != nil {
		return meta{}, err
	}
	if second.pageSize != first.pageSize {
		return meta{}, errors.New("its meta pages disagree")
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
	return meta{
		pageSize: u32(b[8:]), root: u64(b[16:]), freelist: u64(b[32:]),
		pages: u64(b[40:]), transaction: u64(b[48:]),
	}, nil
}

const (
	headerSize   = 16 // of a page: ID (8), flags (2), count (2), pages that follow as part of it (4)
	elementSize  = 16 // of a key in a page
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
)

func u16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func u32(b []byte) uint64 { return uint64(binary.NativeEndian.Uint32(b)) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// walker walks the tree of pages. No page may be reached twice, so the walk
// ends.
type walker struct {
	file     []byte
	pageSize uint64
	visit    func(bucket string, key, value []byte) error
	used     map[uint64]struct{}
}

// emptyFreelist accepts the list of a file to which nothing has been written
// since it was made.
func (w *walker) emptyFreelist(id uint64) error {
	page, err := w.page(id)
	if err != nil {
		return err
	}
	if u16(page[8:]) != freelistPage || u16(page[10:]) != 0 {
		return errors.New("it holds a list of free pages, which nothing here has written")
	}
	return nil
}

// bucket walks the tree below a root page. The keys of a bucket ascend.
func (w *walker) bucket(name string, root uint64) error {
	page, err := w.page(root)
	if err != nil {
		return fmt.Errorf("page %d: %w", root, err)
	}
	if u16(page[8:]) == leafPage && u16(page[10:]) == 0 {
		return nil // only a root may be without keys
	}
	var last []byte
	return w.tree(name, root, page, &last)
}

// tree walks one page and what is below it. last is the key that its branch
// names, nil for a root; when tree returns, the greatest key.
func (w *walker) tree(name string, id uint64, page []byte, last *[]byte) error {
	var err error
	switch {
	case u16(page[10:]) == 0:
		err = errors.New("it has no keys")
	case u16(page[8:]) == branchPage:
		err = w.branch(name, page, last)
	default:
		err = w.leaf(name, page, last)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// page returns a page with those that are part of it.
func (w *walker) page(id uint64) ([]byte, error) {
	all := uint64(len(w.file)) / w.pageSize
	if id < 2 || id >= all {
		return nil, errors.New("there is no such page")
	}
	page := w.file[id*w.pageSize:]
	if u64(page) != id {
		return nil, fmt.Errorf("it says that it is page %d", u64(page))
	}
	count := u32(page[12:]) + 1
	if count > all-id {
		return nil, errors.New("it reaches beyond the end")
	}
	for n := id; n < id+count; n++ {
		if _, twice := w.used[n]; twice {
			return nil, errors.New("it is used twice")
		}
		w.used[n] = struct{}{}
	}
	return page[:count*w.pageSize], nil
}

// branch walks an inner page: element i is offset and size of a key, and the
// page that holds the keys from that one on.
func (w *walker) branch(name string, page []byte, last *[]byte) error {
	for i := range uint64(u16(page[10:])) {
		e, err := part(page, headerSize+i*elementSize, elementSize)
		if err != nil {
			return err
		}
		key, err := part(page, headerSize+i*elementSize+u32(e), u32(e[4:]))
		if err != nil {
			return err
		}
		if err := inOrder(*last, key, i == 0); err != nil {
			return err
		}
		*last = key
		child, err := w.page(u64(e[8:]))
		if err != nil {
			return fmt.Errorf("page %d: %w", u64(e[8:]), err)
		}
		if err := w.tree(name, u64(e[8:]), child, last); err != nil {
			return err
		}
	}
	return nil
}

// inOrder requires a key, and a greater one than the last. The first of a page
// is the one that its branch names: bbolt finds the page in the branch by it.
func inOrder(last, key []byte, first bool) error {
	if len(key) == 0 {
		return errors.New("a key is empty")
	}
	if c := bytes.Compare(key, last); last != nil && (first && c != 0 || !first && c <= 0) {
		return errors.New("its keys are out of order")
	}
	return nil
}

// leaf walks a page of keys and values: element i is flags, offset and size of
// a key, and size of the value that follows it.
func (w *walker) leaf(name string, page []byte, last *[]byte) error {
	if u16(page[8:]) != leafPage {
		return fmt.Errorf("its type is %#x", u16(page[8:]))
	}
	for i := range uint64(u16(page[10:])) {
		e, err := part(page, headerSize+i*elementSize, elementSize)
		if err != nil {
			return err
		}
		at, size := headerSize+i*elementSize+u32(e[4:]), u32(e[8:])
		key, err := part(page, at, size)
		if err != nil {
			return err
		}
		value, err := part(page, at+size, u32(e[12:]))
		if err != nil {
			return err
		}
		if err := inOrder(*last, key, i == 0); err != nil {
			return err
		}
		*last = key
		if err := w.value(name, key, value, u32(e)&1 != 0); err != nil {
			return err
		}
	}
	return nil
}

// value takes one key of a bucket. Only the root, which has no name, holds
// buckets, and nothing else: a root page and a sequence, and when the page is 0
// the bucket is small and follows as a page within the value.
func (w *walker) value(name string, key, value []byte, isBucket bool) error {
	const bucketSize = 16
	switch {
	case isBucket != (name == ""):
		return fmt.Errorf("key %x is in the wrong place", key)
	case !isBucket:
		return w.visit(name, key, value)
	case len(value) < bucketSize:
		return fmt.Errorf("bucket %q is cut off", key)
	case u64(value) != 0:
		return w.bucket(string(key), u64(value))
	case len(value) < bucketSize+headerSize:
		return fmt.Errorf("bucket %q is cut off", key)
	default:
		var last []byte
		return w.leaf(string(key), value[bucketSize:], &last)
	}
}

// part returns size bytes of page, if it has them.
func part(page []byte, at, size uint64) ([]byte, error) {
	if at > uint64(len(page)) || size > uint64(len(page))-at {
		return nil, errors.New("a key or value reaches beyond its end")
	}
	return page[at : at+size], nil
}
