package notify

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

var errDown = errors.New("connection refused")

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(t, w)
		w.stop()
	})
}

func expect(t *testing.T, w *world, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), w.post.titles()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	w.post.once(t)
}

func TestWhatBelongsTogetherIsOneMessage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		w.own("alpha", "the first owner")
		pass(time.Minute)
		w.own("beta", "alpha fell silent")
		pass(time.Minute)
		expect(t, w, `
exec.ops: policy version 1 applied | alpha owns 192.0.2.10
exec.ops: beta owns 192.0.2.10
`)
		for _, d := range w.post.all() {
			if d.by != "alpha" || d.repeat || d.cut != 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}

// A receiver that is down for an hour, and leaders that die meanwhile: nothing is
// lost, nothing comes twice, and what has gathered is one message.
func TestNothingIsLostWhileNobodyTakesIt(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		w.post.break_(errDown)
		w.own("alpha", "the first owner")
		pass(30 * time.Minute)
		w.kill("alpha")
		w.elect("beta")
		w.own("beta", "alpha fell silent")
		pass(10 * time.Minute)
		w.own("beta", "once more")
		pass(20 * time.Minute)
		expect(t, w, "exec.ops: policy version 1 applied\n")
		w.post.break_(nil)
		pass(10 * time.Minute)
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: alpha owns 192.0.2.10
exec.ops: beta owns 192.0.2.10 | beta owns 192.0.2.10
`)
	})
}

// A leader dies between the receiver's answer and the log's: the message comes
// again, under the same name, and says so.
func TestACrashBetweenSendingAndRecordingRepeats(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		answer := w.post.slow()
		pass(settle + time.Second)
		if len(w.post.all()) != 1 {
			t.Fatalf("%d messages have arrived, want 1", len(w.post.all()))
		}
		w.kill("alpha")
		answer()
		w.elect("beta")
		pass(time.Minute)
		all := w.post.all()
		if len(all) != 2 || all[0].id != all[1].id || all[0].repeat || !all[1].repeat || all[1].by != "beta" {
			t.Errorf("%+v", all)
		}
		expect(t, w, "exec.ops: policy version 1 applied\n")
	})
}

// A leader that is deposed while it sends finishes, and says so to the next,
// which leaves the message to it.
func TestALeaderThatIsDeposedFinishes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		answer := w.post.slow()
		pass(settle + time.Second)
		w.elect("beta")
		w.own("beta", "moved by root")
		pass(5 * time.Second)
		answer()
		pass(time.Minute)
		if n := len(w.post.all()); n != 2 {
			t.Errorf("%d messages, want 2", n)
		}
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: beta owns 192.0.2.10
`)
	})
}

// One that answers and never says what became of its message isn't waited for
// for ever.
func TestALeaderThatNeverFinishesIsNotWaitedFor(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		w.post.slow()
		pass(settle + time.Second)
		w.mu.Lock()
		w.nodes["alpha"].unheard = true
		w.mu.Unlock()
		w.elect("beta")
		w.post.slow()()
		pass(5 * time.Minute)
		all := w.post.all()
		if len(all) != 2 || all[0].id != all[1].id || all[1].by != "beta" || !all[1].repeat {
			t.Errorf("%d messages: %+v", len(all), all)
		}
	})
}

func TestAFloodIsSummarised(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.setPolicy(opsPolicy)
		for i := range 360 { // an hour of flapping
			w.own([]string{"alpha", "beta"}[i%2], "flapping")
			pass(10 * time.Second)
		}
		pass(burstGap + time.Minute)
		told := 0
		for _, d := range w.post.all() {
			told += len(d.items)
		}
		if n := len(w.post.all()); n > 40 || told != 361 {
			t.Errorf("%d messages told of %d events, want all 361 of them in fewer than 40", n, told)
		}
		w.post.once(t)
	})
}

func TestAMessageIsGivenUpAfterADay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.post.break_(errDown)
		w.setPolicy(opsPolicy)
		pass(23 * time.Hour)
		w.own("alpha", "the first owner")
		pass(time.Minute)
		st := w.nodes["alpha"].notifier.Status()
		if len(st) != 1 || st[0].GetWaiting() != 2 || st[0].GetAttempts() < giveUpTries || st[0].GetError() != errDown.Error() {
			t.Errorf("the status is %v", st)
		}
		warnings := Warnings(st, time.Now())
		if len(warnings) != 1 || !strings.Contains(warnings[0], "notify exec.ops has failed for 23h") || !strings.Contains(warnings[0], "2 events wait") {
			t.Errorf("warned of %q", warnings)
		}
		pass(2 * time.Hour)
		w.post.break_(nil)
		pass(longestPause * 2)
		expect(t, w, `
exec.ops: alpha owns 192.0.2.10 | exec.ops was given up on
`)
		if st := w.nodes["alpha"].notifier.Status(); st[0].GetWaiting() != 0 || st[0].GetFailingSince() != nil || st[0].GetError() != "" {
			t.Errorf("the status is %v", st)
		}
	})
}

