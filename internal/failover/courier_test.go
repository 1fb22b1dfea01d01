package failover

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// following is the log of a follower: the leader is asked through peers.
type following struct{ *lonelyLog }

func (following) Leadership() cluster.Leadership { return cluster.Leadership{Leader: "beta"} }

// leaderByPhone answers Propose as the test says.
type leaderByPhone struct {
	Peers
	answer func(ctx context.Context, cmd *hadv1.Command) (*hadv1.ProposeResponse, error)
}

func (p *leaderByPhone) Propose(ctx context.Context, _ string, cmd *hadv1.Command) (*hadv1.ProposeResponse, error) {
	return p.answer(ctx, cmd)
}

func newCourier(reports int, answer func(context.Context, *hadv1.Command) (*hadv1.ProposeResponse, error)) (*courier, *memoryJournal) {
	j := &memoryJournal{diary: &diary{}}
	for range reports {
		if _, err := j.Append(context.Background(), &hadv1.Report{Body: &hadv1.Report_Progress{Progress: &hadv1.Progress{}}}); err != nil {
			panic(err)
		}
	}
	log := following{newLonelyLog(&hadv1.Instance{Node: "alpha", NodeId: "id"})}
	return &courier{journal: j, log: log, peers: &leaderByPhone{answer: answer}, logger: hclog.NewNullLogger(), busy: make(chan struct{}, 1)}, j
}

// The kernel of a stopped leader acknowledges what the leader will never
// answer. A release must get through to the next leader all the same.
func TestCourierDoesNotWaitForAStoppedLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCourier(1, func(ctx context.Context, _ *hadv1.Command) (*hadv1.ProposeResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		if err := c.deliver(context.Background()); err == nil {
			t.Error("delivered to a leader that never answered")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it waited %v; everything behind it waited too", took)
		}
	})
}

// Nor once there is another, who waits for the release.
func TestCourierTurnsToTheNextLeaderAtOnce(t *testing.T) {
	run(t, func(r *rig) {
		r.log.follow("beta")
		c, _ := newCourier(1, func(ctx context.Context, _ *hadv1.Command) (*hadv1.ProposeResponse, error) {
			r.log.lead()
			<-ctx.Done()
			return nil, ctx.Err()
		})
		c.log = r.log
		began := time.Now()
		if err := c.deliver(context.Background()); err == nil {
			t.Error("delivered to a leader that never answered")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it waited %v for a leader whose place it has", took)
		}
	})
}

func TestCourierSendsAgainWhenTheAnswerIsLost(t *testing.T) {
	var log []uint64
	lost := false
	c, j := newCourier(100, func(_ context.Context, cmd *hadv1.Command) (*hadv1.ProposeResponse, error) {
		for _, r := range cmd.GetDeliver().GetReports() {
			log = append(log, r.GetSeq())
		}
		if !lost {
			lost = true
			return nil, errors.New("connection reset")
		}
		return &hadv1.ProposeResponse{}, nil
	})
	if c.deliver(t.Context()) == nil {
		t.Fatal("the lost answer counts as delivered")
	}
	if j.PendingCount() != 100 {
		t.Fatalf("%d reports pending after the lost answer, want all 100", j.PendingCount())
	}
	if err := c.deliver(t.Context()); err != nil || j.PendingCount() != 0 {
		t.Fatalf("second delivery: %v, %d pending", err, j.PendingCount())
	}
	// Apply skips what it has seen; what matters here is that nothing is left
	// out and that the second round starts where the first did.
	second := log[64:]
	if len(second) != 100 || !slices.IsSorted(second) || second[0] != 1 {
		t.Errorf("the second round sent %v", second)
	}
}

func TestCourierKeepsWhatIsRefused(t *testing.T) {
	c, j := newCourier(1, func(context.Context, *hadv1.Command) (*hadv1.ProposeResponse, error) {
		return &hadv1.ProposeResponse{Refused: "a gap"}, nil
	})
	if c.deliver(t.Context()) == nil || j.PendingCount() != 1 {
		t.Error("a refused delivery was forgotten")
	}
}

func TestBackoffDoublesAndForgets(t *testing.T) {
	now := clock.Instant(0).Add(time.Hour)
	b := newBackoff(func() clock.Instant { return now })
	for i, want := range []float64{1, 2, 4, 8, 16, 30, 30} {
		b.turn(errors.New("failed"))
		if got := b.turnAfter().Sub(now).Seconds(); got != want {
			t.Errorf("after %d failures the next turn is in %g s, want %g", i+1, got, want)
		}
	}
	b.turn(nil)
	if b.turnAfter() != 0 {
		t.Error("a success doesn't end the backoff")
	}
	b.transferred("beta", 5, nil)
	b.transferred("gamma", 5, nil)
	if got := b.transferAfter(5).Sub(now); got != 2*time.Second {
		t.Errorf("after two hand-overs without an owner the next is in %v, want 2s", got)
	}
	if b.transferAfter(6) != 0 {
		t.Error("leadership is held back although somebody has owned since")
	}
	b.transferred("beta", 6, errors.New("no answer"))
	if !b.shunned("beta") || b.shunned("gamma") {
		t.Error("the node that didn't take leadership isn't passed over")
	}
	now = now.Add(11 * time.Second)
	if b.shunned("beta") {
		t.Error("it is passed over for ever")
	}
}
