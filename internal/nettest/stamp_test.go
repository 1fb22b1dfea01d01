package nettest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"had/internal/clock"
)

// stampPause is the time between two stamps: a disk has others to serve.
const stampPause = 4 * time.Millisecond

// record is one line of a volume's stamps, or of what a host's stamper has
// noted as safe.
type record struct {
	node   string
	epoch  uint64
	number int
	at     clock.Instant // when its sync had returned; 0 in a volume's file
	begun  clock.Instant // before it was written; 0 in a volume's file
}

// stamp is a service on a volume: it appends records to the file args[0], one
// after another, each synced, and then notes it in args[1], which isn't on the
// volume. It ends with the first write that fails, but for a full disk.
func stamp(args []string) int {
	node, epoch := os.Getenv("HAD_NODE"), os.Getenv("HAD_EPOCH")
	notes, err := os.OpenFile(args[1], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 1
	}
	stamps, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		fmt.Fprintf(notes, "# %s %s: %v\n", node, epoch, err)
		return 1
	}
	for n := 1; ; n++ {
		begun := clock.Now()
		// The first newline ends what a crash has left unfinished.
		_, err := fmt.Fprintf(stamps, "\n%s %s %d .\n", node, epoch, n)
		if err == nil {
			err = stamps.Sync()
		}
		switch {
		case err == nil:
			fmt.Fprintf(notes, "%s %s %d %d %d .\n", node, epoch, n, clock.Now(), begun)
		case !errors.Is(err, unix.ENOSPC):
			fmt.Fprintf(notes, "# %s %s: %v\n", node, epoch, err)
			return 1
		}
		time.Sleep(stampPause)
	}
}

// parseRecords reads a file of stamps or notes. What isn't a record, which ends
// with a full stop, is counted: each crash may leave one unfinished.
func parseRecords(text string) (records []record, torn int) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		fields, whole := strings.CutSuffix(line, " .")
		var r record
		n, _ := fmt.Sscanf(fields, "%s %d %d %d %d", &r.node, &r.epoch, &r.number, &r.at, &r.begun)
		switch {
		case n >= 3 && whole:
			records = append(records, r)
		case line != "" && !strings.HasPrefix(line, "#"):
			torn++
		}
	}
	return records, torn
}

// notes returns what the stampers on all hosts noted as safe for a volume.
func (s *volumeSite) notes(t *testing.T, volume string) (records []record) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.notesDir, volume+".*"))
	must(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		r, _ := parseRecords(string(text))
		records = append(records, r...)
	}
	return records
}

// begunSince counts the records of a host that it began to write after an instant,
// and that became safe. When a write that was under way then did, only the disk
// knows: the stamper may be told, or come to look at its clock, much later.
func (s *volumeSite) begunSince(t *testing.T, host string, since clock.Instant) (n int) {
	t.Helper()
	for _, v := range s.volumes {
		for _, r := range s.notes(t, v.Name) {
			if r.node == host && since.Before(r.begun) {
				n++
			}
		}
	}
	return n
}
