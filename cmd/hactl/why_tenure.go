package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	hadv1 "had/proto/had/v1"
)

// tenure is what the history has of one epoch. Any event may be missing: the
// log keeps a bounded number, and a node that is cut off reports late.
type tenure struct {
	epoch    uint64
	acquired *hadv1.Event
	serving  *hadv1.Event   // the first: a new policy is announced in the same way
	failed   *hadv1.Event   // the turn was given back
	released *hadv1.Event   // the first word that nothing of it is held
	closed   *hadv1.Event   // by a successor, whose evidence it is
	moves    []*hadv1.Event // away from it: asked for, and ended without a hand-over
	evidence []*hadv1.Event // about its volumes: tries to switch its owner off, and what counts
	hooks    []*hadv1.Event
	checks   []*hadv1.Event // what its checks said while it served
}

// tenures sorts a history by epochs, oldest first.
func tenures(events []*hadv1.Event) []*tenure {
	all := map[uint64]*tenure{}
	for _, e := range events {
		n := e.GetEpoch()
		if n == 0 {
			continue
		}
		t := all[n]
		if t == nil {
			t = &tenure{epoch: n}
			all[n] = t
		}
		t.add(e)
	}
	list := make([]*tenure, 0, len(all))
	for _, t := range all {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *tenure) int { return cmp.Compare(a.epoch, b.epoch) })
	return list
}

func (t *tenure) add(e *hadv1.Event) {
	first := func(at **hadv1.Event) {
		if *at == nil {
			*at = e
		}
	}
	switch body := e.GetBody().(type) {
	case *hadv1.Event_Acquired:
		t.acquired = e
	case *hadv1.Event_Progress:
		if body.Progress.GetOutcome() == hadv1.Progress_OUTCOME_SERVING {
			first(&t.serving)
		} else {
			t.failed = e
		}
	case *hadv1.Event_Released:
		first(&t.released)
	case *hadv1.Event_Closed:
		t.closed = e
	case *hadv1.Event_MoveOrdered, *hadv1.Event_MoveEnded:
		t.moves = append(t.moves, e)
	case *hadv1.Event_Secured, *hadv1.Event_FenceTry:
		t.evidence = append(t.evidence, e)
	case *hadv1.Event_Hook:
		t.hooks = append(t.hooks, e)
	case *hadv1.Event_CheckChanged:
		t.checks = append(t.checks, e)
	}
}

// owner names whose epoch it is; empty when no event that is kept says so.
func (t *tenure) owner() string {
	for _, e := range []*hadv1.Event{t.acquired, t.serving, t.failed, t.released, t.closed} {
		if e != nil {
			return e.GetNode()
		}
	}
	return ""
}

// bySelf reports whether the run of had that owned, or its guard, has said itself
// that nothing is held. A later run can only tell what it has found.
func (t *tenure) bySelf() bool {
	own := t.acquired.GetAcquired().GetInstance().GetNonce()
	return own != "" && t.released.GetReleased().GetReporter().GetNonce() == own
}

// turnSteps are the steps by which the epoch was taken on.
func (t *tenure) turnSteps() []*hadv1.Step {
	e := cmp.Or(t.serving, t.failed)
	return e.GetProgress().GetSteps()
}

// change is how one epoch came to its owner.
type change struct {
	*tenure

	previous *tenure        // the last epoch before it that served; nil: none that is kept
	between  []*tenure      // turns after it that were given back
	vetoes   []*hadv1.Event // refusals to begin a turn, likewise
	tests    []*hadv1.Event // runs of Test that belong to no epoch
	drained  *hadv1.Event   // the latest word before it that the previous owner shall own nothing
}

// changeOf finds an epoch in a history, and the newest for 0; nil: it isn't there.
func changeOf(events []*hadv1.Event, epoch uint64) *change {
	all := slices.DeleteFunc(tenures(events), func(t *tenure) bool { return t.acquired == nil && t.serving == nil && t.released == nil })
	at := len(all) - 1
	if epoch != 0 {
		at = slices.IndexFunc(all, func(t *tenure) bool { return t.epoch == epoch })
	}
	if at < 0 {
		return nil
	}
	c := &change{tenure: all[at]}
	since := uint64(0)
	for _, t := range slices.Backward(all[:at]) {
		if t.serving != nil || t.acquired == nil {
			c.previous, since = t, t.epoch
			break
		}
		c.between = append([]*tenure{t}, c.between...)
	}
	for _, e := range events {
		if c.previous != nil && e.GetDrained() != nil && e.GetNode() == c.previous.owner() && e.GetIndex() < c.epoch {
			c.drained = e
		}
		if e.GetEpoch() != 0 || e.GetIndex() < since {
			continue
		}
		switch {
		case e.GetProgress() != nil && e.GetIndex() < c.epoch:
			c.vetoes = append(c.vetoes, e)
		case e.GetHook() != nil && e.GetNode() == c.owner() && c.within(e):
			c.tests = append(c.tests, e)
		}
	}
	return c
}

