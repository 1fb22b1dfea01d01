package notify

import (
	"encoding/json"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// events is a history that is only read.
type events []*hadv1.Event

func (e events) View() (cluster.View, <-chan struct{}) {
	return cluster.View{Roster: &hadv1.Roster{Members: []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma", Witness: true}}}}, nil
}

func (e events) History(after uint64) (out []*hadv1.Event, _ uint64) {
	for _, ev := range e {
		if ev.GetIndex() > after {
			out = append(out, ev)
		}
	}
	return out, 0
}

// TestStory reads events one after another and names what is told of each.
func TestStory(t *testing.T) {
	progress := func(o hadv1.Progress_Outcome, reason string, steps ...*hadv1.Step) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Progress{Progress: &hadv1.Progress{
			Outcome: o, Reason: reason, Steps: steps, Addresses: []*hadv1.HeldAddress{{Address: "192.0.2.10"}, {Address: "192.0.2.11"}},
		}}}
	}
	hook := func(stage string, o hadv1.HookResult_Outcome, code int32) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Hook{Hook: &hadv1.HookResult{
			Stage: stage, Script: stage + "10-web", Vip: "192.0.2.10", Outcome: o, ExitCode: code, Signal: "SIGSEGV", Error: "it is unsafe",
			OutputTail: []byte("hunter2"),
		}}}
	}
	notice := func(k hadv1.Notice_Kind) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Notice{Notice: &hadv1.Notice{Kind: k, Node: "gamma", Since: timestamppb.New(time.Unix(0, 0)), Detail: "Look."}}}
	}
	secured := func(k hadv1.Secured_Kind) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Secured{Secured: &hadv1.Secured{Kind: k, By: "root on beta", Detail: "seen"}}}
	}
	released := func(forced bool) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Released{Released: &hadv1.Released{Forced: forced, Cause: "had had died"}}}
	}
	fence := func(failed string) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_FenceTry{FenceTry: &hadv1.FenceTry{Node: "alpha", Method: "agent", Error: failed}}}
	}
	acquired := &hadv1.Event{Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{
		Cause: "alpha fell silent", Volumes: []*hadv1.HeldVolume{{Name: "data"}}, Evidence: []*hadv1.Evidence{{Kind: hadv1.Evidence_KIND_WAITED}},
	}}}
	moved := &hadv1.Event{Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{Cause: "moved by root", Evidence: []*hadv1.Evidence{{Kind: hadv1.Evidence_KIND_HANDED_OVER}}}}}
	check := func(failing bool, epoch uint64) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_CheckChanged{CheckChanged: &hadv1.CheckChange{Check: "site", Failing: failing, Epoch: epoch, Times: 3, Detail: "HTTP 503"}}}
	}
	freeze := &hadv1.Event{Body: &hadv1.Event_Frozen{Frozen: &hadv1.Freeze{Until: timestamppb.New(time.Unix(0, 0)), By: "root on beta", Reason: "a switch"}}}
	silent := func(node string) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Notice{Notice: &hadv1.Notice{Kind: hadv1.Notice_KIND_SILENT, Node: node, Since: timestamppb.New(time.Unix(0, 0))}}}
	}
	synced := func(o hadv1.SyncResult_Outcome, failed string) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Sync{Sync: &hadv1.SyncResult{Name: "docs", Owner: "alpha", Outcome: o, Error: failed}}}
	}
	kept := func(k hadv1.Notice_Kind, name string) *hadv1.Event {
		return &hadv1.Event{Body: &hadv1.Event_Notice{Notice: &hadv1.Notice{Kind: k, Node: "beta", Name: name, Since: timestamppb.New(time.Unix(0, 0)), Detail: "no route"}}}
	}
	serving := hadv1.Progress_OUTCOME_SERVING
	cases := []struct {
		node  string
		epoch uint64
		event *hadv1.Event
		want  string
	}{
		{"alpha", 3, moved, ""},
		{"alpha", 3, progress(serving, ""), "info owner: alpha owns 192.0.2.10 and 1 more: alpha owns 192.0.2.10, 192.0.2.11: moved by root."},
		{"beta", 5, acquired, ""},
		{"beta", 5, progress(serving, ""), "warning owner: beta took over 192.0.2.10 and 2 more from alpha: beta owns 192.0.2.10, 192.0.2.11, volume data, taken over from alpha: alpha fell silent."},
		{"beta", 5, progress(serving, ""), ""}, // another policy
		{"alpha", 3, released(true), ""},       // long after
		{"beta", 5, released(false), ""},
		{"beta", 5, released(true), "warning forced: beta was released by force: beta was released by force: had had died."},
		{"alpha", 6, &hadv1.Event{Body: &hadv1.Event_Acquired{Acquired: &hadv1.Acquire{}}}, ""},
		{"alpha", 6, progress(serving, "", &hadv1.Step{Name: "post_acq", Error: "PostAcq10-web exited with 3"}), "warning owner: alpha owns, but a script failed: alpha owns 192.0.2.10, 192.0.2.11, taken over from beta. It carries on although post_acq failed: PostAcq10-web exited with 3."},
		{"alpha", 6, hook("PostAcq", hadv1.HookResult_OUTCOME_EXITED, 3), "warning script: PostAcq10-web failed on alpha: PostAcq10-web for 192.0.2.10 failed on alpha: exit code 3. What it printed is in hactl history."},
		{"alpha", 6, hook("PostAcq", hadv1.HookResult_OUTCOME_EXITED, 0), ""},
		{"alpha", 6, hook("PreRel", hadv1.HookResult_OUTCOME_SIGNALED, 0), "warning script: PreRel10-web failed on alpha: PreRel10-web for 192.0.2.10 failed on alpha: ended by SIGSEGV. What it printed is in hactl history."},
		{"alpha", 6, hook("PostRel", hadv1.HookResult_OUTCOME_TIMED_OUT, 0), "warning script: PostRel10-web failed on alpha: PostRel10-web for 192.0.2.10 failed on alpha: it took too long and was killed. What it printed is in hactl history."},
		{"alpha", 6, hook("PreAcq", hadv1.HookResult_OUTCOME_EXITED, 1), ""}, // its turn fails for it
		{"alpha", 6, hook("Test", hadv1.HookResult_OUTCOME_EXITED, 1), ""},
		{"alpha", 6, hook("PostAcq", hadv1.HookResult_OUTCOME_CANCELED, 0), ""},
		{"alpha", 0, progress(hadv1.Progress_OUTCOME_VETOED, "Test exited with 1 after 3ms"), "warning vetoed: alpha would not take over: alpha would not take its turn: Test exited with 1 after 3ms."},
		{"alpha", 0, progress(hadv1.Progress_OUTCOME_VETOED, "Test exited with 1 after 4ms"), ""},
		{"beta", 7, progress(hadv1.Progress_OUTCOME_FAILED, "PreAcq said no"), "critical nobody: nobody owns: no node is left that would: beta gave its turn back: PreAcq said no. Before it alpha: Test exited with 1 after 3ms. They are tried again; look at hactl status."},
		{"alpha", 0, progress(hadv1.Progress_OUTCOME_VETOED, "Test exited with 1 after 5ms"), ""},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_MoveEnded{MoveEnded: &hadv1.MoveEnd{Why: "it took too long"}}}, "warning move: the move to beta did not happen: The move to beta ended without a hand-over: it took too long."},
		{"alpha", 9, fence("no route to host"), "critical volumes: alpha could not be switched off: alpha was not seen to be off (agent): no route to host. Its volumes wait."},
		{"alpha", 9, fence("no route to host, again"), ""},
		{"alpha", 9, fence(""), ""},
		{"alpha", 9, notice(hadv1.Notice_KIND_WAITING), "critical waiting: volumes of gamma wait: Nobody owns: the volumes of gamma wait until it is certain that it no longer writes to them. Look."},
		{"alpha", 9, notice(hadv1.Notice_KIND_WAITING), ""},
		{"alpha", 9, secured(hadv1.Secured_KIND_CONFIRMED), "info volumes: volumes of alpha are safe: The volumes of alpha are safe from it: root on beta has seen that it is off. (seen)"},
		{"alpha", 9, secured(hadv1.Secured_KIND_LEASE), "warning volumes: volumes of alpha count as safe: The volumes of alpha are safe from it: nobody has seen it, but enough time has passed. (seen)"},
		{"alpha", 0, notice(hadv1.Notice_KIND_BACK), ""}, // nobody missed it
		{"alpha", 0, notice(hadv1.Notice_KIND_SILENT), "warning node: gamma doesn't answer: gamma has not answered since " + clockTime(time.Unix(0, 0)) + ". Look."},
		{"alpha", 0, notice(hadv1.Notice_KIND_SILENT), ""},
		{"alpha", 0, notice(hadv1.Notice_KIND_BACK), "info node: gamma answers again: gamma answers again."},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_PolicyApplied{PolicyApplied: &hadv1.PolicyApply{ExpectedVersion: 2, By: "root on alpha", Reason: "more\x1b[2J space"}}}, "info policy: policy version 3 applied: Policy version 3 was applied by root on alpha: more [2J space."},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_PolicyApplied{PolicyApplied: &hadv1.PolicyApply{ExpectedVersion: 3, By: "ann", ConfirmWithinNs: int64(2 * time.Minute)}}}, "info policy: policy version 4 applied: Policy version 4 was applied, to be confirmed within 2m0s, by ann."},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_PolicyApplied{PolicyApplied: &hadv1.PolicyApply{ExpectedVersion: 4, OfVersion: 3, By: "had on alpha", Reason: "nobody has confirmed version 4 within 2m0s", Kind: hadv1.PolicyApply_KIND_UNDO}}}, "warning policy: policy version 4 was undone: Policy version 4 was undone, and version 5 is the text of version 3 by had on alpha: nobody has confirmed version 4 within 2m0s."},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_Notified{Notified: &hadv1.NotifyMark{Outcome: hadv1.NotifyMark_OUTCOME_SENT}}}, ""},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_Notified{Notified: &hadv1.NotifyMark{Outcome: hadv1.NotifyMark_OUTCOME_GAVE_UP, Channel: "email.ops", Events: 3, Why: "refused"}}}, "warning undelivered: email.ops was given up on: A message of 3 events to email.ops was given up: refused. What it told is in hactl history."},
		{"alpha", 0, &hadv1.Event{}, ""}, // of a newer version

		{"beta", 0, check(true, 0), ""}, // beside the owner
		{"beta", 0, check(false, 0), ""},
		{"alpha", 9, check(true, 9), "warning check: check site fails on alpha: Check site failed on alpha, the owner, 3 times in a row: HTTP 503."},
		{"alpha", 0, check(false, 0), "info check: check site passes again on alpha: Check site passes again on alpha."},
		{"alpha", 0, check(false, 0), ""},
		{"alpha", 9, &hadv1.Event{Body: &hadv1.Event_Held{Held: &hadv1.Hold{Reason: "the limit of 3 failovers in 10m is reached: staying with alpha although check site failed"}}}, "critical held: alpha is held as the owner: Checks and scripts change the owner no more: the limit of 3 failovers in 10m is reached: staying with alpha although check site failed. When it is mended: hactl resume."},
		{"alpha", 9, check(true, 9), "warning check: check site fails on alpha: Check site failed on alpha, the owner, 3 times in a row: HTTP 503. It stays the owner until hactl resume."},
		{"gamma", 0, &hadv1.Event{Body: &hadv1.Event_Recovered{Recovered: &hadv1.Recovered{Node: "gamma", Lost: []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}}, By: "root on gamma", Reason: "fire"}}}, "critical node: the cluster was recovered on gamma alone: It goes on without alpha, beta, who were confirmed to be lost. What they agreed on last may be missing. Recovered by root on gamma: fire."},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_Resumed{Resumed: &hadv1.Resume{By: "root on beta", Reason: "mended"}}}, "info held: the owner is held no more: Checks and scripts change the owner again, resumed by root on beta: mended."},
		{"alpha", 9, acquired, ""}, // so that alpha owns
		{"beta", 0, freeze, "info freeze: ownership is frozen until " + clockTime(time.Unix(0, 0)) + ": No owner changes by itself until " + clockTime(time.Unix(0, 0)) + ", and one that dies is not succeeded. Frozen by root on beta: a switch."},
		{"alpha", 9, check(true, 9), "warning check: check site fails on alpha: Check site failed on alpha, the owner, 3 times in a row: HTTP 503. It stays the owner: ownership is frozen."},
		{"beta", 0, silent("alpha"), "critical node: alpha doesn't answer, and ownership is frozen: alpha has not answered since " + clockTime(time.Unix(0, 0)) + ". Nobody takes over from it before the freeze is over: hactl unfreeze ends it."},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_Unfrozen{Unfrozen: &hadv1.Unfreeze{By: "root on beta"}}}, "info freeze: ownership is frozen no more: The freeze was ended by root on beta."},
		{"beta", 0, freeze, "info freeze: ownership is frozen until " + clockTime(time.Unix(0, 0)) + ": No owner changes by itself until " + clockTime(time.Unix(0, 0)) + ", and one that dies is not succeeded. Frozen by root on beta: a switch."},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_Unfrozen{Unfrozen: &hadv1.Unfreeze{Expired: true}}}, "info freeze: ownership is frozen no more: The freeze is over: its time has passed. Owners change by themselves again."},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_Drained{Drained: &hadv1.Drain{By: "root on alpha", Reason: "new disk"}}}, "info drain: beta is drained: beta owns nothing before hactl undrain beta. Drained by root on alpha: new disk."},
		{"beta", 0, &hadv1.Event{Body: &hadv1.Event_Undrained{Undrained: &hadv1.Undrain{By: "root on alpha"}}}, "info drain: beta may own again: beta may own again, undrained by root on alpha."},
		{"alpha", 9, synced(hadv1.SyncResult_OUTCOME_HELD, "it could overwrite the newest data"), "warning sync: sync docs is held: Sync docs is held, and its copies grow old: it could overwrite the newest data."},
		{"alpha", 9, synced(hadv1.SyncResult_OUTCOME_HELD, "it could overwrite the newest data"), ""},
		{"beta", 9, &hadv1.Event{Body: &hadv1.Event_SyncResumed{SyncResumed: &hadv1.SyncResume{Name: "docs", By: "root on alpha"}}}, "info sync: sync docs is held no more: Sync docs copies from the present owner again, resumed by root on alpha."},
		{"beta", 9, synced(hadv1.SyncResult_OUTCOME_FAILED, "it exited with 23"), ""}, // once
		{"beta", 9, synced(hadv1.SyncResult_OUTCOME_COPIED, ""), ""},
		{"alpha", 0, kept(hadv1.Notice_KIND_SYNC_FAILS, "docs"), "warning sync: sync docs fails on beta: Sync docs has failed on beta since " + clockTime(time.Unix(0, 0)) + ": no route. Its copy grows old; hactl history has the output."},
		{"alpha", 0, kept(hadv1.Notice_KIND_SYNC_FAILS, "docs"), ""},
		{"beta", 9, synced(hadv1.SyncResult_OUTCOME_COPIED, ""), "info sync: sync docs copies again on beta: Sync docs has copied to beta again."},
		{"alpha", 0, kept(hadv1.Notice_KIND_TOKEN_PLACED, "tls"), ""},
		{"alpha", 0, kept(hadv1.Notice_KIND_TOKEN_AMISS, "tls"), "warning token: token tls is not in place on beta: Reconnect token tls could not be put in place on beta since " + clockTime(time.Unix(0, 0)) + ": no route."},
		{"alpha", 0, kept(hadv1.Notice_KIND_TOKEN_AMISS, "tls"), ""},
		{"alpha", 0, kept(hadv1.Notice_KIND_TOKEN_PLACED, "tls"), "info token: token tls is in place on beta: Reconnect token tls is in place on beta again."},
	}
	var log events
	s := newStory()
	for i, c := range cases {
		c.event = &hadv1.Event{Body: c.event.GetBody(), Index: uint64(10 + i), Node: c.node, Epoch: c.epoch, At: timestamppb.New(time.Unix(60, 0))} //nolint:gosec // a few
		log = append(log, c.event)
		s.read(log)
		got := ""
		for _, it := range s.between(uint64(9+i), uint64(10+i), nil) { //nolint:gosec // a few
			got += fmt.Sprintf("%s %s: %s: %s", it.Severity, it.Topic, it.Title, it.Text)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i, diff)
		}
	}
	again := newStory()
	again.read(log)
	if diff := cmp.Diff(s.between(0, 1000, nil), again.between(0, 1000, nil)); diff != "" {
		t.Errorf("another leader reads another story:\n%s", diff)
	}
	if only := s.between(0, 1000, []policy.Topic{policy.TopicNobody}); len(only) != 1 {
		t.Errorf("of the topic nobody it tells %v", only)
	}
}

