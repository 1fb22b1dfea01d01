package bench

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of the files that WriteDocs makes.
const (
	PageFile = "benchmarks.md"
	PlotFile = "benchmarks.svg"
)

// WriteDocs writes the page and the plot of a report into a folder. The same
// report always gives the same bytes.
func WriteDocs(r *Report, dir string) error {
	if err := writeFile(filepath.Join(dir, PlotFile), []byte(plot(r))); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, PageFile), []byte(page(r)))
}

// page is benchmarks.md. A part that wasn't run has no section.
func page(r *Report) string {
	var b strings.Builder
	b.WriteString(`# Benchmarks

How long a client goes without an answer when the owner of an address fails,
whether two hosts ever answer for it, and what it costs to be ready: ` + "`had`" + ` and
Debian's keepalived, side by side in one run on the same kind of hosts. This
page and its plot are made by

    make bench

which prints every trial and keeps them all in ` + "`build/bench/results.json`" + `. For
less: ` + "`make bench N=5 ONLY=crash,isolated`" + `.

`)
	b.WriteString(machineTable(r))
	if len(r.Faults) > 0 {
		b.WriteString(overview(r))
		b.WriteString(faultSections(r))
	}
	if len(r.Scale) > 0 {
		b.WriteString(scaleSection(r))
	}
	if len(r.Steady) > 0 {
		b.WriteString(steadySection(r))
	}
	if len(r.Volumes) > 0 {
		b.WriteString(volumeSection(r))
	}
	if len(r.Idle) > 0 {
		b.WriteString(idleSection(r))
	}
	if len(r.Missing) > 0 {
		b.WriteString("## Not measured\n\n")
		for _, m := range r.Missing {
			fmt.Fprintf(&b, "- %s\n", strings.Join(strings.Fields(m.What), " "))
		}
		b.WriteString("\n")
	}
	b.WriteString(method)
	return b.String()
}

// table is a table of Markdown; columns after the first left ones are numbers
// and set to the right.
func table(left int, header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(header)
	rule := make([]string, len(header))
	for i := range rule {
		rule[i] = "---:"
		if i < left {
			rule[i] = "---"
		}
	}
	line(rule)
	for _, row := range rows {
		line(row)
	}
	b.WriteString("\n")
	return b.String()
}

func machineTable(r *Report) string {
	m := r.Machine
	keepalived := m.Keepalived
	if keepalived == "" {
		keepalived = "not installed, not measured"
	}
	rows := [][]string{
		{"machine", fmt.Sprintf("%s, %d cores, %.1f GB of memory", m.CPU, m.Cores, float64(m.MemoryMB)/1024)},
		{"kernel", "Linux " + m.Kernel},
		{"file system of the logs", m.FileSystem},
		{"load average before", m.Load},
		{"had", m.Had},
		{"keepalived", keepalived},
	}
	for _, part := range slices.Sorted(maps.Keys(r.Later)) {
		rows = append(rows, []string{"had, for " + titleOf(part), r.Later[part]})
	}
	return table(2, []string{"made with", ""}, rows)
}

// titleOf is what the page calls a part.
func titleOf(part string) string {
	switch part {
	case partIdle:
		return "what idling costs"
	case partScale:
		return "many addresses"
	case partVolumes:
		return "volumes"
	}
	return faultOf(part).title
}

// overview is the plot and the medians of all faults.
func overview(r *Report) string {
	header := []string{"no answer, median ms"}
	for _, s := range r.Subjects {
		header = append(header, s.Title)
	}
	var rows [][]string
	for _, f := range faults() {
		cells, measured := []string{f.title}, false
		for _, s := range r.Subjects {
			trials := r.trials(s.Key, f.key)
			cell := ""
			if len(trials) > 0 {
				measured = true
				cell = number(Summarize(collect(trials, Trial.longest)).Median)
			}
			if slices.ContainsFunc(trials, Trial.both) {
				cell += ", **two hosts**"
			}
			cells = append(cells, cell)
		}
		if measured {
			rows = append(rows, cells)
		}
	}
	return fmt.Sprintf(`## At a glance

![The gap of every trial, by fault and product](%s)

The longer gap of the two addresses, in ms; **two hosts**: in at least one trial
two hosts answered for an address at the same time.

`, PlotFile) + table(1, header, rows)
}

