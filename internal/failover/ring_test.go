package failover

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// The ring as a whole: the real Controller decides and acts, and what it does
// to its host is held against a list.

// own is what alpha does to own two addresses, in order.
var (
	own = []string{
		"Test 192.0.2.10", "Test 192.0.2.11", "PreAcq 192.0.2.10", "PreAcq 192.0.2.11",
		"+192.0.2.10", "+192.0.2.11", "PostAcq 192.0.2.10", "PostAcq 192.0.2.11",
	}
	orderly = []string{
		"PreRel 192.0.2.11", "PreRel 192.0.2.10", "-192.0.2.10", "-192.0.2.11",
	}
	after = []string{"PostRel 192.0.2.11", "PostRel 192.0.2.10"}
	// forced is what is left when the addresses went first.
	forced = []string{
		"PreRel 192.0.2.11 forced", "PreRel 192.0.2.10 forced", "PostRel 192.0.2.11 forced", "PostRel 192.0.2.10 forced",
	}
)

func join(parts ...[]string) []string {
	var out []string
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestRingAcquiresAndStops(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.expect(own...)
		if r.phase() != PhaseServing || r.outcomes() != "SERVING" || r.journal.tenure == nil {
			t.Errorf("phase %v, outcomes %q, tenure %v", r.phase(), r.outcomes(), r.journal.tenure)
		}
		r.term()
		time.Sleep(100 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		if r.phase() != PhaseYielding || r.kernel.holds() != 2 {
			t.Errorf("phase %v with %d addresses up, want both until beta asks for them", r.phase(), r.kernel.holds())
		}
		if resp := r.controller.HandOver(t.Context(), &hadv1.HandOverRequest{FromEpoch: 3}); !resp.GetReleased() || r.kernel.holds() != 0 {
			t.Errorf("asked to let go: %v, %d addresses up", resp, r.kernel.holds())
		}
		time.Sleep(successorFirst / 2)
		if rel := r.releases(); len(rel) > 0 {
			t.Errorf("releases %v: finished while the successor takes over", rel)
		}
		time.Sleep(time.Second)
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, after)...)
		rel := r.releases()
		if len(rel) != 1 || rel[0].GetForced() || r.journal.tenure != nil {
			t.Errorf("releases %v, tenure %v", rel, r.journal.tenure)
		}
	})
}

func TestServingOutlivesManyLeases(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Minute)
		r.expect(own...)
		if r.phase() != PhaseServing {
			t.Errorf("phase %v after a minute", r.phase())
		}
	})
}

func TestTestVetoes(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.Test, 0, true)
		r.policy("")
		time.Sleep(300 * time.Millisecond)
		r.expect("Test 192.0.2.10", "transfer to beta")
		if v, _ := r.log.View(); v.LastEpoch != 0 || r.outcomes() != "VETOED" {
			t.Errorf("epoch %d, outcomes %q", v.LastEpoch, r.outcomes())
		}
	})
}

func TestForeignHolderVetoes(t *testing.T) {
	run(t, func(r *rig) {
		r.network.foreign = true
		r.policy("")
		time.Sleep(300 * time.Millisecond)
		r.expect("Test 192.0.2.10", "Test 192.0.2.11", "transfer to beta")
		p := reported(r, func(e *hadv1.Event) *hadv1.Progress { return e.GetProgress() })
		if len(p) != 1 || p[0].GetOutcome() != hadv1.Progress_OUTCOME_VETOED {
			t.Errorf("progress %v", p)
		}
	})
}

// While it asked, another was elected and has the addresses now: that says
// nothing about this node.
func TestALostElectionIsNoVeto(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.Test, 200*time.Millisecond, true)
		r.policy("")
		time.Sleep(100 * time.Millisecond)
		r.log.follow("beta")
		time.Sleep(time.Second)
		if got := r.outcomes(); got != "" || r.controller.backoff.turnAfter() != 0 {
			t.Errorf("outcomes %q; the next turn is put off to %v", got, r.controller.backoff.turnAfter())
		}
		r.scripts(hook.Test, 0, false)
		r.log.lead()
		synctest.Wait()
		if r.phase() != PhaseServing {
			t.Errorf("elected again: phase %v, %s", r.phase(), r.controller.Why())
		}
	})
}

func TestPreAcqFailureIsUndone(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.PreAcq, 0, true)
		r.policy("")
		time.Sleep(300 * time.Millisecond)
		r.expect("Test 192.0.2.10", "Test 192.0.2.11", "PreAcq 192.0.2.10",
			"PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta",
			"PostRel 192.0.2.11", "PostRel 192.0.2.10")
		if r.outcomes() != "FAILED" || len(r.releases()) != 1 || r.phase() != PhaseNone {
			t.Errorf("outcomes %q, %d releases, phase %v", r.outcomes(), len(r.releases()), r.phase())
		}
	})
}

func TestOnFailurePolicies(t *testing.T) {
	for _, c := range []struct {
		stage  hook.Stage
		action string
		want   string
	}{
		{hook.PreAcq, "continue", "SERVING"},
		{hook.PreAcq, "hand_over", "FAILED"},
		{hook.PostAcq, "continue", "SERVING"},
		{hook.PostAcq, "hand_over", "FAILED"},
	} {
		t.Run(string(c.stage)+" "+c.action, func(t *testing.T) {
			run(t, func(r *rig) {
				r.scripts(c.stage, 0, true)
				r.policy("stage \"" + string(c.stage) + "\" {\n on_failure = \"" + c.action + "\"\n}\n")
				time.Sleep(300 * time.Millisecond)
				if r.outcomes() != c.want {
					t.Errorf("outcomes %q, want %q", r.outcomes(), c.want)
				}
				// Whoever serves after a failure says so in status.
				problems := strings.Join(r.controller.Health().GetProblems(), "")
				if said := strings.Contains(problems, string(c.stage)); said != (c.want == "SERVING") {
					t.Errorf("problems %q", problems)
				}
			})
		})
	}
}

