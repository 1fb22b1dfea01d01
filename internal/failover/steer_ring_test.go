package failover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// probe looks at what ails alpha.
func (r *rig) probe(_ context.Context, c policy.Check) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "HTTP 200", r.ill[c.Name]
}

// falls makes beta ineligible, or well again.
func (p *betaIsWell) falls(ill bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ill = ill
}

// hangs makes beta's Test scripts hang, or not.
func (p *betaIsWell) hangs(slow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = slow
}

func (p *betaIsWell) ailing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ill
}

func (r *rig) ails(check string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ill[check] = err
}

// told returns what the history says of checks, limits and moves, a word each.
func (r *rig) told() string {
	synctest.Wait()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	events, _ := r.log.state.History(0)
	var out []string
	for _, e := range events {
		switch {
		case e.GetCheckChanged() != nil:
			c := e.GetCheckChanged()
			out = append(out, fmt.Sprintf("%s failing=%t", c.GetCheck(), c.GetFailing()))
		case e.GetMoveOrdered() != nil:
			out = append(out, "move to "+e.GetMoveOrdered().GetTarget())
		case e.GetHeld() != nil:
			out = append(out, "held")
		case e.GetUnfrozen() != nil:
			out = append(out, fmt.Sprintf("unfrozen expired=%t", e.GetUnfrozen().GetExpired()))
		}
	}
	return strings.Join(out, ", ")
}

const siteCheck = "check \"http\" \"site\" {\n url = \"http://127.0.0.1/\"\n interval = \"1s\"\n start_period = \"0s\"\n}"

func TestAFailingCheckHandsOver(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("", siteCheck)
		time.Sleep(5 * time.Second)
		r.expect(own...)
		r.ails("site", errors.New("HTTP 503"))
		time.Sleep(3500 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		if r.phase() != PhaseYielding {
			t.Errorf("phase %v", r.phase())
		}
		// The scripts have stopped the service: what its check says now is no news.
		// Nor does the move wait for the journal.
		if got := r.told(); got != "site failing=false, site failing=true, move to beta" && got != "site failing=false, move to beta, site failing=true" {
			t.Errorf("the history has %s", got)
		}
		v, _ := r.log.View()
		if o := v.Move.GetOrder(); o.GetReason() != "check site failed 3 times: HTTP 503" || len(o.GetChecks()) != 1 {
			t.Errorf("the order is %v", o)
		}
	})
}

func TestAFailingCheckStaysWhereNobodyIsBetter(t *testing.T) {
	run(t, func(r *rig) {
		r.beta.lets(false, errors.New("beta's Test says no"))
		r.policy("", siteCheck)
		time.Sleep(5 * time.Second)
		r.expect(own...)
		r.ails("site", errors.New("HTTP 503"))
		time.Sleep(20 * time.Second)
		r.expect()
		h := r.controller.Health()
		if r.phase() != PhaseServing || len(h.GetProblems()) != 1 || h.GetProblems()[0] != "check site failed 3 times: HTTP 503" {
			t.Errorf("phase %v, problems %q", r.phase(), h.GetProblems())
		}
		if c := h.GetChecks(); len(c) != 1 || c[0].GetState() != hadv1.CheckStatus_STATE_FAILING || c[0].GetTimes() < 15 {
			t.Errorf("checks %v", c)
		}
		if got := r.told(); got != "site failing=false, site failing=true" {
			t.Errorf("the history has %s", got)
		}
	})
}

// Another node's Test scripts hang while it is asked whether it is ready: an owner
// that can't go on doesn't wait for them.
func TestAnOwnerThatIsPressedDoesNotWaitForAnothersScripts(t *testing.T) {
	for name, press := range map[string]func(r *rig){
		"link lost": func(r *rig) { r.network.pull(); r.controller.KernelChanged() },
		"stopped":   func(r *rig) { r.beta.hangs(false); r.term() },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(r *rig) {
				r.policy("", siteCheck)
				time.Sleep(5 * time.Second)
				r.expect(own...)
				r.beta.hangs(true)
				r.ails("site", errors.New("HTTP 503"))
				time.Sleep(3500 * time.Millisecond)
				r.expect()
				press(r)
				time.Sleep(time.Second)
				if got := r.took(); !strings.Contains(got, "transfer to beta") {
					t.Errorf("a second later: %s", got)
				}
			})
		})
	}
}

// While a node starts its services, its check doesn't count.
func TestAStartPeriodIsGiven(t *testing.T) {
	run(t, func(r *rig) {
		r.ails("site", errors.New("connection refused"))
		r.scripts(hook.PostAcq, 5*time.Second, false) // two addresses: 10 s
		r.policy("", strings.Replace(siteCheck, "0s\"\n}", "20s\"\n}", 1))
		time.Sleep(29 * time.Second)
		if r.phase() != PhaseServing || r.told() != "" {
			t.Fatalf("phase %v, %s", r.phase(), r.told())
		}
		time.Sleep(5 * time.Second)
		if got := r.told(); !strings.Contains(got, "move to beta") {
			t.Errorf("phase %v, %s", r.phase(), got)
		}
	})
}

