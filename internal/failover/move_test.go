package failover

import (
	"testing"
	"time"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// The target of a move may have failed just before. The order forgives that,
// and what the target had said until then must not end the move.
func TestMoveIsNotEndedByOldNews(t *testing.T) {
	now := clock.Instant(0).Add(time.Hour)
	self := &hadv1.Instance{Node: "alpha", NodeId: "a"}
	in := Inputs{
		Now: now, Instance: self,
		Leadership: cluster.Leadership{Leading: true, Ready: true, Term: 3, Leader: "alpha"},
		View: cluster.View{
			Open: []*hadv1.Claim{{Epoch: 7, Instance: self}}, LastEpoch: 7, LastOwner: "alpha",
			Move: &hadv1.Move{Index: 50, Order: &hadv1.MoveOrder{Operation: "1", FromEpoch: 7, Target: "beta"}},
		},
		Holding: Holding{Epoch: 7, Phase: PhaseServing}, LeaseEpoch: 7, LeaseUntil: now.Add(time.Second),
	}
	for _, c := range []struct {
		beta Peer
		want StepKind
	}{
		{Peer{Fresh: true, Eligible: true, Applied: 40}, StepYield},
		{Peer{Fresh: true, Reasons: []string{"its last turn failed"}, Applied: 49}, StepYield},
		{Peer{Fresh: true, Reasons: []string{"it is stopping"}, Applied: 50}, StepEndMove},
		{Peer{Eligible: true, Applied: 50}, StepEndMove}, // silent
	} {
		in.Peers = map[string]Peer{"beta": c.beta}
		if plan := Decide(in); len(plan.Steps) == 0 || plan.Steps[0].Kind != c.want {
			t.Errorf("with the target %+v the plan is %+v, want %s first", c.beta, plan, c.want)
		}
	}
}
