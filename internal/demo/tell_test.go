package demo

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
)

func TestOverlapIsFound(t *testing.T) {
	vip := netip.MustParseAddr("10.77.0.100")
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	h := lab.History{VIP: vip, Start: at(0), End: at(1000), Transitions: []lab.Transition{
		{At: at(100), Host: "alpha", Held: true},
		{At: at(400), Host: "beta", Held: true},
		{At: at(407), Host: "alpha", Held: false},
	}}
	seen := map[netip.Addr]lab.History{vip: h}
	err := overlapError(seen)
	if err == nil || !strings.Contains(err.Error(), "alpha and beta had 10.77.0.100 at the same time, for 7.0 ms") {
		t.Errorf("error = %v", err)
	}
	r := result{start: at(50), end: at(405), seen: seen}
	if got := r.sharedAny(); got != 5*time.Millisecond {
		t.Errorf("shared for %s of the act, want 5ms", got)
	}
	if got := r.vacant(vip); got != 50*time.Millisecond {
		t.Errorf("vacant for %s of the act, want 50ms", got)
	}
	h.Transitions = h.Transitions[:1]
	if err := overlapError(map[netip.Addr]lab.History{vip: h}); err != nil {
		t.Errorf("one holder, yet %v", err)
	}
}

func TestTimelineJoinsTheAddresses(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	got := timeline([]moment{
		{at(900), "kernel", "beta has got", []string{"fd77::100"}},
		{at(30), "client", "last answer by", []string{"IPv4"}},
		{at(31), "client", "last answer by", []string{"IPv6"}},
		{at(0), "demo", "begins", nil},
		{at(0), "demo", "begins", nil},
		{at(100), "kernel", "beta has got", []string{"10.77.0.100"}}, // too early for the other
	})
	var lines []string
	for _, m := range got {
		lines = append(lines, m.who+" "+m.text())
	}
	want := "demo begins|demo begins|client last answer by IPv4, IPv6|kernel beta has got 10.77.0.100|kernel beta has got fd77::100"
	if strings.Join(lines, "|") != want {
		t.Errorf("timeline = %s\nwant       %s", strings.Join(lines, "|"), want)
	}
}

func TestFoldKeepsWordsAndIndents(t *testing.T) {
	for _, c := range []struct {
		line          string
		width, indent int
		want          string
	}{
		{"short", 40, 4, "short"},
		{"two  spaces stay  as they are here", 24, 2, "two  spaces stay  as|  they are here"},
		{"  an indented line that is too wide", 20, 2, "  an indented line|  that is too wide"},
		{"averyveryverylongwordthatfitsnowhere end", 20, 2, "averyveryverylongwordthatfitsnowhere|  end"},
		{"no width is known, so nothing is folded", 0, 2, "no width is known, so nothing is folded"},
	} {
		if got := strings.Join(fold(c.line, c.width, c.indent), "|"); got != c.want {
			t.Errorf("fold(%q, %d) = %s, want %s", c.line, c.width, got, c.want)
		}
	}
}

func TestColourOnlyWhereAskedFor(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out strings.Builder
		n := newNarrator(Config{Out: &out, Color: color})
		n.title("a title")
		n.fact("observer", green, "0 ms")
		if got := strings.Contains(out.String(), "\x1b["); got != color {
			t.Errorf("colour %t, escape sequences %t", color, got)
		}
	}
}
