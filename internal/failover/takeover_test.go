package failover

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// betaMovesHere makes beta the owner, with a move to alpha ordered, and then
// alpha the leader. It returns beta's epoch.
func (r *rig) betaMovesHere() uint64 {
	r.t.Helper()
	r.betaOwns()
	return r.andMovesHere()
}

func (r *rig) betaOwns() {
	r.t.Helper()
	r.log.follow("beta")
	r.policy("")
	v, _ := r.log.View()
	beta := &hadv1.Instance{Node: "beta", NodeId: "id-beta", BootId: "boot", Nonce: "b"}
	r.must(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: r.log.Leadership().Term, Instance: beta, Terms: cluster.TimingFor(500 * time.Millisecond).Terms(), PolicyVersion: v.Policy.GetVersion(),
	}}})
}

func (r *rig) andMovesHere() uint64 {
	r.t.Helper()
	v, _ := r.log.View()
	r.must(&hadv1.Command{Record: &hadv1.Command_MoveOrder{MoveOrder: &hadv1.MoveOrder{Operation: "op", FromEpoch: v.LastEpoch, Target: "alpha", By: "root"}}})
	synctest.Wait()
	r.took()
	r.log.lead()
	return v.LastEpoch
}

func (r *rig) claim(epoch uint64) *hadv1.Claim {
	v, _ := r.log.View()
	return v.Claim(epoch)
}

func (r *rig) open() []uint64 {
	v, _ := r.log.View()
	var out []uint64
	for _, c := range v.Open {
		out = append(out, c.GetEpoch())
	}
	return out
}

func TestTakeOverAsksTheOldOwnerLast(t *testing.T) {
	run(t, func(r *rig) {
		r.beta.lets(true, nil)
		r.betaMovesHere()
		synctest.Wait()
		r.expect("beta lets go of 3", "PreAcq 192.0.2.10", "PreAcq 192.0.2.11", "+192.0.2.10", "+192.0.2.11", "PostAcq 192.0.2.10", "PostAcq 192.0.2.11")
		if got := r.open(); len(got) != 2 {
			t.Errorf("open epochs %v, want beta's and alpha's until beta's own report", got)
		}
	})
}

func TestTakeOverWaitsForASilentOldOwner(t *testing.T) {
	run(t, func(r *rig) {
		from := r.betaMovesHere()
		wait := cluster.TakeoverWait(r.claim(from).GetTerms())
		time.Sleep(wait - 10*time.Millisecond)
		r.expect()
		if got := r.open(); len(got) != 2 {
			t.Fatalf("open epochs %v, want both", got)
		}
		time.Sleep(20 * time.Millisecond)
		if got := r.took(); got == "" {
			t.Error("nothing happened when the old owner's lease was waited out")
		}
		if got := r.open(); slices.Contains(got, from) || len(got) != 1 {
			t.Errorf("open epochs %v, want alpha's alone", got)
		}
	})
}

// A host that is lost right after it let go never reports: its epoch must not
// stay open until the next owner has waited for it.
func TestAnEpochThatWasLetGoDoesNotStayOpen(t *testing.T) {
	run(t, func(r *rig) {
		r.beta.lets(true, nil)
		from := r.betaMovesHere()
		wait := cluster.TakeoverWait(r.claim(from).GetTerms())
		time.Sleep(wait)
		if got := r.open(); len(got) != 2 {
			t.Errorf("open epochs %v, want both while beta may still report", got)
		}
		time.Sleep(flushLimit + time.Millisecond)
		if got := r.open(); len(got) != 1 || got[0] == from {
			t.Errorf("open epochs %v, want alpha's alone", got)
		}
		if r.phase() != PhaseServing {
			t.Errorf("phase %v", r.phase())
		}
	})
}

func TestTakeOverSeesTheOldOwnersReport(t *testing.T) {
	run(t, func(r *rig) {
		from := r.betaMovesHere()
		time.Sleep(100 * time.Millisecond)
		r.expect()
		v, _ := r.log.View()
		r.must(released(v.Claim(from)))
		synctest.Wait()
		if r.kernel.holds() != 2 || r.phase() != PhaseServing {
			t.Errorf("phase %v, %d addresses up after beta's report", r.phase(), r.kernel.holds())
		}
	})
}

// A node that says it is ready, and is handed the addresses, must not let the
// old owner's lease run out because its own last turn failed.
func TestAReadyTargetDoesNotSitOutItsBackoff(t *testing.T) {
	run(t, func(r *rig) {
		r.beta.lets(true, nil)
		r.betaOwns()
		for range 5 {
			r.controller.backoff.turn(errors.New("PreAcq failed"))
		}
		if resp := r.controller.Prepare(context.Background(), &hadv1.PrepareRequest{}); !resp.GetReady() {
			t.Fatalf("not ready: %v", resp.GetReasons())
		}
		r.andMovesHere()
		synctest.Wait()
		if r.phase() != PhaseServing {
			t.Errorf("phase %v (%s), want serving", r.phase(), r.controller.Why())
		}
	})
}

func TestAStoppingNodeIsNotReady(t *testing.T) {
	run(t, func(r *rig) {
		r.betaOwns()
		r.controller.stop()
		if resp := r.controller.Prepare(context.Background(), &hadv1.PrepareRequest{}); resp.GetReady() {
			t.Error("a node that stops is ready to take over")
		}
	})
}

// What a stuck script mounted or started may live on: the successor waits, as
// it does when that keeps a release from being reported.
func TestAnOwnerWithAStuckScriptDoesNotSayThatItLetGo(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		epoch := r.open()[0]
		r.term()
		synctest.Wait()
		if r.phase() != PhaseYielding {
			t.Fatalf("phase %v, want yielding", r.phase())
		}
		r.controller.executor.lingers(errors.New("PreRel1 can't be ended"), nil)
		for range 2 {
			if resp := r.controller.HandOver(context.Background(), &hadv1.HandOverRequest{FromEpoch: epoch}); resp.GetReleased() {
				t.Error("it says that it holds nothing")
			}
			time.Sleep(time.Second) // the lease ends
		}
	})
}

func TestStopWithoutAReadySuccessorReleases(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.beta.lets(false, errors.New("its disk is full"))
		r.term()
		time.Sleep(time.Second)
		r.expect(join(orderly, []string{"transfer to beta"}, after)...)
	})
}

func TestAYieldedEpochIsNotRenewed(t *testing.T) {
	run(t, func(r *rig) {
		r.policy("")
		time.Sleep(time.Second)
		r.took()
		r.term()
		timing := r.controller.cfg.Timing
		time.Sleep(timing.TTL - timing.Margin - time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		time.Sleep(time.Second)
		r.expect("-192.0.2.10", "-192.0.2.11", "PostRel 192.0.2.11 forced", "PostRel 192.0.2.10 forced")
		if rel := r.releases(); len(rel) != 1 || !rel[0].GetForced() {
			t.Errorf("releases %v, want one forced", rel)
		}
	})
}
