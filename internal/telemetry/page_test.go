package telemetry

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// tokenBytes is what no page may hold.
const tokenBytes = "the token's own bytes"

// everything are facts with which every metric has a sample.
func everything(leading bool) Facts {
	l := cluster.Leadership{Leading: leading, Ready: leading, Term: 7, Leader: "alpha"}
	claim := &hadv1.Claim{Epoch: 42, Instance: &hadv1.Instance{Node: "alpha"}, Progress: hadv1.Progress_OUTCOME_SERVING}
	return Facts{
		Members:    []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma", Witness: true}},
		Leadership: l,
		View: cluster.View{
			Applied: 99, LastEpoch: 42, Open: []*hadv1.Claim{claim}, Policy: &hadv1.Policy{Version: 3},
			Drained: map[string]*hadv1.Drain{"beta": {}},
			Tokens:  []*hadv1.Token{{Name: "tickets", Current: &hadv1.TokenVersion{Version: 5, Sealed: []byte(tokenBytes)}}},
		},
		Figures: cluster.Figures{LastIndex: 101, CommitIndex: 100, Contact: time.Now(), Commits: cluster.Latency{
			Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{1, 2, 3}, Sum: 4 * time.Second,
		}},
		Confirmed: 4 * time.Millisecond, Serving: true, Lease: 800 * time.Millisecond,
		Health: &hadv1.HealthResponse{
			Eligible: true, PolicyVersion: 3, PendingReports: 1,
			Checks: []*hadv1.CheckStatus{{Name: "site", Kind: "http", State: hadv1.CheckStatus_STATE_PASSING}, {Name: "new", Kind: "tcp"}},
			Syncs:  []*hadv1.SyncStatus{{Name: "pages", Copied: true, AgeMs: 61500, Failures: 2, State: hadv1.SyncStatus_STATE_HELD}},
			Tokens: &hadv1.TokenHealth{Places: []*hadv1.TokenPlace{{Name: "tickets", Version: 5}}},
		},
		Problems: 2, Answers: map[string]bool{"beta": true, "gamma": false},
		Notify:  []*hadv1.NotifyStatus{{Channel: "email.ops", Waiting: 3, Attempts: 1}},
		Waiting: 1, Guard: true, Gate: true, Watchdog: true,
		Certificates: []peer.Certificate{{Expires: time.Unix(2_000_000_000, 0)}, {CA: true, Expires: time.Unix(2_100_000_000, 0)}, {CA: true, Expires: time.Unix(2_050_000_000, 0)}},
		Data:         1 << 20, Free: 1 << 30,
	}
}

func at(ms int) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(int64(ms))) }

func events() []*hadv1.Event {
	step := []*hadv1.Step{{Name: "pre_acq", DurationNs: 2e9}}
	return []*hadv1.Event{
		{Index: 10, Node: "alpha", Epoch: 40, At: at(0), Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{}}},
		{Index: 11, Node: "alpha", Epoch: 40, At: at(500), Body: &hadv1.Event_Progress{Progress: &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_SERVING, Steps: step}}},
		{Index: 12, Node: "alpha", Epoch: 40, At: at(600), Body: &hadv1.Event_Progress{Progress: &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_SERVING, Steps: step}}}, // another policy
		{Index: 13, Node: "alpha", Epoch: 40, Body: &hadv1.Event_Hook{Hook: &hadv1.HookResult{Stage: "PostAcq", Outcome: hadv1.HookResult_OUTCOME_EXITED, ExitCode: 1, DurationNs: 1e9}}},
		{Index: 14, Node: "beta", Body: &hadv1.Event_MoveOrdered{MoveOrdered: &hadv1.MoveOrder{Operation: "x", Checks: []string{"site"}}}},
		{Index: 15, Node: "beta", Epoch: 42, At: at(1000), Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{MoveOperation: "x"}}},
		{Index: 16, Node: "alpha", Epoch: 40, Body: &hadv1.Event_Released{Released: &hadv1.Released{Forced: true, Steps: step}}},
		{Index: 17, Body: &hadv1.Event_Notified{Notified: &hadv1.NotifyMark{Channel: "email.ops", Outcome: hadv1.NotifyMark_OUTCOME_GAVE_UP}}},
		{Index: 18, Node: "beta", Body: &hadv1.Event_Progress{Progress: &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_VETOED}}},
	}
}