// faultSections has a table a fault, a row a subject.
func faultSections(r *Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, `## Faults

Times in ms, as median / p95 / max. **No answer** is the longest time between two
answers that the client had, of which it asks for two each millisecond. **Two
answered** says in how many trials two hosts answered for the address, and for
how long at most. A fault is mended %g s after the takeover: where two hosts
answer for that long, they do so until somebody mends it.
**While mended** is the longest time without an answer from then until all is
well (median / max).

`, hold.Seconds())
	for _, f := range faults() {
		var rows [][]string
		for _, s := range r.Subjects {
			if trials := r.trials(s.Key, f.key); len(trials) > 0 {
				rows = append(rows, faultRow(s, trials))
			}
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "### %s\n\n%s\n\n", headline(f.title), f.about)
		b.WriteString(table(1, []string{"", "trials", "no answer, IPv4", "no answer, IPv6", "two answered", "while mended"}, rows))
	}
	return b.String()
}

func faultRow(s Subject, trials []Trial) []string {
	heal := Summarize(collect(trials, func(t Trial) float64 { return max(t.V4.HealGap, t.V6.HealGap) }))
	return []string{
		s.Title, trialCount(trials),
		three(Summarize(collect(trials, func(t Trial) float64 { return t.V4.Gap }))),
		three(Summarize(collect(trials, func(t Trial) float64 { return t.V6.Gap }))),
		twoAnswered(trials),
		number(heal.Median) + " / " + number(heal.Max),
	}
}

// trialCount says how many trials there were, and which of them went wrong.
func trialCount(trials []Trial) string {
	text := fmt.Sprint(len(trials))
	count := func(what string, is func(Trial) bool) {
		n := 0
		for _, t := range trials {
			if is(t) {
				n++
			}
		}
		if n > 0 {
			text += fmt.Sprintf(", %d %s", n, what)
		}
	}
	count("without a takeover", func(t Trial) bool { return t.Successor == "" })
	count("not well again", func(t Trial) bool { return t.Rebuilt != "" })
	count("with a stalled client", func(t Trial) bool { return t.Stalled })
	return text
}

// twoAnswered says how often and for how long two hosts answered.
func twoAnswered(trials []Trial) string {
	n, longest := 0, 0.0
	for _, t := range trials {
		if t.both() {
			n++
			longest = max(longest, t.V4.Both, t.V6.Both)
		}
	}
	if n == 0 {
		return "never"
	}
	return fmt.Sprintf("**%d of %d**, up to %s", n, len(trials), number(longest))
}

// both reports whether two hosts ever answered for an address in the trial.
func (t Trial) both() bool { return t.V4.Times+t.V6.Times > 0 }

func (r *Report) trials(subject, fault string) []Trial {
	return slices.DeleteFunc(slices.Clone(r.Faults), func(t Trial) bool { return t.Subject != subject || t.Fault != fault })
}

func collect[T any](items []T, value func(T) float64) []float64 {
	values := make([]float64, len(items))
	for i, item := range items {
		values[i] = value(item)
	}
	return values
}

func scaleSection(r *Report) string {
	var rows [][]string
	for _, family := range []string{ipv4, ipv6} {
		for _, count := range counts() {
			for _, trigger := range triggers() {
				for _, s := range r.Subjects {
					runs := slices.DeleteFunc(slices.Clone(r.Scale), func(m Many) bool {
						return m.Subject != s.Key || m.Family != family || m.Count != count || m.Trigger != trigger
					})
					if len(runs) == 0 {
						continue
					}
					rows = append(rows, []string{
						fmt.Sprintf("%d %s", count, family), faultOf(trigger).title, s.Title, fmt.Sprint(len(runs)),
						three(Summarize(collect(runs, func(m Many) float64 { return m.All }))),
						three(Summarize(collect(runs, func(m Many) float64 { return m.All - m.First }))),
					})
				}
			}
		}
	}
	return `## Takeover of many addresses

In ms, as median / p95 / max: from the signal until the successor's kernel has
every address, and from the first to the last of them.

` + table(3, []string{"addresses", "trigger", "", "trials", "signal to all there", "first to last"}, rows)
}

