package demo

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"had/internal/lab"
)

// moment is something that one party saw: who saw what, about which subjects.
type moment struct {
	at        time.Time
	who, what string
	subjects  []string
}

// together is how close two moments of the same kind are to be told as one:
// the addresses of a policy come and go one after another.
const together = 20 * time.Millisecond

// timeline puts moments in order and joins those that belong together.
func timeline(moments []moment) []moment {
	slices.SortStableFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
	var joined []moment
	for _, m := range moments {
		i := slices.IndexFunc(joined, func(j moment) bool {
			return j.who == m.who && j.what == m.what && m.at.Sub(j.at) <= together && len(m.subjects) > 0
		})
		if i >= 0 {
			joined[i].subjects = append(slices.Clone(joined[i].subjects), m.subjects...)
			continue
		}
		joined = append(joined, m)
	}
	return joined
}

func (m moment) text() string {
	return strings.TrimSpace(m.what + " " + strings.Join(m.subjects, ", "))
}

// kernelMoments tells what the observer saw of a host's addresses since start.
func kernelMoments(h lab.History, start time.Time) []moment {
	var moments []moment
	for _, t := range h.Transitions {
		if t.At.Before(start) {
			continue
		}
		verb := "has lost"
		if t.Held {
			verb = "has got"
		}
		moments = append(moments, moment{t.At, "kernel", t.Host + " " + verb, []string{h.VIP.String()}})
	}
	return moments
}

// clientMoments tells where a client's gap began and ended.
func clientMoments(g lab.Gap, over string) []moment {
	return []moment{
		{g.Start, "client", "last answer from " + g.FromHost + " by", []string{over}},
		{g.End, "client", "first answer from " + g.ToHost + " by", []string{over}},
	}
}

// stepText says in words what a step of a report is. Steps that are only
// bookkeeping are left out unless they took long.
func stepText(s step) string {
	switch s.Name {
	case "test":
		return "Test script"
	case "probe":
		return "asks whether anybody else has the addresses"
	case "pre_acq":
		return "PreAcq scripts"
	case "addresses_up":
		return "addresses up"
	case "post_acq":
		return "PostAcq scripts"
	case "pre_rel":
		return "PreRel scripts"
	case "addresses_down":
		return "addresses down"
	case "post_rel":
		return "PostRel scripts"
	}
	if s.DurationMs < 10 {
		return ""
	}
	return strings.ReplaceAll(s.Name, "_", " ")
}

// logMoments tells the steps that the nodes reported to the log.
func logMoments(events []event) []moment {
	var moments []moment
	waited := "" // a successor closes what was open and acquires in one entry
	for _, e := range events {
		add := func(at time.Time, format string, args ...any) {
			moments = append(moments, moment{at: at, who: e.Node, what: fmt.Sprintf(format, args...)})
		}
		switch {
		case e.Closed != nil && e.Closed.Kind == "waited":
			waited = fmt.Sprintf(", having waited %s for epoch %d to be over", ms(e.Closed.WaitedMs), e.Closed.Epoch)
		case e.Acquired != nil:
			add(e.At, "owns from here on: epoch %d%s", e.Epoch, waited)
			waited = ""
		}
		for _, report := range []*stepped{e.Progress, e.Released} {
			if report == nil {
				continue
			}
			for _, s := range report.Steps {
				if text := stepText(s); text != "" {
					add(s.Started, "%s (%s)", text, ms(s.DurationMs))
				}
			}
		}
	}
	return moments
}

// ms writes milliseconds with the precision that means something.
func ms(v float64) string {
	if v < 99.95 && v != 0 {
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.0f ms", v)
}

func inMs(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// seconds writes milliseconds as seconds: 4.5 s.
func seconds(v float64) string {
	return strings.Replace(fmt.Sprintf("%.1f s", v/1000), ".0 ", " ", 1)
}
