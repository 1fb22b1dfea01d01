package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testSize = 16 << 10 // of a segment

// noSync is for tests: they lose no power but what they make themselves.
func noSync(*os.File) error { return nil }

func mustOpen(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := open(dir, testSize, noSync)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func appendTo(t *testing.T, l *Log, first uint64, recs ...string) {
	t.Helper()
	if err := l.Append(first, toBytes(recs)); err != nil {
		t.Fatal(err)
	}
}

func toBytes(recs []string) (out [][]byte) {
	for _, r := range recs {
		out = append(out, []byte(r))
	}
	return out
}

// model is what a log should hold.
type model struct {
	first uint64
	recs  []string
}

func (m model) append(first uint64, recs []string) model {
	if len(m.recs) > 0 && first <= m.first+uint64(len(m.recs)) {
		return model{m.first, slices.Concat(m.recs[:first-m.first], recs)}
	}
	return model{first, recs}
}

func (m model) last() uint64 { return m.first + uint64(len(m.recs)) - 1 }

// diff returns how a log differs from the model. It may begin earlier: what
// was dropped at the beginning may be back after a restart.
func (m model) diff(l *Log) error {
	first, last := l.Bounds()
	if len(m.recs) == 0 {
		if last >= m.first {
			return fmt.Errorf("it has records %d to %d, want none from %d on", first, last, m.first)
		}
		return nil
	}
	if first > m.first || last != m.last() {
		return fmt.Errorf("it has records %d to %d, want %d to %d", first, last, m.first, m.last())
	}
	for i, want := range m.recs {
		if got, err := l.Read(m.first + uint64(i)); err != nil || string(got) != want {
			return fmt.Errorf("record %d is %.40q (%w), want %.40q", m.first+uint64(i), got, err, want)
		}
	}
	return nil
}

func record(r *rand.Rand) string {
	size := r.IntN(300)
	if r.IntN(100) == 0 {
		size = r.IntN(2 * testSize)
	}
	return strings.Repeat(string(rune('a'+r.IntN(26))), size)
}

// step does something that raft does to a log, and the same to the model.
func step(t *testing.T, r *rand.Rand, l *Log, m model) model {
	t.Helper()
	var recs []string
	for range 1 + r.IntN(4) {
		recs = append(recs, record(r))
	}
	first := max(m.first, 1) + uint64(len(m.recs))
	switch dice := r.IntN(100); {
	case dice < 80:
	case dice < 85: // a follower replaces what the leader doesn't have
		keep := r.IntN(len(m.recs) + 1)
		if err := l.DropFrom(m.first + uint64(keep)); err != nil {
			t.Fatal(err)
		}
		return model{m.first, m.recs[:keep]}
	case dice < 88: // the same without asking first
		first -= uint64(r.IntN(len(m.recs) + 1))
	case dice < 90: // after a snapshot that was sent by the leader
		first += uint64(r.IntN(1000))
	case dice < 95: // after a snapshot of its own
		drop := m.first + uint64(r.IntN(len(m.recs)+2))
		if err := l.DropBefore(drop); err != nil {
			t.Fatal(err)
		}
		n := min(drop-min(drop, m.first), uint64(len(m.recs)))
		return model{m.first + n, m.recs[n:]}
	default:
		return m
	}
	appendTo(t, l, first, recs...)
	return m.append(first, recs)
}

func TestLogDoesWhatItsModelDoes(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		l, m := mustOpen(t, dir), model{first: 1}
		most := 0
		for i := range 1500 {
			m = step(t, r, l, m)
			if i%40 == 0 {
				if err := m.diff(l); err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, i, err)
				}
			}
			if r.IntN(100) > 0 {
				continue
			}
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, len(files))
			if r.IntN(2) == 0 {
				err = l.Close()
			} else { // killed
				err = l.closeFiles()
			}
			if err != nil {
				t.Fatal(err)
			}
			l = mustOpen(t, dir)
			if err := m.diff(l); err != nil {
				t.Fatalf("seed %d, step %d, opened again: %v", seed, i, err)
			}
			if err := l.DropBefore(m.first); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if most < 3 || most > 60 {
			t.Errorf("seed %d: at most %d files: segments aren't begun or aren't removed", seed, most)
		}
	}
}

// image is all files of a folder.
type image map[string][]byte