// within reports whether a script ran in the turn by which the epoch was taken on.
func (c *change) within(e *hadv1.Event) bool {
	all := c.turnSteps()
	if len(all) == 0 || c.acquired == nil {
		return false
	}
	at := hookStart(e)
	return !at.Before(all[0].GetStarted().AsTime()) && at.Before(c.acquired.GetAt().AsTime().Add(time.Second))
}

// hookStart is when a script was started.
func hookStart(e *hadv1.Event) time.Time {
	if s := e.GetHook().GetStarted(); s.IsValid() {
		return s.AsTime()
	}
	return e.GetAt().AsTime().Add(-time.Duration(e.GetHook().GetDurationNs()))
}

// handedOver reports whether the previous owner served on until the new one had
// opened its epoch.
func (c *change) handedOver() bool {
	return slices.ContainsFunc(c.acquired.GetAcquired().GetEvidence(), func(e *hadv1.Evidence) bool {
		return e.GetKind() == hadv1.Evidence_KIND_HANDED_OVER
	})
}

// silent is the evidence of a wait that ended the previous epoch; nil: it ended in
// another way.
func (c *change) silent() *hadv1.Evidence {
	if c.previous == nil || c.previous.closed == nil || c.previous.released != nil && c.previous.released.GetIndex() < c.epoch {
		return nil
	}
	return c.previous.closed.GetClosed()
}

// lastLease is when the last lease of a silent owner was written to the log.
func (c *change) lastLease() time.Time {
	e := c.previous.closed
	return e.GetAt().AsTime().Add(-time.Duration(e.GetClosed().GetWaitedNs()))
}

// move is the order that the epoch fulfils; nil: none.
func (c *change) move() *hadv1.Event {
	operation := c.acquired.GetAcquired().GetMoveOperation()
	if operation == "" || c.previous == nil {
		return nil
	}
	for _, e := range c.previous.moves {
		if e.GetMoveOrdered().GetOperation() == operation {
			return e
		}
	}
	return nil
}

// byItself reports whether an owner has ordered its move without being asked: its
// checks fail, it is drained, or the policy prefers another node.
func byItself(o *hadv1.MoveOrder) bool { return strings.HasPrefix(o.GetBy(), "had on ") }

// reasons are what an owner moved for: the word of each check that failed, or of
// the person who has drained it.
func (c *change) reasons() (all []*hadv1.Event) {
	order := c.move().GetMoveOrdered()
	for _, name := range order.GetChecks() {
		var last *hadv1.Event
		for _, e := range c.previous.checks {
			if e.GetCheckChanged().GetCheck() == name && e.GetCheckChanged().GetFailing() {
				last = e
			}
		}
		if last != nil {
			all = append(all, last)
		}
	}
	if byItself(order) && strings.HasPrefix(order.GetReason(), "drained by ") && c.drained != nil {
		all = append(all, c.drained)
	}
	return all
}

// gap is how long nobody had the addresses, as far as the log knows: between
// least and most.
type gap struct {
	least, most time.Duration
	how         string // from what to what, for people
}

// gap returns false when the log doesn't know the beginning or the end.
func (c *change) gap() (gap, bool) {
	up := stepEnd(c.turnSteps(), "addresses_up")
	if up.IsZero() || c.previous == nil {
		return gap{}, false
	}
	old := c.previous.owner()
	if let := stepEnd(c.turnSteps(), "old_owner_lets_go"); !let.IsZero() {
		return gap{up.Sub(let), up.Sub(let), "from when " + old + " had let go, by one clock"}, true
	}
	if c.previous.bySelf() {
		if down := stepEnd(c.previous.released.GetReleased().GetSteps(), "addresses_down"); !down.IsZero() {
			return gap{up.Sub(down), up.Sub(down), "addresses down on " + old + " to addresses up on " + c.owner() + ", by their clocks"}, true
		}
	}
	w := c.silent()
	if w == nil {
		return gap{}, false
	}
	last := c.lastLease()
	g := gap{0, up.Sub(last), old + " may have served until its lease was over"}
	if terms := c.previous.acquired.GetAcquired().GetTerms(); terms != nil {
		g.least = max(0, g.most-time.Duration(terms.GetTtlNs()+terms.GetReleaseGraceNs()))
	}
	return g, true
}