func textOf(t *testing.T, f Facts, c *counts) string {
	t.Helper()
	p := newPage("office", "alpha")
	p.set("had_build_info", 1, "1.0", "abc", "go1.26")
	p.unix("had_start_time_seconds", time.Unix(1, 0))
	f.fill(p, time.Now())
	c.into(p)
	text, err := p.text()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func counted(c *counts, all []*hadv1.Event) *counts {
	c.read(Source{History: func(after uint64) (out []*hadv1.Event, dropped uint64) {
		for _, e := range all {
			if e.GetIndex() > after {
				out = append(out, e)
			}
		}
		return out, 0
	}})
	return c
}

// Every metric of the catalogue comes, is read by Prometheus' own parser, and says
// what it should.
func TestPage(t *testing.T) {
	c := counted(newCounts(), events())
	c = counted(c, events()) // nothing is counted twice
	both := textOf(t, everything(true), c) + textOf(t, everything(false), c)
	for _, m := range Catalogue() {
		if !strings.Contains(both, "\n"+m.Name) {
			t.Errorf("%s never comes", m.Name)
		}
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(bytes.NewReader([]byte(textOf(t, everything(true), c)))); err != nil {
		t.Error(err)
	}
	const who = `{cluster="office",node="alpha"`
	for _, want := range []string{
		`had_ready` + who + `} 1`,
		`had_owner` + who + `,member="alpha"} 1`, `had_owner` + who + `,member="beta"} 0`,
		`had_leader` + who + `,member="gamma"} 0`,
		`had_drained` + who + `,member="beta"} 1`,
		`had_lease_remaining_seconds` + who + `} 0.8`,
		`had_quorum_confirmed_age_seconds` + who + `} 0.004`,
		`had_sync_age_seconds` + who + `,sync="pages"} 61.5`,
		`had_commit_seconds_bucket` + who + `,le="1"} 3`, `had_commit_seconds_count` + who + `} 6`,
		`had_certificate_expiry_timestamp_seconds` + who + `,certificate="ca"} 2.05e+09`,
		`had_takeover_seconds_sum` + who + `,member="alpha"} 0.5`, `had_takeover_seconds_count` + who + `,member="alpha"} 1`,
		`had_takeover_step_seconds_sum` + who + `,member="alpha",step="pre_acq"} 2`,
		`had_transitions_total` + who + `,member="alpha",transition="acquired",reason="first"} 1`,
		`had_transitions_total` + who + `,member="beta",transition="acquired",reason="check"} 1`,
		`had_transitions_total` + who + `,member="alpha",transition="released",reason="forced"} 1`,
		`had_transitions_total` + who + `,member="beta",transition="vetoed",reason=""} 1`,
		`had_hook_runs_total` + who + `,member="alpha",stage="PostAcq",outcome="failed"} 1`,
		`had_notifications_total` + who + `,channel="email.ops",outcome="gave_up"} 1`,
	} {
		if !strings.Contains(both, "\n"+want+"\n") {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(both, tokenBytes) || strings.Contains(both, `check="new"`) {
		t.Error("the page has a token's content, or a check without a result")
	}
	if t.Failed() {
		t.Log(both)
	}
}

// A node that isn't born tells that, and nothing that isn't so yet.
func TestPageOfANodeThatWaits(t *testing.T) {
	text := textOf(t, Facts{NotYet: "beta doesn't answer"}, newCounts())
	if !strings.Contains(text, `had_ready{cluster="office",node="alpha"} 0`) || strings.Contains(text, "had_epoch") {
		t.Error(text)
	}
}

func TestReady(t *testing.T) {
	for want, f := range map[string]Facts{
		"":                                {Leadership: cluster.Leadership{Leader: "beta"}},
		"no leader is known":              {},
		"has not heard from a quorum yet": {Leadership: cluster.Leadership{Leading: true, Leader: "alpha"}},
		"its disk is full":                {Leadership: cluster.Leadership{Leader: "beta"}, Unable: "its disk is full"},
		"beta doesn't answer":             {NotYet: "beta doesn't answer"},
	} {
		if got := f.unready(); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%+v: %q, want %q", f.Leadership, got, want)
		}
	}
}
