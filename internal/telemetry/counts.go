package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// key tells the samples of a counter apart: the values of its labels.
type key [3]string

// counts are what the history comes to, in numbers: of the events that have come
// to this node since it started.
type counts struct {
	seen uint64 // log index: everything up to it is counted

	transitions, hooks, notified                map[key]uint64
	takeovers, takeSteps, releaseSteps, running map[key]tally

	moves map[string]bool      // that are under way: whether checks have asked for it
	begun map[uint64]time.Time // epochs that nobody was seen to serve in yet
}

func newCounts() *counts {
	return &counts{
		transitions: map[key]uint64{}, hooks: map[key]uint64{}, notified: map[key]uint64{},
		takeovers: map[key]tally{}, takeSteps: map[key]tally{}, releaseSteps: map[key]tally{}, running: map[key]tally{},
		moves: map[string]bool{}, begun: map[uint64]time.Time{},
	}
}

// remembered bounds what is kept of moves and epochs that never ended.
const remembered = 16

// read goes on to the newest event.
func (c *counts) read(src Source) {
	events, _ := src.History(max(c.seen, src.AtStart))
	for _, e := range events {
		c.seen = e.GetIndex()
		c.count(e)
	}
}

func (c *counts) count(e *hadv1.Event) {
	node := e.GetNode()
	switch b := e.GetBody().(type) {
	case *hadv1.Event_MoveOrdered:
		if len(c.moves) >= remembered {
			clear(c.moves)
		}
		c.moves[b.MoveOrdered.GetOperation()] = len(b.MoveOrdered.GetChecks()) > 0
	case *hadv1.Event_Acquired:
		c.transitions[key{node, "acquired", c.reason(b.Acquired)}]++
		if len(c.begun) >= remembered {
			delete(c.begun, slices.Min(slices.Collect(maps.Keys(c.begun))))
		}
		c.begun[e.GetEpoch()] = e.GetAt().AsTime()
	case *hadv1.Event_Progress:
		c.progress(e, b.Progress)
	case *hadv1.Event_Released:
		reason := "ordered"
		if b.Released.GetForced() {
			reason = "forced"
		}
		c.transitions[key{node, "released", reason}]++
		addSteps(c.releaseSteps, node, b.Released.GetSteps())
	case *hadv1.Event_Closed:
		c.transitions[key{node, "closed", word(b.Closed.GetKind().String())}]++
	case *hadv1.Event_Secured:
		c.transitions[key{node, "secured", word(b.Secured.GetKind().String())}]++
	case *hadv1.Event_Hook:
		c.hooks[key{node, b.Hook.GetStage(), outcome(b.Hook)}]++
		add(c.running, key{node, b.Hook.GetStage()}, time.Duration(b.Hook.GetDurationNs()))
	case *hadv1.Event_Notified:
		if o := b.Notified.GetOutcome(); o != hadv1.NotifyMark_OUTCOME_CLOSED {
			c.notified[key{b.Notified.GetChannel(), word(o.String())}]++
		}
	}
}

// reason is why an epoch began, in a word: who wanted it, or else how the one before
// it ended.
func (c *counts) reason(a *hadv1.Acquire) string {
	if op := a.GetMoveOperation(); op != "" {
		byCheck := c.moves[op]
		delete(c.moves, op)
		if byCheck {
			return "check"
		}
		return "move"
	}
	if all := a.GetEvidence(); len(all) > 0 {
		return word(all[len(all)-1].GetKind().String())
	}
	return "first"
}

func (c *counts) progress(e *hadv1.Event, p *hadv1.Progress) {
	switch p.GetOutcome() {
	case hadv1.Progress_OUTCOME_SERVING:
		began, ok := c.begun[e.GetEpoch()]
		if !ok {
			return // it has only taken on another policy, or began before this node did
		}
		delete(c.begun, e.GetEpoch())
		add(c.takeovers, key{e.GetNode()}, max(0, e.GetAt().AsTime().Sub(began)))
		addSteps(c.takeSteps, e.GetNode(), p.GetSteps())
	case hadv1.Progress_OUTCOME_FAILED:
		c.transitions[key{e.GetNode(), "failed", ""}]++
	case hadv1.Progress_OUTCOME_VETOED:
		c.transitions[key{e.GetNode(), "vetoed", ""}]++
	case hadv1.Progress_OUTCOME_UNSPECIFIED:
	}
}

func addSteps(to map[key]tally, node string, steps []*hadv1.Step) {
	for _, s := range steps {
		add(to, key{node, s.GetName()}, time.Duration(s.GetDurationNs()))
	}
}

func add(to map[key]tally, k key, d time.Duration) {
	t := to[k]
	to[k] = tally{t.count + 1, t.sum + d}
}

// outcome is how a script ended, in a word.
func outcome(r *hadv1.HookResult) string {
	if r.GetOutcome() != hadv1.HookResult_OUTCOME_EXITED {
		return word(r.GetOutcome().String())
	}
	if r.GetExitCode() != 0 {
		return "failed"
	}
	return "ok"
}

// word is the name of an enum's value without the enum's.
func word(value string) string {
	for _, prefix := range []string{"KIND_", "OUTCOME_"} {
		if rest, ok := strings.CutPrefix(value, prefix); ok {
			return strings.ToLower(rest)
		}
	}
	return strings.ToLower(value)
}

// into puts all of it on a page.
func (c *counts) into(p *page) {
	for _, m := range []struct {
		name   string
		labels int
		of     map[key]uint64
	}{{"had_transitions_total", 3, c.transitions}, {"had_hook_runs_total", 3, c.hooks}, {"had_notifications_total", 2, c.notified}} {
		for _, k := range keys(m.of) {
			p.set(m.name, float64(m.of[k]), k[:m.labels]...)
		}
	}
	for _, m := range []struct {
		name   string
		labels int
		of     map[key]tally
	}{
		{"had_takeover_seconds", 1, c.takeovers}, {"had_takeover_step_seconds", 2, c.takeSteps},
		{"had_release_step_seconds", 2, c.releaseSteps}, {"had_hook_seconds", 2, c.running},
	} {
		for _, k := range keys(m.of) {
			p.summary(m.name, m.of[k], k[:m.labels]...)
		}
	}
}

func keys[V any](m map[key]V) []key {
	return slices.SortedFunc(maps.Keys(m), func(a, b key) int {
		return cmp.Or(strings.Compare(a[0], b[0]), strings.Compare(a[1], b[1]), strings.Compare(a[2], b[2]))
	})
}
