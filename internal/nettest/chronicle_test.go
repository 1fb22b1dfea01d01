package nettest

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// chronicle is what a chaos run reports.
type chronicle struct {
	Seed    uint64        `json:"seed"` // of the faults; the machine's timing can't be repeated
	Started time.Time     `json:"started"`
	Ended   time.Time     `json:"ended"`
	Detect  milliseconds  `json:"detect_ms"`
	Rounds  []*round      `json:"rounds"`
	LeftOut []string      `json:"left_out"` // faults that could not be made here, and why
	Faults  []*occurrence `json:"faults"`
}

// round is the life of one cluster.
type round struct {
	Nodes     string    `json:"nodes"`
	Started   time.Time `json:"started"`
	Events    int       `json:"events"` // in its history
	HookRuns  int       `json:"hook_runs"`
	Epochs    int       `json:"epochs"`
	Layers    []string  `json:"layers"` // that ended its leases
	Identical bool      `json:"identical_histories"`
	// Blind is the longest time in which the judge of the wire asked nobody, or that of
	// the mounts looked nowhere, because the machine was busy.
	Blind      milliseconds `json:"blind_ms"`
	Violations []string     `json:"violations"`
}

// occurrence is one fault, or several at once, and what came of it.
type occurrence struct {
	At       time.Time      `json:"at"`
	Round    int            `json:"round"`
	Faults   []string       `json:"faults"`
	Owner    string         `json:"owner"` // before it
	During   []string       `json:"answering_during"`
	After    string         `json:"owner_after"`
	Lasted   milliseconds   `json:"lasted_ms"`
	Settled  milliseconds   `json:"settled_ms"`   // from its end to one owner on whom all agree
	Overlap  milliseconds   `json:"overlap_ms"`   // two hosts answering, on the wire
	Listed   milliseconds   `json:"listed_ms"`    // a kernel kept what nobody alive could remove, while another host owned
	Gaps     []milliseconds `json:"gaps_ms"`      // of the clients of each address, during the fault
	HealGaps []milliseconds `json:"heal_gaps_ms"` // and from its end until settled
	Moves    int            `json:"moves"`        // changes of the owner
	Reasons  []string       `json:"reasons"`      // of these, from the history
	Violated []string       `json:"violations"`
}

// milliseconds are for people: three decimals of time.Duration.
type milliseconds float64

func inMS(d time.Duration) milliseconds {
	return milliseconds(math.Round(float64(d)/float64(time.Microsecond)) / 1000)
}

func (c *chronicle) violations() (all []string) {
	for i, r := range c.Rounds {
		for _, v := range r.Violations {
			all = append(all, fmt.Sprintf("round %d: %s", i+1, v))
		}
	}
	for _, o := range c.Faults {
		for _, v := range o.Violated {
			all = append(all, fmt.Sprintf("%s %s: %s", o.At.Format(time.TimeOnly), strings.Join(o.Faults, "+"), v))
		}
	}
	return all
}

// write writes the report as text and as JSON.
func (c *chronicle) write(path string) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	for name, text := range map[string][]byte{path + ".json": append(data, '\n'), path + ".txt": []byte(c.text())} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}

func (c *chronicle) text() string {
	var b strings.Builder
	var overlap milliseconds
	epochs := 0
	for _, o := range c.Faults {
		overlap = max(overlap, o.Overlap)
	}
	for _, r := range c.Rounds {
		epochs += r.Epochs
	}
	bad := c.violations()
	fmt.Fprintf(&b, "%d faults in %v, seed %d, detect %v ms: %d owners in %d rounds, longest overlap on the wire %v ms, %d violations\n\n",
		len(c.Faults), c.Ended.Sub(c.Started).Round(time.Second), c.Seed, c.Detect, epochs, len(c.Rounds), overlap, len(bad))
	for _, v := range bad {
		fmt.Fprintf(&b, "VIOLATION  %s\n", v)
	}
	for _, why := range c.LeftOut {
		fmt.Fprintf(&b, "left out   %s\n", why)
	}
	c.table(&b)
	b.WriteString("\nrounds\n")
	for i, r := range c.Rounds {
		fmt.Fprintf(&b, "  %2d  %s  %s, layers %v: %d epochs, %d hook runs, %d events, the same history on every node: %t; the judge's longest pause %v ms\n",
			i+1, r.Started.Format(time.TimeOnly), r.Nodes, r.Layers, r.Epochs, r.HookRuns, r.Events, r.Identical, r.Blind)
	}
	b.WriteString("\nfaults\n")
	for _, o := range c.Faults {
		fmt.Fprintf(&b, "  %s  %2d  %-40s %s then %s, answering meanwhile %v; lasted %v, settled %v after it; gaps %v and %v, overlap %v, moves %d %q\n",
			o.At.Format("15:04:05.000"), o.Round, strings.Join(o.Faults, "+"), o.Owner, o.After, o.During, o.Lasted, o.Settled, o.Gaps, o.HealGaps, o.Overlap, o.Moves, o.Reasons)
	}
	return b.String()
}

// table sums the faults up by kind.
func (c *chronicle) table(b *strings.Builder) {
	kinds := map[string][]*occurrence{}
	for _, o := range c.Faults {
		kind := strings.Join(o.Faults, "+")
		if len(o.Faults) > 1 {
			kind = "(several at once)"
		}
		kinds[kind] = append(kinds[kind], o)
	}
	fmt.Fprintf(b, "\n%-18s %5s %7s %9s   client's gap, v4: %-26s v6: %s\n", "fault, ms", "times", "moved", "overlap", "median p95 max", "median p95 max")
	for _, kind := range sortedKeys(kinds) {
		var moved int
		var overlap milliseconds
		gaps := make([][]milliseconds, 2)
		for _, o := range kinds[kind] {
			moved += min(o.Moves, 1)
			overlap = max(overlap, o.Overlap)
			for i := range min(len(gaps), len(o.Gaps)) {
				gaps[i] = append(gaps[i], o.Gaps[i])
			}
		}
		fmt.Fprintf(b, "%-18s %5d %7d %9.3f   %44s %31s\n", kind, len(kinds[kind]), moved, overlap, quantiles(gaps[0]), quantiles(gaps[1]))
	}
}

// quantiles returns the median, the 95th percentile and the greatest.
func quantiles(values []milliseconds) string {
	if len(values) == 0 {
		return "-"
	}
	slices.Sort(values)
	at := func(q float64) milliseconds { return values[int(math.Ceil(q*float64(len(values))))-1] }
	return fmt.Sprintf("%8.1f %8.1f %8.1f", at(0.5), at(0.95), at(1))
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
