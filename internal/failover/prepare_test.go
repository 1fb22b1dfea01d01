package failover

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"had/cluster"
	"had/internal/hook"
	hadv1 "had/proto/had/v1"
)

// betaFellSilent makes beta the owner that alpha, which leads now, has to wait
// for. It returns for how long; so far nothing has been done.
func (r *rig) betaFellSilent() time.Duration {
	r.t.Helper()
	r.betaOwns()
	r.log.lead()
	synctest.Wait()
	v, _ := r.log.View()
	return cluster.TakeoverWait(v.Open[0].GetTerms())
}

// betaOwnsUntilSoon makes beta an owner whose lease is over in less than
// prepareAhead.
func (r *rig) betaOwnsUntilSoon() *hadv1.Claim {
	r.t.Helper()
	r.betaOwns()
	v, _ := r.log.View()
	c := v.Open[0]
	time.Sleep(cluster.TakeoverWait(c.GetTerms()) - prepareAhead/2)
	r.expect()
	return c
}

func TestTheTurnAfterAWaitIsPrepared(t *testing.T) {
	run(t, func(r *rig) {
		wait := r.betaFellSilent()
		r.scripts(hook.Test, 100*time.Millisecond, false)
		time.Sleep(wait - prepareAhead - 10*time.Millisecond)
		r.expect()
		time.Sleep(prepareAhead)
		r.expect("Test 192.0.2.10", "Test 192.0.2.11")
		time.Sleep(11 * time.Millisecond)
		r.expect(own[2:]...)
	})
}

// A candidate looks at the network while the votes are counted: what it finds
// serves the turn that it wins.
func TestACandidatePreparesItsTurn(t *testing.T) {
	run(t, func(r *rig) {
		c := r.betaOwnsUntilSoon()
		r.log.stand()
		synctest.Wait()
		r.expect("Test 192.0.2.10", "Test 192.0.2.11")
		r.log.lead()
		synctest.Wait()
		r.must(released(c))
		r.expect(own[2:]...)
	})
}

// What a candidate fails in is nobody's business, and no reason to try again
// until it leads.
func TestACandidatesVetoIsForgotten(t *testing.T) {
	run(t, func(r *rig) {
		c := r.betaOwnsUntilSoon()
		r.scripts(hook.Test, 0, true)
		r.log.stand()
		time.Sleep(time.Second)
		r.expect("Test 192.0.2.10")
		r.scripts(hook.Test, 0, false)
		r.must(released(c))
		r.log.lead()
		synctest.Wait()
		r.expect(own...)
		if r.outcomes() != "SERVING" {
			t.Errorf("outcomes %q", r.outcomes())
		}
	})
}

// A script that hangs takes as long as it may once, not a second time when the
// candidate leads.
func TestWhatACandidateFindsCountsIfItLeadsByThen(t *testing.T) {
	run(t, func(r *rig) {
		c := r.betaOwnsUntilSoon()
		r.scripts(hook.Test, 10*time.Second, true)
		r.log.stand()
		synctest.Wait()
		r.log.lead()
		r.must(released(c))
		time.Sleep(11 * time.Second)
		r.expect("Test 192.0.2.10", "transfer to beta")
		if r.outcomes() != "VETOED" {
			t.Errorf("outcomes %q", r.outcomes())
		}
	})
}

// One that is cut off may stand for days.
func TestACandidatePreparesOnce(t *testing.T) {
	for _, fail := range []bool{false, true} {
		run(t, func(r *rig) {
			c := r.betaOwnsUntilSoon()
			r.scripts(hook.Test, 0, fail)
			r.log.stand()
			time.Sleep(time.Hour)
			if fail {
				r.expect("Test 192.0.2.10")
			} else {
				r.expect("Test 192.0.2.10", "Test 192.0.2.11")
			}
			r.scripts(hook.Test, 0, false)
			r.must(released(c))
			r.log.lead() // that was long ago
			synctest.Wait()
			r.expect(own...)
		})
	}
}

