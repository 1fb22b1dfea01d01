// Package wal is a log of numbered records in a folder of its own, for a
// writer that can't go on before its record is on the disk: one write of as
// many blocks as the records take, and one fdatasync.
//
// A crash at any time leaves all that was on the disk, and maybe what was
// being written. Damage is told from that: see Open. Why it isn't a library is
// in docs/decisions/0011-a-log-file-of-our-own.md.
package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"had/internal/durable"
)

// Errors of this package.
var (
	ErrDamaged  = errors.New("the log is damaged")
	ErrNotFound = errors.New("there is no such record")
)

func damaged(path, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrDamaged, path, fmt.Sprintf(format, args...))
}

const (
	segmentSize = 256 << 10
	retryEvery  = 10 * time.Second // to make room ahead of need
)

// Log is safe for concurrent use.
type Log struct {
	dir  string
	size int64                // of a new segment, unless a single Append needs more
	sync func(*os.File) error // fdatasync, but for tests

	writing sync.Mutex // held while files change; taken before mu
	end     int64      // where the next frame goes in the last segment
	next    *segment   // goes on when the last one is full; nil: there was no room
	tried   time.Time  // when making next was last tried
	dropped []*segment // to be removed, oldest first

	mu       sync.RWMutex
	segments []*segment // oldest first; never empty
	first    uint64     // index of live[0], or where it would be
	live     []place    // ordered by segment, too
	short    error      // why there is no next segment; nil: there is one
}

// Open opens the log in dir, or begins one if the folder is empty; the folder
// must exist, and nobody else may use it. An error that is ErrDamaged names
// the file. Every damage is found but one: when the process ended without
// Close, damage of the last frame can't be told from a write that the end
// interrupted, and the frame is dropped.
func Open(dir string) (*Log, error) { return open(dir, segmentSize, fdatasync) }

func open(dir string, size int64, sync func(*os.File) error) (*Log, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, size: size, sync: sync}
	if len(numbers) == 0 {
		s, err := createSegment(dir, 1, size, sync)
		if err != nil {
			return nil, fmt.Errorf("begin a log: %w", err)
		}
		l.segments, l.end = []*segment{s}, segmentHeaderSize
	} else if err := l.load(numbers); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.reserve()
	return l, nil
}

// listSegments returns the numbers of the segments, and removes what was
// begun and never became one.
func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for a log: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix+unfinished) {
			if err := os.Remove(dir + "/" + e.Name()); err != nil {
				return nil, fmt.Errorf("remove an unfinished segment: %w", err)
			}
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), suffix), 16, 64)
		if err != nil || segmentPath(dir, n) != dir+"/"+e.Name() {
			return nil, fmt.Errorf("look for a log: %s/%s doesn't belong there", dir, e.Name())
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// load reads the segments.
func (l *Log) load(numbers []uint64) error {
	open := false // the segment before was not sealed
	for i, n := range numbers {
		if n != numbers[0]+uint64(i) {
			return damaged(segmentPath(l.dir, numbers[0]+uint64(i)), "it is missing")
		}
		s, b, err := openSegment(l.dir, n)
		if err != nil {
			return err
		}
		end, last, err := s.read(b, l.replay)
		switch {
		case err != nil:
			return errors.Join(err, s.file.Close())
		case i == 0 && n > 1 && last == 0: // DropBefore leaves one that is written to
			return errors.Join(damaged(segmentPath(l.dir, n-1), "it is missing"), s.file.Close())
		case open && (last != 0 || i != len(numbers)-1):
			return errors.Join(damaged(segmentPath(l.dir, n-1), "its end is missing"), s.file.Close())
		case open:
			l.next = s
			return s.wipe(b, end, l.sync)
		}
		l.segments, l.end, open = append(l.segments, s), end, last != sealed
		if open {
			if err := s.wipe(b, end, l.sync); err != nil {
				return err
			}
		}
	}
	if !open {
		return damaged(segmentPath(l.dir, numbers[len(numbers)-1]+1), "it is missing")
	}
	return nil
}

// wipe removes what an interrupted write has left.
func (s *segment) wipe(b []byte, end int64, sync func(*os.File) error) error {
	for _, c := range b[end:] {
		if c != 0 {
			return s.write(make([]byte, s.size-end), end, sync)
		}
	}
	return nil
}

func (l *Log) replay(f frame) error {
	if f.kind != records {
		return nil
	}
	if f.first == 0 {
		return errors.New("a record has index 0")
	}
	l.put(f.first, f.places)
	return nil
}

// put makes records the last ones. What comes before a gap is dropped. In a
// replay they may begin below the first: what they replaced began in a segment
// that is gone.
func (l *Log) put(first uint64, places []place) {
	if l.first > 0 && first >= l.first && first-l.first <= uint64(len(l.live)) {
		l.live = append(l.live[:first-l.first], places...)
	} else {
		l.first, l.live = first, slices.Clone(places)
	}
}

// Bounds returns the index of the first and of the last record; 0 and 0 when
// there is none. After Open the first may be one that DropBefore had dropped.
func (l *Log) Bounds() (first, last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.live) == 0 {
		return 0, 0
	}
	return l.first, l.first + uint64(len(l.live)) - 1
}