func TestWhatTheHistoryLostIsSaidSo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		w.elect("") // nobody sends
		w.own("alpha", "the first owner")
		for range cluster.HistoryLimit {
			w.report("alpha", &hadv1.Report{Body: &hadv1.Report_HookResult{HookResult: &hadv1.HookResult{Outcome: hadv1.HookResult_OUTCOME_EXITED, Stage: "PostAcq"}}})
		}
		w.elect("alpha")
		pass(time.Minute)
		all := w.post.all()
		if len(all) != 2 || all[1].cut == 0 || !strings.Contains(all[1].text(), "older events had left the history before they could be told") {
			t.Errorf("%+v", all)
		}
		pass(time.Hour)
		if len(w.post.all()) != 2 {
			t.Errorf("that is told again: %+v", w.post.all())
		}
	})
}

// A channel that wants little keeps up with the history all the same.
func TestAChannelPassesOverWhatIsNoneOfItsBusiness(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.setPolicy(strings.Replace(opsPolicy, `command = ["tell"]`, "\n  command = [\"tell\"]\n  events = [\"nobody\"]\n", 1))
		for range cluster.HistoryLimit + 100 {
			w.report("alpha", &hadv1.Report{Body: &hadv1.Report_HookResult{HookResult: &hadv1.HookResult{Outcome: hadv1.HookResult_OUTCOME_EXITED}}})
			synctest.Wait()
		}
		pass(time.Minute)
		if c := w.state.View().Channel("exec.ops"); c.GetCut() != 0 || w.index-c.GetSent() > moveOnAfter+10 || len(w.post.all()) != 0 {
			t.Errorf("at entry %d the channel is %v, and %d messages have come", w.index, c, len(w.post.all()))
		}
		for _, n := range []string{"alpha", "beta"} {
			w.report(n, &hadv1.Report{Body: &hadv1.Report_Progress{Progress: &hadv1.Progress{Outcome: hadv1.Progress_OUTCOME_VETOED, Reason: "Test said no"}}})
		}
		pass(time.Minute)
		expect(t, w, "exec.ops: nobody owns: no node is left that would\n")
	})
}

func TestAChannelThatIsGoneIsForgotten(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.post.break_(errDown)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		w.setPolicy(strings.Replace(opsPolicy, `"ops"`, `"chat"`, 1))
		w.post.break_(nil)
		pass(time.Minute)
		if v := w.state.View(); len(v.Notify) != 1 || v.Channel("exec.chat") == nil {
			t.Errorf("the channels are %v", v.Notify)
		}
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		expect(t, w, `
exec.chat: policy version 2 applied
exec.ops: policy version 3 applied
`)
	})
}

// A node that has lost the others says so itself, once; when it is back the
// leader tells.
func TestANodeWithoutQuorumSaysSo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		w.post.break_(errDown)
		w.elect("")
		pass(cutOffAfter + 10*time.Second)
		w.post.break_(nil)
		pass(5 * time.Minute)
		w.elect("alpha")
		pass(time.Minute)
		byItself := map[string]string{}
		for _, d := range w.post.all()[1:3] {
			byItself[d.by] = d.items[0].Title
		}
		if byItself["alpha"] != "alpha is without quorum" || byItself["beta"] != "beta is without quorum" {
			t.Errorf("they said %q", byItself)
		}
		last := w.post.all()[3:]
		if len(last) != 1 || len(last[0].items) != 2 || !strings.Contains(last[0].text(), "on, for 5m40s. It can now.") {
			t.Errorf("the leader tells %+v", last)
		}
	})
}

func TestASilentNodeIsToldOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		quiet := func(silent bool) {
			w.mu.Lock()
			w.silent["gamma"] = silent
			w.mu.Unlock()
		}
		quiet(true)
		pass(20 * time.Second)
		quiet(false)
		pass(20 * time.Second)
		quiet(true)
		pass(5 * time.Minute)
		w.elect("beta") // which sees it too
		pass(5 * time.Minute)
		quiet(false)
		pass(time.Minute)
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: gamma doesn't answer
exec.ops: gamma answers again
`)
	})
}

func TestVolumesThatWaitAreTold(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		w.mu.Lock()
		w.waiting = []Waiting{{Epoch: 7, Node: "beta", Person: true, Detail: "if you have seen that it is off: hactl fence confirm beta"}}
		w.mu.Unlock()
		pass(personAfter + 2*watchEvery + settle)
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: volumes of beta wait
`)
		if text := w.post.all()[1].text(); !strings.Contains(text, "hactl fence confirm beta") || w.post.all()[1].severity() != Critical {
			t.Errorf("it says %q", text)
		}
		pass(time.Hour)
		if len(w.post.all()) != 2 {
			t.Error("it is told again and again")
		}
	})
}

func TestWhatStaysAmissIsToldOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		pass(time.Minute)
		find := func(all map[string][]Trouble) {
			w.mu.Lock()
			w.troubles = all
			w.mu.Unlock()
		}
		token := Trouble{Kind: hadv1.Notice_KIND_TOKEN_AMISS, Name: "tls", Detail: "there is no key"}
		sync := Trouble{Kind: hadv1.Notice_KIND_SYNC_FAILS, Name: "docs", Detail: "it exited with 23"}
		well := map[string][]Trouble{"alpha": nil, "beta": nil}
		find(map[string][]Trouble{"beta": {token, sync}})
		pass(20 * time.Second)
		find(well)
		pass(time.Minute)
		expect(t, w, "exec.ops: policy version 1 applied\n")
		find(map[string][]Trouble{"beta": {token, sync}})
		pass(time.Hour)
		w.elect("beta") // which sees it too
		pass(time.Hour)
		find(map[string][]Trouble{"alpha": nil}) // beta is silent
		pass(time.Hour)
		find(well)
		pass(time.Minute)
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: token tls is not in place on beta
exec.ops: sync docs fails on beta
exec.ops: token tls is in place on beta
`)
	})
}

// A certificate is told of three times, however often the leader changes; one that
// was renewed is another, and a CA that all nodes rest on is one.
func TestCertificatesThatExpireAreTold(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		// So many days are left of the CA and of beta's own certificate.
		show := func(ca, beta int, serial string) {
			of := func(serial string, days int) *hadv1.Certificate {
				return &hadv1.Certificate{Serial: serial, Ca: serial == "ca", Expires: protoTime(time.Now().Add(time.Duration(days) * day))}
			}
			w.mu.Lock()
			w.certificates = map[string][]*hadv1.Certificate{"alpha": {of("ca", ca)}, "beta": {of(serial, beta), of("ca", ca)}, "gamma": nil}
			w.mu.Unlock()
			pass(3 * time.Minute)
		}
		w.start("alpha", 1)
		w.start("beta", 1)
		w.setPolicy(opsPolicy)
		show(31, 40, "1")
		show(30, 39, "1")
		w.elect("beta")
		show(24, 30, "1")
		show(7, 13, "1")
		w.elect("alpha")
		show(6, 400, "2")
		show(1, 30, "2")
		show(0, 1, "2")
		expect(t, w, `
exec.ops: policy version 1 applied
exec.ops: the CA of the TLS certificates expires within 30 days
exec.ops: the TLS certificate of beta expires within 30 days
exec.ops: the CA of the TLS certificates expires within 7 days
exec.ops: the CA of the TLS certificates expires within a day | the TLS certificate of beta expires within 30 days
exec.ops: the TLS certificate of beta expires within a day
`)
	})
}

func TestATestGoesThroughTheChannelsThatANameMeans(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.setPolicy(opsPolicy + "notify \"exec\" \"log\" { command = [\"logger\"] }\nnotify \"webhook\" \"ops\" { url = \"http://127.0.0.1/\" }\n")
		n := w.start("alpha", 1).notifier
		for name, want := range map[string]int{"": 3, "ops": 2, "exec.ops": 1, "log": 1} {
			results, err := n.Test(t.Context(), name)
			if err != nil || len(results) != want || results[0].GetError() != "" {
				t.Errorf("a test of %q comes to %v, %v", name, results, err)
			}
		}
		if _, err := n.Test(t.Context(), "opps"); err == nil || err.Error() != `the policy has no channel "opps"; it has exec.ops, exec.log, webhook.ops` {
			t.Errorf("a wrong name: %v", err)
		}
		w.post.break_(errDown)
		if results, _ := n.Test(t.Context(), "log"); results[0].GetError() != errDown.Error() {
			t.Errorf("a test that fails: %v", results)
		}
	})
}

func TestTriesAreSpacedOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start("alpha", 1)
		w.post.break_(errDown)
		w.setPolicy(opsPolicy)
		pass(time.Hour)
		if n := w.nodes["alpha"].notifier.Status()[0].GetAttempts(); n < 15 || n > 40 {
			t.Errorf("%d tries in an hour", n)
		}
		w.post.break_(&laterError{errors.New("busy"), time.Hour})
		pass(10 * time.Minute)
		before := w.nodes["alpha"].notifier.Status()[0].GetAttempts()
		pass(30 * time.Minute)
		if after := w.nodes["alpha"].notifier.Status()[0].GetAttempts(); after != before {
			t.Errorf("a receiver that asks for an hour is tried %d times in half of one", after-before)
		}
	})
}

// Two channels go on by themselves.
func TestAChannelThatFailsHoldsUpNoOther(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		n := w.start("alpha", 1).notifier
		broken := &post{down: errDown}
		n.transport = func(c policy.Channel) transport {
			if c.Name == "log" {
				return postman{broken, "alpha", c.ID()}
			}
			return postman{w.post, "alpha", c.ID()}
		}
		w.setPolicy(opsPolicy + "notify \"exec\" \"log\" { command = [\"logger\"] }\n")
		pass(time.Minute)
		expect(t, w, "exec.ops: policy version 1 applied\n")
	})
}