// A report of the owner that is waited for ends the wait, not the preparation.
func TestAPreparedTurnBeginsWithTheReport(t *testing.T) {
	run(t, func(r *rig) {
		wait := r.betaFellSilent()
		time.Sleep(wait - prepareAhead/2)
		r.expect("Test 192.0.2.10", "Test 192.0.2.11")
		v, _ := r.log.View()
		r.must(released(v.Open[0]))
		r.expect(own[2:]...)
	})
}

// While its lease lasts the owner that is waited for may answer; after it
// nobody may.
func TestAnAnswerDuringTheWaitIsAskedForAgain(t *testing.T) {
	for _, still := range []bool{false, true} {
		run(t, func(r *rig) {
			wait := r.betaFellSilent()
			r.network.answering(true)
			time.Sleep(wait - 10*time.Millisecond)
			r.expect("Test 192.0.2.10", "Test 192.0.2.11")
			if r.outcomes() != "" {
				t.Fatalf("outcomes %q while the lease of beta lasts", r.outcomes())
			}
			r.network.answering(still)
			time.Sleep(11 * time.Millisecond)
			if still {
				r.expect("transfer to beta")
				if r.outcomes() != "VETOED" || !slices.Equal(r.open(), []uint64{3}) {
					t.Errorf("outcomes %q, open epochs %v although somebody has the address", r.outcomes(), r.open())
				}
				return
			}
			r.expect(own[2:]...)
		})
	}
}

func TestAVetoDuringTheWaitGivesTheTurnToAnother(t *testing.T) {
	run(t, func(r *rig) {
		wait := r.betaFellSilent()
		r.scripts(hook.Test, 0, true)
		time.Sleep(wait - 10*time.Millisecond)
		r.expect("Test 192.0.2.10", "transfer to beta")
		if r.outcomes() != "VETOED" {
			t.Errorf("outcomes %q", r.outcomes())
		}
	})
}

// What was prepared is for the turn after that wait: not for another policy,
// another wait, nor much later. A candidate's that failed keeps it from trying
// again, and a leader tries.
func TestAPreparationIsForOneTurn(t *testing.T) {
	in := idleLeader()
	made := func() *preparation {
		return &preparation{turn: &turn{}, version: in.View.Policy.GetVersion(), last: in.View.LastEpoch, ended: in.Now}
	}
	if !made().goodFor(in) {
		t.Error("it isn't good for its own turn")
	}
	for name, change := range map[string]func(p *preparation){
		"policy": func(p *preparation) { p.version++ },
		"epoch":  func(p *preparation) { p.last-- },
		"age":    func(p *preparation) { p.ended = in.Now.Add(-preparedFor) },
	} {
		p := made()
		if change(p); p.goodFor(in) {
			t.Errorf("it is good for another %s", name)
		}
	}
	if (*preparation)(nil).goodFor(in) {
		t.Error("nothing is good for a turn")
	}
	failed := made()
	failed.turn = nil
	standing := in
	standing.Leadership = cluster.Leadership{Standing: true}
	old := made()
	old.ended = in.Now.Add(-time.Hour)
	if failed.goodFor(in) || !failed.goodFor(standing) || !old.goodFor(standing) {
		t.Error("what failed is good for a turn, or a candidate tries it again")
	}
}

// released is the report of a claim's owner that it holds nothing any more.
func released(c *hadv1.Claim) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: []*hadv1.Report{{
		NodeId: c.GetInstance().GetNodeId(), Node: c.GetInstance().GetNode(), Stream: "s", Seq: 1,
		Body: &hadv1.Report_Released{Released: &hadv1.Released{
			Epoch: c.GetEpoch(), Kind: hadv1.Evidence_KIND_RELEASED, Reporter: c.GetInstance(),
		}},
	}}}}}
}
