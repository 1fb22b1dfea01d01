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
	return cluster.View{Birth: &hadv1.Birth{Members: []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma", Witness: true}}}}, nil
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
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_Notified{Notified: &hadv1.NotifyMark{Outcome: hadv1.NotifyMark_OUTCOME_SENT}}}, ""},
		{"alpha", 0, &hadv1.Event{Body: &hadv1.Event_Notified{Notified: &hadv1.NotifyMark{Outcome: hadv1.NotifyMark_OUTCOME_GAVE_UP, Channel: "email.ops", Events: 3, Why: "refused"}}}, "warning undelivered: email.ops was given up on: A message of 3 events to email.ops was given up: refused. What it told is in hactl history."},
		{"alpha", 0, &hadv1.Event{}, ""}, // of a newer version
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
