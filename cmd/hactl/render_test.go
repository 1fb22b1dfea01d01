package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

var update = flag.Bool("update", false, "write the golden answers anew: read the difference before committing it")

// golden compares what render makes of each archive's input with the archive's
// other sections.
func golden[T any, P interface {
	*T
	proto.Message
}](t *testing.T, pattern string, render func(P) map[string]string) {
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no case at %s: %v", pattern, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m := P(new(T))
			if err := protojson.Unmarshal(a.Files[0].Data, m); err != nil {
				t.Fatal(err)
			}
			got := render(m)
			for i, file := range a.Files[1:] {
				text := got[file.Name]
				if *update {
					a.Files[i+1].Data = []byte(text)
				} else if diff := cmp.Diff(string(file.Data), text); diff != "" {
					t.Errorf("%s (-want +got):\n%s", file.Name, diff)
				}
				checkPlain(t, text)
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(a), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// checkPlain fails when text could steer a terminal.
func checkPlain(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("unprintable %U in %q", r, text)
		}
	}
}

func plainTestView() view { return view{width: plainWidth, zone: time.UTC} }

// TestStatus renders each testdata/status case: its table, the line of the
// monitoring plugin and its exit code.
func TestStatus(t *testing.T) {
	golden(t, "testdata/status/*.txtar", func(s *hadv1.StatusResponse) map[string]string {
		table := renderStatus(s, plainTestView())
		for line := range strings.Lines(table) {
			words := strings.Fields(line)
			if w := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); w > plainWidth && !strings.HasPrefix(line, "Next: ") && len(words) > 1 {
				t.Errorf("%d columns: %q", w, line)
			}
		}
		check := pluginLine(s)
		if strings.Count(check, "\n") != 1 {
			t.Errorf("a plugin prints one line, not %q", check)
		}
		return map[string]string{"table": table, "check": check}
	})
}

// TestHistory renders each testdata/history case.
func TestHistory(t *testing.T) {
	golden(t, "testdata/history/*.txtar", func(h *hadv1.HistoryResponse) map[string]string {
		var b strings.Builder
		for _, e := range h.GetEvents() {
			b.WriteString(renderEvent(e, plainTestView(), toTheMilli))
		}
		return map[string]string{"lines": b.String()}
	})
}

// A status is fine only if it is owned, confirmed and everybody is well, now
// and for any state that a newer daemon may send.
func TestOnlyConfirmedOwnershipIsFine(t *testing.T) {
	for state := hadv1.Ownership_State(0); state <= 20; state++ {
		for _, confirmed := range []bool{false, true} {
			s := &hadv1.StatusResponse{
				Freshness: &hadv1.Freshness{Confirmed: confirmed},
				Ownership: &hadv1.Ownership{State: state, Owner: "alpha"},
				Policy:    &hadv1.PolicySummary{Version: 1},
			}
			want := state == hadv1.Ownership_STATE_OWNED && confirmed
			if got := judge(s).level == levelOK; got != want {
				t.Errorf("state %s, confirmed %t: fine is %t", state, confirmed, got)
			}
			for _, bad := range []*hadv1.NodeStatus{
				{Name: "beta", Eligible: true},
				{Name: "beta", Reachable: true},
				{Name: "beta", Reachable: true, Eligible: true, Problems: []string{"no carrier"}},
				{Name: "beta", Reachable: true, Eligible: true, Holds: []string{"192.0.2.10"}},
			} {
				s.Nodes = []*hadv1.NodeStatus{bad}
				if state == hadv1.Ownership_STATE_OWNED && judge(s).level == levelOK {
					t.Errorf("fine with %v", bad)
				}
			}
		}
	}
	if judge(&hadv1.StatusResponse{}).level != levelUnknown {
		t.Error("an empty answer isn't unknown")
	}
}

// What a watch still shows must not look current once the connection is gone.
func TestWatchAfterLoss(t *testing.T) {
	now := time.Date(2026, 8, 20, 14, 0, 0, 0, time.UTC)
	s := sighting{at: now, status: &hadv1.StatusResponse{
		Cluster:   "office",
		Freshness: &hadv1.Freshness{Confirmed: true, AgeMs: 4},
		Ownership: &hadv1.Ownership{State: hadv1.Ownership_STATE_OWNED, Owner: "alpha", LeaseRemainingMs: 812},
	}}
	later := renderWatch(s, nil, now.Add(3*time.Second), plainTestView())
	if !strings.Contains(later, "confirmed by quorum 3 s ago") || strings.Contains(later, "812 ms") {
		t.Errorf("the status didn't age:\n%s", later)
	}
	lost := renderWatch(s, fail(exitUnreachable, "had is away"), now, plainTestView())
	if strings.Contains(lost, "confirmed by quorum") || !strings.Contains(lost, "UNKNOWN: had is away") {
		t.Errorf("a lost status looks current:\n%s", lost)
	}
	if s.status.GetFreshness().GetAgeMs() != 4 {
		t.Error("rendering changed the status")
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "0 ms",
		420 * time.Microsecond:   "0.4 ms",
		4 * time.Millisecond:     "4 ms",
		812 * time.Millisecond:   "812 ms",
		-3 * time.Millisecond:    "-3 ms",
		time.Second:              "1 s",
		12345 * time.Millisecond: "12.3 s",
		192 * time.Second:        "3 min 12 s",
		time.Hour:                "1 h",
		192 * time.Minute:        "3 h 12 min",
		50 * time.Hour:           "2 d 2 h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%d ns) = %q, want %q", d, got, want)
		}
	}
}

// Nothing a daemon or a script sends may reach the terminal as a control.
func FuzzClean(f *testing.F) {
	f.Add("\x1b]0;owned\x07 \u202e \xff\x9b1m\r\n\tüß日本")
	f.Fuzz(func(t *testing.T, s string) {
		checkPlain(t, clean(s))
		for _, line := range cleanBlock(s) {
			checkPlain(t, line)
			if strings.Contains(line, "\n") {
				t.Errorf("a line of a block holds a line break: %q", line)
			}
		}
		checkPlain(t, oneLine(s))
	})
}