func steadySection(r *Report) string {
	var rows [][]string
	for _, family := range []string{ipv4, ipv6} {
		for _, s := range r.Steady {
			if s.Family == family {
				rows = append(rows, []string{
					fmt.Sprintf("%d %s", s.Count, family), r.title(s.Subject), number(s.CPU), number(s.Packets),
				})
			}
		}
	}
	return fmt.Sprintf(`### Holding them

What the owner pays a second, over %d s in which nothing happens. keepalived
advertises; had renews its lease and the lifetime of each address.

`, int(renewing.Seconds())) + table(2, []string{"addresses", "", "CPU, ms a second", "packets a second"}, rows)
}

func idleSection(r *Report) string {
	var rows [][]string
	for _, s := range r.Subjects {
		for _, role := range []string{"owner", "standby"} {
			costs := slices.DeleteFunc(slices.Clone(r.Idle), func(c Cost) bool { return c.Subject != s.Key || c.Role != role })
			if len(costs) > 0 {
				rows = append(rows, append([]string{s.Title, role}, idleRow(costs)...))
			}
		}
	}
	return fmt.Sprintf(`## Idle

A server over one minute (%d s) in which nothing happens, with an IPv4 and an
IPv6 address; of the standbys, the one with the highest figure. Memory is the
sum of all processes of the server, which has its own copy of the program: PSS
divides shared pages among them, RSS counts them in each.

`, int(idling.Seconds())) + table(2, []string{
		"", "", "processes", "CPU, ms a minute", "PSS, MB", "RSS, MB", "to the disk, KB a second", "GB a day", "packets sent a second", "received",
	}, rows)
}

// idleRow takes the highest of each figure.
func idleRow(costs []Cost) []string {
	most := func(value func(Cost) float64) float64 { return slices.Max(collect(costs, value)) }
	written := most(func(c Cost) float64 { return c.Written })
	day := (24 * time.Hour).Seconds()
	return []string{
		fmt.Sprint(most(func(c Cost) float64 { return float64(c.Processes) })),
		number(most(func(c Cost) float64 { return c.CPU })),
		number(most(func(c Cost) float64 { return megabytes(c.PSS) })),
		number(most(func(c Cost) float64 { return megabytes(c.RSS) })),
		number(written / 1e3), number(written * day / 1e9),
		number(most(func(c Cost) float64 { return c.Sent })),
		number(most(func(c Cost) float64 { return c.Received })),
	}
}

// title is the title of the subject of that key.
func (r *Report) title(key string) string {
	for _, s := range r.Subjects {
		if s.Key == key {
			return s.Title
		}
	}
	return key
}

func three(s Summary) string {
	return number(s.Median) + " / " + number(s.P95) + " / " + number(s.Max)
}

// number writes a measured value with no more digits than it deserves.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// headline begins with a capital letter.
func headline(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

const method = `## How it is measured

Every subject has a cluster of its own: three servers and a client, each in
network, mount and host name namespaces of its own, on one bridge
([internal/lab](../internal/lab/DESIGN.md)). The daemons are the programs as they
are installed, without hooks or check scripts. The subjects take turns of five
trials a fault, in which theirs is the only cluster on the machine, so that a
busy while hits them alike; a fault comes at a random moment within a second,
when all is well.

- **The client** asks each address twice a millisecond over UDP, through its
  kernel's neighbour cache: a gap is the time between two answers. While the
  machine keeps the client from asking it misses nothing, and a gap begins half
  a millisecond before its next request; after more than 10 ms of that, or where
  it asked too seldom in the gap, the trial is one "with a stalled client".
- **Who answers** is asked of every server at once, each millisecond, on its own
  switch port, so that a partition hides nobody; answers count in the order of
  the kernel's stamps. No list of addresses and no word of a daemon is believed.
- **Who has an address**, for the takeover of many, is what the kernels announce
  over netlink to one observer.
- **Who has a volume** is what each kernel says, asked every 2 ms: a file system that
  is no longer mounted, but still alive, counts. Every server has a device of its own
  over one disk, and so caches of its own.
- **keepalived** runs VRRP version 3 with one instance for both families, state
  BACKUP and nopreempt on all three servers, which is how had behaves; everything
  else is as it comes.
- **CPU** is the time of all threads, ended ones included
  (clock_getcpuclockid(3)); **disk** is write_bytes of proc_pid_io(5), what the
  daemon causes to be sent to the disk; **packets** are those of the server's
  link. Nothing else runs in the namespaces.

All hosts share the cores of one machine, so the longest times contain what its
scheduler did to everybody, the client included; compare within a table, and
expect better tails from servers of their own.
`
