package lab

import (
	"slices"
	"testing"
	"time"
)

func at(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }

func TestHistoryJudgesByTransitions(t *testing.T) {
	h := History{Start: at(0), End: at(100), Transitions: []Transition{
		{at(10), "alpha", true},
		{at(20), "beta", true},
		{at(25), "gamma", true},
		{at(30), "alpha", false},
		{at(40), "gamma", false},
		{at(50), "beta", false},
		{at(70), "alpha", true},
	}}
	var overlaps []string
	for _, o := range h.Overlaps() {
		overlaps = append(overlaps, o.From.Sub(at(0)).String()+" "+o.To.Sub(at(0)).String()+" "+o.Hosts[0]+" "+o.Hosts[1])
	}
	want := []string{"20ms 25ms alpha beta", "25ms 30ms alpha beta", "30ms 40ms beta gamma"}
	if !slices.Equal(overlaps, want) {
		t.Errorf("overlaps = %q, want %q", overlaps, want)
	}
	if v := h.Vacancies(); !slices.Equal(v, []Vacancy{{at(0), at(10)}, {at(50), at(70)}}) {
		t.Errorf("vacancies = %v", v)
	}
	if got := h.Holders(); !slices.Equal(got, []string{"alpha"}) {
		t.Errorf("holders = %v", got)
	}
}

func TestReportFindsGaps(t *testing.T) {
	r := Report{Start: at(0), Answers: map[string]int{}, every: time.Millisecond, resolution: 5 * time.Millisecond}
	answer := func(ms int, host string) {
		r.ask(at(ms))
		r.note(at(ms), at(ms), host)
	}
	for _, ms := range []int{1, 2, 6} {
		answer(ms, "alpha")
	}
	for ms := range 90 {
		r.ask(at(7 + ms))
	}
	answer(100, "alpha") // silence
	answer(101, "beta")  // a change without silence
	r.End = at(130)

	want := []Gap{
		{at(6), at(100), "alpha", "alpha", 91, 0},
		{at(100), at(101), "alpha", "beta", 1, 0},
		{at(101), at(130), "beta", "", 0, 0},
	}
	if got := r.Gaps(); !slices.Equal(got, want) {
		t.Errorf("gaps = %v, want %v", got, want)
	}
	if g, ok := r.LongestGap(at(100), at(110)); !ok || g != want[2] {
		t.Errorf("longest gap of the end = %v, %t", g, ok)
	}
	if g, ok := r.LongestGap(at(1), at(6)); ok {
		t.Errorf("a gap where service was uninterrupted: %v", g)
	}
	r.keep(1)
	if len(r.Runs) != 1 || r.Gaps()[0] != want[2] {
		t.Errorf("after forgetting: %v", r.Gaps())
	}
}

func TestAClientThatStandsStillMissesNothing(t *testing.T) {
	r := Report{Start: at(0), Answers: map[string]int{}, every: time.Millisecond, resolution: 5 * time.Millisecond}
	for _, ms := range []int{1, 2, 50, 51} {
		r.ask(at(ms))
		r.note(at(ms), at(ms), "alpha")
	}
	r.ask(at(80)) // the first in a long time, and its server is dead
	r.ask(at(81))
	r.ask(at(89))
	r.note(at(89), at(90), "beta")
	r.End = at(91)
	if got, want := r.Gaps(), []Gap{{at(79), at(90), "alpha", "beta", 3, 28 * time.Millisecond}}; !slices.Equal(got, want) {
		t.Errorf("gaps = %v, want %v", got, want)
	}
}