func sample(n int) *message {
	m := &message{id: "had-c1-email-ops-17", cluster: "office", clusterID: "c1", channel: "email.ops", node: "beta", at: time.Unix(1787000000, 0)}
	for i := range n {
		m.items = append(m.items, Item{
			Index: uint64(i), At: time.Unix(1787000000, 0), Topic: policy.TopicOwner, Severity: Info, Node: "beta", Epoch: 3, //nolint:gosec // a few
			Title: fmt.Sprintf("beta owns größer %d", i), Text: fmt.Sprintf("beta owns 192.0.2.%d: alpha fell silent.", i),
		})
	}
	return m
}

func TestMailsAreForPeople(t *testing.T) {
	e := email{policy.Channel{Kind: policy.Email, To: "ops@example.org, night@example.org", From: "had@example.org"}}
	m := sample(40)
	m.items[3].Severity, m.items[3].Title = Critical, "nobody owns"
	m.cut, m.repeat = 7, true
	raw, err := e.compose(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := mail.ReadMessage(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	to, err := got.Header.AddressList("To")
	if err != nil || len(to) != 2 || got.Header.Get("Message-Id") != "<had-c1-email-ops-17@example.org>" || got.Header.Get("Auto-Submitted") != "auto-generated" ||
		got.Header.Get("Subject") != "[had office] nobody owns (+39)" {
		t.Errorf("%v %v", got.Header, err)
	}
	if _, err := got.Header.Date(); err != nil {
		t.Error(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"40 events, in order:", "(owner: 40; the newest 15 follow)", "192.0.2.39", "7 older events", "You may have had this message already", "Cluster office, told by beta."} {
		if !strings.Contains(string(body), want) {
			t.Errorf("%q is missing in\n%s", want, body)
		}
	}
	if strings.Contains(string(body), "192.0.2.24:") || len(body) > 4000 {
		t.Errorf("%d bytes for a phone:\n%s", len(body), body)
	}
	for l := range strings.Lines(string(raw)) {
		if len(l) > 998 || !strings.HasSuffix(l, "\r\n") && l != "" && !strings.HasSuffix(string(raw), l) {
			t.Errorf("no line of a mail: %q", l)
		}
	}
	one, err := e.compose(sample(1))
	if err != nil || !strings.Contains(string(one), "=?utf-8?q?") {
		t.Errorf("a subject beyond ASCII: %s %v", one, err)
	}
}

func TestDocumentsAreForPrograms(t *testing.T) {
	m := sample(maxListed + 5)
	b, err := m.json()
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(b, &d); err != nil || strings.Contains(string(b), "\n") {
		t.Fatal(err)
	}
	listed := d["events"].([]any)
	if d["schema_version"] != 1.0 || d["omitted"] != 5.0 || len(listed) != maxListed || d["id"] != m.id || d["severity"] != "info" {
		t.Errorf("%v", d)
	}
	if first := listed[0].(map[string]any); first["id"] != "c1/5.0" || first["at"] != stamp(m.at) || first["topic"] != "owner" {
		t.Errorf("%v", first)
	}
	empty, err := (&message{test: true}).json()
	if err != nil || !strings.Contains(string(empty), `"events":[]`) {
		t.Errorf("%s %v", empty, err)
	}
}