func TestAStandbyCheckDecidesEligibility(t *testing.T) {
	run(t, func(r *rig) {
		r.ails("replica", errors.New("40 s behind"))
		r.policy("", "check \"exec\" \"replica\" {\n command = [\"/bin/replica\"]\n on = \"standby\"\n}")
		time.Sleep(time.Second)
		r.expect("transfer to beta")
		if h := r.controller.Health(); h.GetEligible() || h.GetReasons()[0] != "check replica has not passed yet: 40 s behind" || h.GetBlockers()[0].GetCheck() != aboutCheck {
			t.Errorf("reasons %q", h.GetReasons())
		}
		ready := func() string {
			p := r.controller.Prepare(context.Background(), &hadv1.PrepareRequest{})
			return fmt.Sprint(p.GetReady(), p.GetReasons())
		}
		if got := ready(); got != "false [check replica has not passed yet: 40 s behind]" {
			t.Error(got)
		}
		r.ails("replica", nil)
		time.Sleep(2500 * time.Millisecond)
		if got := ready(); got != "true []" {
			t.Error(got)
		}
		// One look that failed makes no check fail, but nobody is moved here now.
		r.ails("replica", errors.New("40 s behind"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := ready(); got != "false [check replica has just failed: 40 s behind]" || !r.controller.Health().GetEligible() {
			t.Error(got)
		}
		r.ails("replica", nil)
		time.Sleep(2 * time.Second)
		r.took()
		r.log.lead()
		time.Sleep(3 * time.Second)
		if r.phase() != PhaseServing {
			t.Errorf("phase %v, %s", r.phase(), r.controller.Why())
		}
		r.ails("replica", errors.New("40 s behind")) // it doesn't run on an owner
		time.Sleep(time.Minute)
		if r.phase() != PhaseServing {
			t.Errorf("phase %v, %s", r.phase(), r.controller.Why())
		}
	})
}

func freezeFor(d time.Duration) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Freeze{Freeze: &hadv1.Freeze{ForNs: int64(d), Until: timestamppb.New(time.Now().Add(d)), By: "ann"}}}
}

func TestAFreezeHoldsUntilItEnds(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("", siteCheck)
		time.Sleep(5 * time.Second)
		r.expect(own...)
		r.must(freezeFor(time.Minute))
		r.ails("site", errors.New("HTTP 503"))
		time.Sleep(58 * time.Second)
		r.expect()
		time.Sleep(3 * time.Second)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		if got := r.told(); got != "site failing=false, site failing=true, unfrozen expired=true, move to beta" {
			t.Errorf("the history has %s", got)
		}
	})
}

// A freeze lengthens no lease: an owner without a quorum gives up.
func TestAFreezeExtendsNoLease(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.expect(own...)
		r.must(freezeFor(time.Hour))
		r.log.mute(true)
		time.Sleep(5 * time.Second)
		r.expect(join([]string{"-192.0.2.10", "-192.0.2.11"}, forced)...)
		r.log.mute(false)
		r.log.lead()
		time.Sleep(3 * time.Second)
		if r.phase() != PhaseServing {
			t.Errorf("the last owner is back: phase %v, %s", r.phase(), r.controller.Why())
		}
	})
}

func TestADrainedNodeLetsGo(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.expect(own...)
		if _, err := r.controller.Drain(context.Background(), &hadv1.DrainRequest{Node: "delta", By: "ann"}); err == nil {
			t.Error("a node that there isn't was drained")
		}
		d, err := r.controller.Drain(context.Background(), &hadv1.DrainRequest{Node: "alpha", By: "ann", Reason: "new disk"})
		if err != nil || !d.GetOwns() {
			t.Fatal(d, err)
		}
		time.Sleep(500 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		if h := r.controller.Health(); h.GetEligible() || h.GetReasons()[0] != "drained by ann: new disk" || h.GetBlockers()[0].GetCheck() != aboutDrain {
			t.Errorf("reasons %q", h.GetReasons())
		}
	})
}

func TestFailbackAfterItsDelay(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("") // alpha is the first owner
		time.Sleep(time.Second)
		r.expect(own...)
		r.policy("", "prefer = [\"beta\", \"alpha\"]", "failback {\n mode = \"auto\"\n delay = \"1m\"\n}")
		time.Sleep(50 * time.Second)
		if got := r.controller.Status().Failback; !strings.HasPrefix(got, "failback to beta in 1") {
			t.Errorf("status says %q", got)
		}
		r.expect()
		time.Sleep(10500 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
	})
}

func TestLimitsHoldTheOwner(t *testing.T) {
	run(t, func(r *rig) {
		r.beta.falls(true)
		time.Sleep(5 * time.Second)
		r.scripts(hook.PostAcq, 0, true)
		r.policy("stage \"PostAcq\" {\n on_failure = \"hand_over\"\n}\n", "limits {\n max_failovers = 2\n}", siteCheck)
		time.Sleep(time.Minute) // two turns fail, with pauses; the third is kept
		r.beta.falls(false)
		time.Sleep(5 * time.Second)
		if r.phase() != PhaseServing || !strings.Contains(r.told(), "held") {
			t.Fatalf("phase %v, %s, %s", r.phase(), r.told(), r.controller.Why())
		}
		r.took()
		r.ails("site", errors.New("HTTP 503"))
		time.Sleep(time.Minute)
		r.expect()
		r.must(&hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{By: "ann"}}})
		time.Sleep(500 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
	})
}
