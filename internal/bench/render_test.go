package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a report of a run in which keepalived left two hosts answering and
// one trial of ours went wrong in every way a row can tell.
func sample() *Report {
	all := subjects()
	r := &Report{
		Machine:  Machine{CPU: "test", Cores: 2, MemoryMB: 2048, Kernel: "6.0", FileSystem: "ext4", Load: "0.10", Had: "had 1"},
		Trials:   3,
		Subjects: all[:2],
	}
	for i, gap := range []float64{40, 60, 50} {
		t := Trial{Subject: "had-200", Fault: "crash", Owner: "alpha", Successor: "beta"}
		t.V4.Gap, t.V6.Gap, t.V4.HealGap = gap, gap+1, 2
		if i == 2 {
			t.Successor, t.Stalled, t.Rebuilt = "", true, "it was in pieces"
		}
		r.Faults = append(r.Faults, t)
		t = Trial{Subject: "keepalived-0.1", Fault: "crash", Owner: "alpha", Successor: "beta"}
		t.V4 = Seen{Gap: 1234, Both: 987.6, Times: 1}
		r.Faults = append(r.Faults, t)
	}
	r.Scale = []Many{
		{Subject: "had-200", Family: ipv6, Count: 1000, Trigger: "stop", First: 2, All: 32},
		{Subject: "had-200", Family: ipv6, Count: 1000, Trigger: "stop", First: 2, All: 22},
	}
	r.Steady = []Renewal{{Subject: "had-200", Family: ipv6, Count: 1000, Seconds: 5, CPU: 12.34, Packets: 250}}
	for _, mounted := range []float64{80, 90} {
		t := VolumeTrial{FSType: "xfs", Dirty: true, Mounted: mounted, Forced: 4}
		t.Trial = Trial{Subject: "had-500", Fault: "crash", Successor: "beta", V4: Seen{Gap: mounted + 10}}
		r.Volumes = append(r.Volumes, t)
		t.Fault, t.Stalled = "move", true
		r.Volumes = append(r.Volumes, t)
	}
	r.Missing = []Missing{{partScale, "it\nbroke"}}
	r.Idle = []Cost{
		{Subject: "had-200", Role: "standby", Processes: 1, CPU: 100, PSS: 20e6, RSS: 30e6, Written: 1000, Sent: 5, Received: 6},
		{Subject: "had-200", Role: "standby", Processes: 2, CPU: 90, PSS: 21e6, RSS: 30e6, Written: 2000, Sent: 5, Received: 6},
	}
	return r
}

// row returns the cells of the first row that begins with all of these.
func row(t *testing.T, page string, begin ...string) []string {
	t.Helper()
	start := "| " + strings.Join(begin, " | ") + " |"
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, start) {
			return strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")[len(begin):]
		}
	}
	t.Fatalf("no row begins with %q in\n%s", start, page)
	return nil
}

func TestPageShowsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	text := page(sample())
	for _, c := range []struct {
		begin []string
		want  string
	}{
		{[]string{"SIGKILL"}, "51.0; 1234, **two hosts**"},
		{
			[]string{"had, detect 200 ms"},
			"3, 1 without a takeover, 1 not well again, 1 with a stalled client; 50.0 / 60.0 / 60.0; 51.0 / 61.0 / 61.0; never; 2.0 / 2.0",
		},
		{[]string{"keepalived, advertisements 0.1 s"}, "3; 1234 / 1234 / 1234; 0 / 0 / 0; **3 of 3**, up to 988; 0 / 0"},
		{[]string{"1000 IPv6", "SIGTERM", "had, detect 200 ms"}, "2; 27.0 / 32.0 / 32.0; 25.0 / 30.0 / 30.0"},
		{[]string{"1000 IPv6", "had, detect 200 ms"}, "12.3; 250"},
		// Of two standbys the highest figures; 2000 bytes a second are 0.17 GB a day.
		{[]string{"had, detect 200 ms", "standby"}, "2; 100; 21.0; 30.0; 2.0; 0.2; 5.0; 6.0"},
		{[]string{"SIGKILL", "150 MB", "xfs"}, "2; 95.0 / 100 / 100; 85.0 / 90.0 / 90.0; 4.0 / 4.0 / 4.0"},
		{[]string{"planned move", "150 MB", "xfs"}, "2, 2 with a stalled client; 95.0 / 100 / 100; 85.0 / 90.0 / 90.0"},
		{[]string{"keepalived"}, "not installed, not measured"},
	} {
		if got := strings.Join(row(t, text, c.begin...), "; "); got != c.want {
			t.Errorf("row %q:\n got %s\nwant %s", c.begin, got, c.want)
		}
	}
	if !strings.Contains(text, "\n- it broke\n") {
		t.Error("the page doesn't say what could not be measured")
	}
	if strings.Contains(text, "### SIGTERM") {
		t.Error("the page has a section for a fault that wasn't measured")
	}
}

func TestPageHasNoEmptyTables(t *testing.T) {
	t.Parallel()
	text := page(&Report{Subjects: subjects()})
	for _, part := range []string{"## At a glance", "## Faults", "## Takeover", "## Holding", "## Volumes", "## Idle", "## Not measured"} {
		if strings.Contains(text, part) {
			t.Errorf("the page of a run that measured nothing has the section %q", part)
		}
	}
}

// Every cell of a row must have its column, or Markdown drops it.
func TestTablesAreRectangular(t *testing.T) {
	t.Parallel()
	columns := 0
	for line := range strings.Lines(page(sample())) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(line, "|")
		if columns != 0 && n != columns {
			t.Errorf("a row with %d bars in a table with %d: %s", n, columns, line)
		}
		columns = n
	}
}

func TestPlotIsXMLWithADotATrial(t *testing.T) {
	t.Parallel()
	r := sample()
	text := plot(r)
	dots, rings := 0, 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot is no XML: %v\n%s", err, text)
		}
		element, ok := token.(xml.StartElement)
		if !ok || element.Name.Local != "circle" {
			continue
		}
		dots++
		for _, a := range element.Attr {
			if a.Name.Local == "stroke" && a.Value != "none" {
				rings++
			}
		}
	}
	if dots != len(r.Faults) || rings != 3 {
		t.Errorf("%d dots, %d of them with a ring; want %d and 3", dots, rings, len(r.Faults))
	}
}

func TestAxisIsLogarithmicAndHasEnds(t *testing.T) {
	t.Parallel()
	decade := plotX(100) - plotX(10)
	if d := plotX(1000) - plotX(100) - decade; d > 1e-9 || d < -1e-9 {
		t.Errorf("decades differ by %g", d)
	}
	for _, c := range []struct{ ms, x float64 }{{0, plotLeft}, {axisFrom, plotLeft}, {axisTo, plotRight}, {axisTo * 9, plotRight}} {
		if got := plotX(c.ms); got != c.x {
			t.Errorf("%g ms is at %g, want %g", c.ms, got, c.x)
		}
	}
}

func TestReportSurvivesItsFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "new", ResultsFile)
	if err := sample().Write(path); err != nil {
		t.Fatal(err)
	}
	r, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if page(r) != page(sample()) || plot(r) != plot(sample()) {
		t.Error("the page of a report differs from that of the same report read from its file")
	}
	if err := WriteDocs(r, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, PageFile))
	if err != nil || string(text) != page(r) {
		t.Errorf("the page that was written differs, or %v", err)
	}
}