func TestLeaseEndsDuringPreAcq(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.PreAcq, 10*time.Second, false)
		r.policy("")
		time.Sleep(200 * time.Millisecond)
		r.log.mute(true)
		time.Sleep(5 * time.Second) // TTL is 1 s; the report is tried for 2 s
		r.expect(join([]string{"Test 192.0.2.10", "Test 192.0.2.11", "PreAcq 192.0.2.10"}, forced)...)
	})
}

// A lease that ends says nothing about the next try, however often it
// happens: nobody else may be able to try at all.
func TestALeaseThatEndsIsNoFailureOfTheNode(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.PreAcq, 3*time.Second, false)
		r.policy("")
		for range 6 {
			time.Sleep(1500 * time.Millisecond) // in PreAcq, wherever the turn before has ended
			r.log.mute(true)
			time.Sleep(1500 * time.Millisecond) // TTL is below that
			r.log.mute(false)
		}
		r.log.lead()
		time.Sleep(8 * time.Second) // the next try and its PreAcq
		if r.phase() != PhaseServing {
			t.Errorf("8 s after the log answers again: %v, %s", r.phase(), r.took())
		}
		if got := r.outcomes(); strings.Contains(got, "FAILED") {
			t.Errorf("lost leases count as failed turns: %s", got)
		}
	})
}

func TestLeaseEndsWhileServing(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.log.mute(true)
		time.Sleep(990 * time.Millisecond)
		if r.kernel.holds() != 0 {
			t.Error("the addresses are still up when the lease ends")
		}
		time.Sleep(5 * time.Second)
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, forced)...)
		if r.journal.PendingCount() == 0 {
			t.Error("nothing waits to be delivered, and the log takes nothing")
		}
	})
}

func TestLeaseEndsDuringPreRel(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.scripts(hook.PreRel, 10*time.Second, false)
		r.log.mute(true)
		r.network.pull()
		r.controller.KernelChanged()
		time.Sleep(1500 * time.Millisecond)
		r.scripts(hook.PreRel, 0, false)
		time.Sleep(5 * time.Second)
		r.expect(join([]string{"PreRel 192.0.2.11", "-192.0.2.10", "-192.0.2.11", "transfer to beta"}, forced)...)
	})
}

func TestDeposedOwnerLetsGoAtOnce(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.log.follow("beta")
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, forced)...)
		if rel := r.releases(); len(rel) != 1 || !rel[0].GetForced() {
			t.Errorf("releases %v", rel)
		}
	})
}

func TestLinkLossHandsOver(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.network.pull()
		r.controller.KernelChanged()
		r.expect(join(orderly, []string{"transfer to beta"}, after)...)
	})
}

// What can't be written down isn't done.
func TestJournalFailsBeforeTheKernelIsTouched(t *testing.T) {
	run(t, func(r *rig) {
		r.journal.fill(errors.New("the disk is full"))
		r.policy("")
		time.Sleep(300 * time.Millisecond)
		if r.kernel.holds() != 0 {
			t.Error("addresses are up that the journal doesn't know of")
		}
		if len(r.releases()) != 0 {
			t.Error("a release got into the log past the journal")
		}
		r.journal.fill(nil)
		r.log.lead()
		time.Sleep(time.Minute)
		if r.phase() != PhaseServing {
			t.Errorf("phase %v a minute after the disk has room again: %s", r.phase(), r.controller.Why())
		}
	})
}

func TestNothingIsReportedWhileAnAddressStays(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.kernel.jam(errors.New("something adds it again"))
		r.log.follow("beta")
		time.Sleep(5 * time.Second)
		r.expect("")
		if len(r.releases()) != 0 {
			t.Fatal("a release was reported with an address still there")
		}
		r.kernel.jam(nil)
		time.Sleep(time.Second)
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, forced)...)
	})
}

func TestToldToStopWhileAcquiring(t *testing.T) {
	run(t, func(r *rig) {
		r.scripts(hook.PreAcq, 10*time.Second, false)
		r.policy("")
		time.Sleep(200 * time.Millisecond)
		r.took()
		r.term()
		r.expect(join([]string{"PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta"}, after)...)
		if r.outcomes() != "" {
			t.Errorf("outcomes %q: being told to stop is no failure", r.outcomes())
		}
	})
}

func TestPolicyChangeTouchesOnlyWhatChanges(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		v, _ := r.log.View()
		r.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{
			ExpectedVersion: v.Policy.GetVersion(),
			Text:            "vip \"mail\" {\n address = \"192.0.2.11\"\n}\nvip \"new\" {\n address = \"192.0.2.12\"\n}\nhooks {\n dir = \"/hooks\"\n}\n",
		}}})
		time.Sleep(time.Second)
		r.expect("PreRel 192.0.2.10", "PreAcq 192.0.2.12", "-192.0.2.10", "+192.0.2.12", "PostRel 192.0.2.10", "PostAcq 192.0.2.12")
		if r.outcomes() != "SERVING SERVING" {
			t.Errorf("outcomes %q", r.outcomes())
		}
	})
}
