package failover

import (
	"cmp"
	"context"
	"time"

	"had/internal/clock"
)

// prepareAhead is how long before the end of a wait for another's lease the
// turn after it is prepared: late, so that what was found still holds, and
// early enough for scripts that take their time.
const prepareAhead = time.Second

// preparedFor is how long a preparation is good for; after that it is made
// anew.
const preparedFor = 2 * time.Second

// preparation is a turn whose Test scripts have passed before it could begin.
// It is good only for the turn it was made for.
type preparation struct {
	turn    *turn         // nil: a candidate's, which failed; a leader tries anew
	version uint64        // of the policy
	last    uint64        // View.LastEpoch: nobody has owned since
	ended   clock.Instant // when the last script and the probe had ended
	// answered says who had an address then. It is no veto: until the wait is
	// over that may be the owner that is waited for.
	answered error
}

// goodFor reports whether it is for the turn that would begin now. A candidate
// prepares once: one that is cut off stands for as long as that lasts, and each
// script that it runs is reported.
func (p *preparation) goodFor(in Inputs) bool {
	return p != nil && p.last == in.View.LastEpoch && p.version == in.View.Policy.GetVersion() &&
		(in.Leadership.Standing || p.turn != nil && in.Now.Before(p.ended.Add(preparedFor)))
}

// prepare does ahead what needs no epoch: the Test scripts, and a first probe.
// It changes nothing.
func (x *executor) prepare(ctx context.Context, in Inputs, step Step) error {
	t, err := x.newTurn(in.Policy, in.View.Policy.GetVersion(), in.View.LastOwner)
	var answered error
	if err == nil {
		err, answered = x.test(ctx, t, 0, step.Cause, nil)
	}
	if in.Leadership.Standing {
		in.Leadership = x.log.Leadership() // scripts take their time, and elections little
	}
	switch {
	case err != nil && !in.Leadership.Leading:
		t = nil // it may never lead, and a veto is a leader's to report
	case err != nil:
		return x.vetoed(ctx, in, t, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.prepared = &preparation{turn: t, version: in.View.Policy.GetVersion(), last: in.View.LastEpoch, ended: x.now(), answered: answered}
	return nil
}

// isPrepared reports whether the turn that would begin now has been prepared.
func (x *executor) isPrepared(in Inputs) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.prepared.goodFor(in)
}

// ready returns the turn that may begin now, with what there is of it beside
// an error. What was prepared isn't done again, but an address that somebody
// had then is asked for once more: now nobody may.
func (x *executor) ready(ctx context.Context, in Inputs, step Step) (*turn, error) {
	x.mu.Lock()
	p := x.prepared
	x.prepared = nil
	x.mu.Unlock()
	switch {
	case !p.goodFor(in):
		t, err := x.newTurn(in.Policy, in.View.Policy.GetVersion(), in.View.LastOwner)
		if err == nil && !in.tested() {
			err = cmp.Or(x.test(ctx, t, 0, step.Cause, nil))
		}
		return t, err
	case p.answered != nil:
		return p.turn, x.probe(ctx, p.turn, nil)
	}
	return p.turn, nil
}
