package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// TestWhy tells the newest change in each testdata/why case, which most are of
// clusters that really went through it, and says it in JSON.
func TestWhy(t *testing.T) {
	golden(t, "testdata/why/*.txtar", func(h *hadv1.HistoryResponse) map[string]string {
		c := changeOf(h.GetEvents(), 0)
		text := renderWhy(c, nil, plainTestView())
		for line := range strings.Lines(text) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > plainWidth {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		if _, err := json.Marshal(whyDocumentOf(c, nil)); err != nil {
			t.Error(err)
		}
		return map[string]string{"why": text}
	})
}

// Nobody may believe in a gap that the log doesn't know: whatever is missing from
// the history, the answer is a wider range or none.
func TestWhyWithAnyEventMissing(t *testing.T) {
	at := time.Date(2026, 8, 20, 15, 0, 0, 0, time.UTC)
	event := func(ms int, e *hadv1.Event) *hadv1.Event {
		e.At = timestamppb.New(at.Add(time.Duration(ms) * time.Millisecond))
		return e
	}
	step := func(ms int, name string) *hadv1.Step {
		return &hadv1.Step{Name: name, Started: timestamppb.New(at.Add(time.Duration(ms) * time.Millisecond))}
	}
	serving := func(steps ...*hadv1.Step) *hadv1.Event_Progress {
		return &hadv1.Event_Progress{Progress: &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_SERVING, Steps: steps}}
	}
	all := []*hadv1.Event{
		event(0, &hadv1.Event{Index: 7, Epoch: 7, Node: "alpha", Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{
			Instance: &hadv1.Instance{Nonce: "a"}, Terms: &hadv1.Terms{TtlNs: int64(time.Second)},
		}}}),
		event(10, &hadv1.Event{Index: 8, Epoch: 7, Node: "alpha", Body: serving()}),
		event(9000, &hadv1.Event{Index: 20, Epoch: 7, Node: "alpha", Body: &hadv1.Event_Closed{Closed: &hadv1.Evidence{Kind: hadv1.Evidence_KIND_WAITED, WaitedNs: int64(1200 * time.Millisecond)}}}),
		event(9000, &hadv1.Event{Index: 20, Sub: 1, Epoch: 20, Node: "beta", Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{Term: 2, Instance: &hadv1.Instance{Nonce: "b"}}}}),
		event(9100, &hadv1.Event{Index: 21, Epoch: 20, Node: "beta", Body: serving(step(9050, "addresses_up"))}),
		event(8500, &hadv1.Event{Index: 30, Epoch: 7, Node: "alpha", Body: &hadv1.Event_Released{Released: &hadv1.Released{
			Forced: true, Reporter: &hadv1.Instance{Nonce: "a"}, Steps: []*hadv1.Step{step(8400, "addresses_down")},
		}}}),
	}
	for missing := range 1 << len(all) {
		var events []*hadv1.Event
		for i, e := range all {
			if missing&(1<<i) == 0 {
				events = append(events, e)
			}
		}
		c := changeOf(events, 0)
		renderWhy(c, nil, plainTestView())
		if c == nil || c.epoch != 20 {
			continue
		}
		if g, known := c.gap(); known && (g.least > 650*time.Millisecond || g.most < 650*time.Millisecond) {
			t.Errorf("without the events %b a gap of %s to %s, which was 650ms", missing, g.least, g.most)
		}
	}
	full := changeOf(all, 20)
	if g, known := full.gap(); !known || g.least != 650*time.Millisecond || g.most != g.least {
		t.Errorf("with all events a gap of %s to %s, %t", g.least, g.most, known)
	}
	if kind, _ := full.fate(); kind != "silent" {
		t.Errorf("the fate of alpha: %s", kind)
	}
}
