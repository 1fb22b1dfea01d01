package main

import (
	"fmt"
	"time"

	hadv1 "had/proto/had/v1"
)

// Results of a move, as JSON says them.
const (
	moveMoved   = "moved"
	moveFailed  = "failed"  // the target gave the turn back, or the order was ended
	moveOther   = "other"   // somebody else owns now
	moveUnknown = "unknown" // not settled in the time allowed
)

// moveProgress follows one move through the events of the history.
type moveProgress struct {
	operation string
	ordered   bool // the order is known to be in the log
	from      string
	target    string
	fromEpoch uint64

	epoch     uint64 // the target's; 0 until it acquires
	addresses string
	down, up  time.Time // when the addresses went and came, by the two nodes' clocks
	result    string    // empty while under way
	why       string    // for results other than moveMoved
}

// accept takes over what the daemon answered to the order.
func (m *moveProgress) accept(r *hadv1.MoveResponse) {
	m.ordered = true
	m.from, m.target, m.fromEpoch = r.GetFrom(), r.GetTarget(), r.GetFromEpoch()
}

// observe takes the next event. It reports whether the event belongs to the
// move's time; result is set once the move is settled.
func (m *moveProgress) observe(e *hadv1.Event) bool {
	if order := e.GetMoveOrdered(); order.GetOperation() == m.operation && order != nil {
		m.ordered = true
		m.target, m.fromEpoch = order.GetTarget(), order.GetFromEpoch()
		return true
	}
	if !m.ordered || m.result != "" {
		return false
	}
	switch body := e.GetBody().(type) {
	case *hadv1.Event_Acquired:
		m.acquired(e, body.Acquired)
	case *hadv1.Event_Progress:
		m.progress(e, body.Progress)
	case *hadv1.Event_Released:
		if body.Released.GetEpoch() == m.fromEpoch {
			m.from = e.GetNode()
			m.down = stepEnd(body.Released.GetSteps(), "addresses_down")
		}
	case *hadv1.Event_MoveEnded:
		if body.MoveEnded.GetOperation() == m.operation {
			m.settle(moveFailed, body.MoveEnded.GetWhy())
		}
	}
	return true
}

func (m *moveProgress) acquired(e *hadv1.Event, a *hadv1.Acquire) {
	if e.GetEpoch() <= m.fromEpoch {
		return
	}
	if e.GetNode() != m.target {
		m.settle(moveOther, fmt.Sprintf("%s owns now, epoch %d%s", e.GetNode(), e.GetEpoch(), colon(a.GetCause())))
		return
	}
	m.epoch, m.addresses = e.GetEpoch(), heldAddresses(a.GetAddresses())
}

func (m *moveProgress) progress(e *hadv1.Event, p *hadv1.Progress) {
	// Epoch 0 is a turn that ended before it got as far as an Acquire.
	if e.GetNode() != m.target || (p.GetEpoch() != m.epoch && p.GetEpoch() != 0) {
		return
	}
	switch p.GetOutcome() {
	case hadv1.Progress_OUTCOME_SERVING:
		if m.epoch != 0 {
			m.up = stepEnd(p.GetSteps(), "addresses_up")
			m.settle(moveMoved, "")
		}
	case hadv1.Progress_OUTCOME_FAILED, hadv1.Progress_OUTCOME_VETOED:
		m.settle(moveFailed, fmt.Sprintf("%s gave the turn back%s", m.target, colon(p.GetReason())))
	}
}

func (m *moveProgress) settle(result, why string) { m.result, m.why = result, why }

// gap returns how long nobody had the addresses, by the clocks of the two
// nodes; false when one of them hasn't told.
func (m *moveProgress) gap() (time.Duration, bool) {
	if m.down.IsZero() || m.up.IsZero() {
		return 0, false
	}
	return m.up.Sub(m.down), true
}

// stepEnd returns when the named step ended; zero when it isn't there or
// didn't succeed.
func stepEnd(steps []*hadv1.Step, name string) time.Time {
	for _, s := range steps {
		if s.GetName() == name && s.GetError() == "" && s.GetStarted().IsValid() {
			return s.GetStarted().AsTime().Add(time.Duration(s.GetDurationNs()))
		}
	}
	return time.Time{}
}

// sentence is a successful move in one line.
func (m *moveProgress) sentence() string {
	text := fmt.Sprintf("moved %s", m.addresses)
	if m.from != "" {
		text += " from " + m.from
	}
	text += " to " + m.target
	gap, known := m.gap()
	switch {
	case m.from == "":
	case !known:
		text += fmt.Sprintf(", gap not known: %s hasn't reported when its addresses went", m.from)
	case gap < 0:
		text += fmt.Sprintf(", gap smaller than the difference of their clocks (%s)", span(gap.Round(time.Millisecond)))
	default:
		text += fmt.Sprintf(", gap %s (addresses down on %s to addresses up on %s, by their clocks)", span(gap.Round(time.Millisecond)), m.from, m.target)
	}
	return clean(text)
}

// moveDocument is a move in JSON.
type moveDocument struct {
	SchemaVersion int      `json:"schema_version"`
	Operation     string   `json:"operation"`
	Result        string   `json:"result"`
	Why           string   `json:"why"`
	From          string   `json:"from"`
	Target        string   `json:"target"`
	FromEpoch     uint64   `json:"from_epoch"`
	Epoch         uint64   `json:"epoch"`
	GapMs         *float64 `json:"gap_ms"` // null when not known
}

func (m *moveProgress) document() moveDocument {
	doc := moveDocument{
		SchemaVersion: schemaVersion, Operation: m.operation, Result: m.result, Why: m.why,
		From: m.from, Target: m.target, FromEpoch: m.fromEpoch, Epoch: m.epoch,
	}
	if gap, known := m.gap(); known {
		ms := float64(gap) / float64(time.Millisecond)
		doc.GapMs = &ms
	}
	return doc
}
