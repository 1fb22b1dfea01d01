package failover

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// trials undoes a policy that nobody has confirmed in time. Every node counts, and
// whoever leads proposes the undo: a leader that dies takes nothing with it, and
// the log takes one undo alone. It is a task of its own, because the ring may be
// busy for long with the very scripts that the policy has brought.
//
// Two clocks count, and the first that is over decides: the wall clock until the
// instant in the log, which a restart doesn't forget; and this host's time since
// it has seen the entry, however its wall clock is set meanwhile. So a wall clock
// that is ahead undoes early, and one that is behind delays at most by a node's
// restart: a policy is rather undone too early than never.
type trials struct {
	log    Log
	now    clock.Source
	logger hclog.Logger

	index uint64        // log index of the policy seen last
	seen  clock.Instant // when
}

// trialGlance is how often the clocks are read while there is a trial: a timer
// knows nothing of a suspended host, nor of a wall clock that is set.
const trialGlance = time.Second

// Run works until ctx ends.
func (t *trials) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		leadership := t.log.LeadershipChanged()
		view, changed := t.log.View()
		left, waits := t.left(view.Trial)
		rest := min(max(left, 0), trialGlance)
		if waits && left <= 0 {
			rest = t.undo(ctx, view.Trial)
		}
		if waits {
			timer.Reset(rest)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-changed:
		case <-leadership:
		}
	}
}

// left returns how long a trial has still to go; false: there is none.
func (t *trials) left(trial *hadv1.PolicyTrial) (time.Duration, bool) {
	if trial == nil {
		return 0, false
	}
	now := t.now()
	if t.index != trial.GetIndex() {
		t.index, t.seen = trial.GetIndex(), now
	}
	return min(t.seen.Add(time.Duration(trial.GetWithinNs())).Sub(now), time.Until(trial.GetUntil().AsTime())), true
}

// undo proposes to undo a policy, if this node leads. It returns when to look
// again.
func (t *trials) undo(ctx context.Context, trial *hadv1.PolicyTrial) time.Duration {
	if l := t.log.Leadership(); !l.Leading || !l.Ready {
		return trialGlance
	}
	_, err := t.log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_PolicyUndo{PolicyUndo: &hadv1.PolicyUndo{
		Version: trial.GetVersion(), Reason: unconfirmed(trial),
	}}})
	if err != nil {
		t.logger.Warn("a policy that nobody has confirmed could not be undone; trying again", "version", trial.GetVersion(), "error", err)
		return retryDelay
	}
	t.logger.Warn("the policy was undone: nobody has confirmed it in time", "version", trial.GetVersion())
	return 0
}

func unconfirmed(t *hadv1.PolicyTrial) string {
	return fmt.Sprintf("nobody has confirmed version %d within %s", t.GetVersion(), time.Duration(t.GetWithinNs()))
}