func takeImage(t *testing.T, dir string) image {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	img := image{}
	for _, f := range files {
		if img[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func (img image) write(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, b := range img {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// torn is what a power failure may leave of writing: of each sector the old or
// the new.
func torn(r *rand.Rand, old, written image) image {
	out := image{}
	for name, b := range written {
		out[name] = slices.Clone(b)
		for at := 0; at < len(b) && old[name] != nil; at += 512 {
			if r.IntN(2) == 0 {
				copy(out[name][at:at+512], old[name][at:])
			}
		}
	}
	return out
}

// The power fails at each write: what was on the disk is there, and what was
// being written is there whole or not at all.
func TestPowerFailure(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 2))
		dir := t.TempDir()
		l, m := mustOpen(t, dir), model{first: 1}
		durable := takeImage(t, dir)
		var left []image
		l.sync = func(*os.File) error {
			written := takeImage(t, dir)
			left = append(left, durable, torn(r, durable, written), torn(r, durable, written), written)
			durable = written
			return nil
		}
		before, after := 0, 0
		for range 60 {
			left = nil
			old := m
			m = step(t, r, l, m)
			for _, img := range left {
				again, err := open(img.write(t), testSize, noSync)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				isOld, isNew := old.diff(again), m.diff(again)
				if isNew != nil && isOld != nil {
					t.Fatalf("seed %d: not as before: %v; and not as after: %v", seed, isOld, isNew)
				}
				if isNew == nil {
					after++
				} else {
					before++
				}
				if err := again.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if before < 20 || after < 20 {
			t.Errorf("seed %d: %d failures left the state before, %d the one after: too few", seed, before, after)
		}
		if err := l.closeFiles(); err != nil {
			t.Fatal(err)
		}
	}
}

// sample writes a log of three segments, and the next, with replaced records.
func sample(t *testing.T, end func(*Log) error) (image, model) {
	t.Helper()
	dir := t.TempDir()
	l, m := mustOpen(t, dir), model{first: 1}
	for i := uint64(1); len(takeNames(t, dir)) < 4; i++ {
		first, recs := 10+i, []string{fmt.Sprintf("record %d %0200d", i, i), "x"}
		appendTo(t, l, first, recs...)
		m = m.append(first, recs)
	}
	for i := range uint64(5) {
		first, recs := m.last()+1, []string{fmt.Sprintf("late record %d", i)}
		appendTo(t, l, first, recs...)
		m = m.append(first, recs)
	}
	if err := end(l); err != nil {
		t.Fatal(err)
	}
	return takeImage(t, dir), m
}

func takeNames(t *testing.T, dir string) []string {
	t.Helper()
	return slices.Sorted(maps.Keys(takeImage(t, dir)))
}

// Damage is found or harmless. Only of a log that wasn't closed, the last
// Append may be gone.
func TestDamage(t *testing.T) {
	for name, end := range map[string]func(*Log) error{"closed": (*Log).Close, "killed": (*Log).closeFiles} {
		t.Run(name, func(t *testing.T) {
			whole, m := sample(t, end)
			if l := mustOpen(t, whole.write(t)); m.diff(l) != nil {
				t.Fatal(m.diff(l))
			}
			short := model{m.first, m.recs[:len(m.recs)-1]}
			names := slices.Sorted(maps.Keys(whole))
			r := rand.New(rand.NewPCG(3, 3))
			found, dropped := 0, 0
			for i := range 280 {
				bad := maps.Clone(whole)
				victim := names[r.IntN(len(names))]
				harm(r, bad, victim, names, i%7)
				l, err := open(bad.write(t), testSize, noSync)
				switch {
				case errors.Is(err, ErrDamaged) && strings.Contains(err.Error(), suffix+": "):
					found++
					continue
				case err != nil:
					t.Fatalf("damage %d: %v", i, err)
				}
				err = m.diff(l)
				if err != nil && name == "killed" && short.diff(l) == nil {
					dropped++
					err = nil
				}
				if err != nil {
					t.Fatalf("damage %d of %s went unnoticed: %v", i, victim, err)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if found < 100 {
				t.Errorf("%d damages were found: the test looks in the wrong place", found)
			}
			t.Logf("%d found, %d dropped the last record", found, dropped)
		})
	}
}

// harm damages a file, in the way that how says. It spares blocks in the last
// segment's used part from being lost whole: a disk that loses what it has
// acknowledged is not what this is for.
func harm(r *rand.Rand, img image, victim string, names []string, how int) {
	b := slices.Clone(img[victim])
	used := len(bytes.TrimRight(b, "\x00"))
	at := r.IntN(used)
	switch how {
	case 0:
		img[victim] = b[:r.IntN(len(b))]
		return
	case 1:
		delete(img, victim)
		if victim == names[0] { // that is what DropBefore does
			img[victim] = b[:0]
		}
		return
	case 2:
		img[victim] = img[names[r.IntN(len(names))]]
		return
	case 3: // a block of a file that is no longer written
		if victim == names[0] {
			clear(b[at/4096*4096 : min(at/4096*4096+4096, len(b))])
		}
	case 4:
		b[at] = byte(r.Uint32())
	default:
		b[at] ^= 1 << r.IntN(8)
	}
	img[victim] = b
}

// A write that fails changes nothing, and the next one works.
func TestFailedWriteIsForgotten(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir)
	m := model{first: 1}.append(1, []string{"one", "two"})
	appendTo(t, l, 1, m.recs...)
	failure := errors.New("input/output error")
	big := strings.Repeat("b", testSize/2)
	for i := range 6 {
		l.sync = func(*os.File) error { return failure }
		if err := l.Append(m.last()+1, toBytes([]string{"never", big})); !errors.Is(err, failure) {
			t.Fatalf("Append = %v", err)
		}
		if err := l.DropFrom(2); !errors.Is(err, failure) {
			t.Fatalf("DropFrom = %v", err)
		}
		l.sync = noSync
		if err := m.diff(l); err != nil {
			t.Fatal(err)
		}
		recs := []string{fmt.Sprint(i), big}[:1+i%2]
		appendTo(t, l, m.last()+1, recs...)
		m = m.append(m.last()+1, recs)
	}
	if err := l.closeFiles(); err != nil {
		t.Fatal(err)
	}
	if err := m.diff(mustOpen(t, dir)); err != nil {
		t.Fatal(err)
	}
}

// A disk without room for a new segment is known one segment before it is
// needed. Then Append fails, and works when there is room again.
func TestNoRoomForASegment(t *testing.T) {
	dir := t.TempDir()
	l, m := mustOpen(t, dir), model{first: 1}
	half := []string{strings.Repeat("a", testSize/2)}
	add := func(recs []string) {
		t.Helper()
		appendTo(t, l, m.last()+1, recs...)
		m = m.append(m.last()+1, recs)
	}
	obstacle := segmentPath(dir, 3) + unfinished
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	add(half)
	if err := l.Problem(); err != nil {
		t.Errorf("a segment ahead of need: %v", err)
	}
	add(half)
	if l.Problem() == nil {
		t.Error("nobody says that there is no room")
	}
	if err := l.Append(m.last()+1, toBytes(half)); err == nil {
		t.Fatal("it went into a file that could not be made")
	}
	add([]string{"small"})
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	add(half)
	if err := l.Problem(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := m.diff(l); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.diff(mustOpen(t, dir)); err != nil {
		t.Fatal(err)
	}
}

// The next segment, made ahead of need, isn't taken for the log.
func TestLostLogIsNotEmpty(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir)
	appendTo(t, l, 1, "one")
	if err := errors.Join(l.Close(), os.Remove(segmentPath(dir, 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), segmentPath(dir, 1)) {
		t.Errorf("Open = %v", err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir)
	if first, last := l.Bounds(); first != 0 || last != 0 {
		t.Errorf("a new log has records %d to %d", first, last)
	}
	if err := l.Append(0, toBytes([]string{"x"})); err == nil {
		t.Error("record 0 was taken")
	}
	appendTo(t, l, 1, "one", "two", "three")
	if err := l.DropBefore(3); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(2, toBytes([]string{"again"})); err == nil {
		t.Error("a record that was dropped was replaced")
	}
	for _, index := range []uint64{0, 2, 4} {
		if _, err := l.Read(index); !errors.Is(err, ErrNotFound) {
			t.Errorf("Read(%d) = %v", index, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "notes.txt doesn't belong there") {
		t.Errorf("a foreign file: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a folder that isn't there was opened")
	}
}