// Read returns a record, or ErrNotFound.
func (l *Log) Read(index uint64) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if index < l.first || index-l.first >= uint64(len(l.live)) {
		return nil, ErrNotFound
	}
	p := l.live[index-l.first]
	b := make([]byte, p.size)
	if _, err := p.segment.file.ReadAt(b, int64(p.at)); err != nil {
		return nil, fmt.Errorf("read record %d: %w", index, err)
	}
	return b, nil
}

// Append writes records with the indexes first, first+1 and so on, and returns
// when they are on the disk, all or none of them. From first on they replace
// what was there. If that leaves a gap, all before it is dropped. When Append
// fails, the log is as it was; after a crash it may have the records all the
// same.
func (l *Log) Append(first uint64, recs [][]byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if first < max(l.first, 1) { // first doesn't change while writing is held
		return fmt.Errorf("append record %d: the log begins at %d", first, l.first)
	}
	size := frameSize(recs)
	if size > 1<<30 {
		return fmt.Errorf("append records of %d bytes: the limit is 1 GiB", size)
	}
	if err := l.makeRoom(int64(size)); err != nil {
		return fmt.Errorf("begin a new segment of the log: %w", err)
	}
	s := l.segments[len(l.segments)-1]
	b, places := encodeFrame(s, l.end, records, first, recs)
	if err := s.write(b, l.end, l.sync); err != nil {
		return fmt.Errorf("append record %d: %w", first, err)
	}
	l.end += int64(len(b))
	l.mu.Lock()
	l.put(first, places)
	l.mu.Unlock()
	l.reserve()
	return nil
}

// reserve makes the next segment ahead of need, so that a disk that is full
// is known for minutes before it matters.
func (l *Log) reserve() {
	if (l.next == nil || l.short != nil) && time.Since(l.tried) >= retryEvery {
		l.tried = time.Now()
		l.setNext(l.size)
	}
}

// setNext makes a segment of this size the next one.
func (l *Log) setNext(size int64) {
	next, err := createSegment(l.dir, l.segments[len(l.segments)-1].number+1, size, l.sync)
	if err == nil && l.next != nil { // it has been replaced
		err = l.next.file.Close()
	}
	if err == nil {
		l.next = next
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.short = err
}

// Problem says why there is no room on the disk for the log to go on once the
// present file is full; nil: there is.
func (l *Log) Problem() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.short
}

// makeRoom goes on to a new segment unless size bytes fit into the last one,
// and after them the frame that seals it.
func (l *Log) makeRoom(size int64) error {
	last := l.segments[len(l.segments)-1]
	if l.end+size+frameHeaderSize <= last.size {
		return nil
	}
	size = max(l.size, segmentHeaderSize+size+frameHeaderSize)
	if l.next == nil || l.next.size < size {
		if l.setNext(size); l.short != nil {
			return l.short
		}
	}
	seal, _ := encodeFrame(last, l.end, sealed, 0, nil)
	if err := last.write(seal, l.end, l.sync); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments, l.next, l.end, l.tried = append(l.segments, l.next), nil, segmentHeaderSize, time.Time{}
	return nil
}

// DropFrom drops the record with this index and all after it.
func (l *Log) DropFrom(index uint64) error {
	if _, last := l.Bounds(); index > last {
		return nil
	}
	return l.Append(index, nil)
}

// DropBefore drops the records before this index. A file goes when none of its
// records is left.
func (l *Log) DropBefore(index uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.trim(index)
	for len(l.dropped) > 0 {
		// One after the other, so that a crash leaves no gap.
		s := l.dropped[0]
		if err := os.Remove(s.path); err != nil {
			return fmt.Errorf("remove a segment of the log: %w", err)
		}
		l.dropped = l.dropped[1:]
		if err := errors.Join(durable.SyncDir(l.dir), s.file.Close()); err != nil {
			return fmt.Errorf("remove a segment of the log: %w", err)
		}
	}
	return nil
}

// trim forgets records and the segments in which none is left.
func (l *Log) trim(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index > l.first {
		n := min(index-l.first, uint64(len(l.live)))
		l.first, l.live = l.first+n, l.live[n:]
	}
	for l.end > segmentHeaderSize && len(l.segments) > 1 && (len(l.live) == 0 || l.live[0].segment != l.segments[0]) {
		l.dropped, l.segments = append(l.dropped, l.segments[0]), l.segments[1:]
	}
}

// Close notes that all is complete and closes the files.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	last := l.segments[len(l.segments)-1]
	if l.end+2*frameHeaderSize <= last.size { // room for the seal must remain
		b, _ := encodeFrame(last, l.end, closed, 0, nil)
		err = last.write(b, l.end, l.sync)
	}
	if err := errors.Join(err, l.closeFiles()); err != nil {
		return fmt.Errorf("close the log: %w", err)
	}
	return nil
}

func (l *Log) closeFiles() error {
	var errs []error
	for _, s := range slices.Concat(l.dropped, l.segments) {
		errs = append(errs, s.file.Close())
	}
	if l.next != nil {
		errs = append(errs, l.next.file.Close())
	}
	return errors.Join(errs...)
}
