package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

const (
	// settle is how long a story is left to unfold, so that what belongs
	// together is one message.
	settle = 2 * time.Second
	// After cluster.NotifyRecent messages within burstTime the next comes no
	// sooner than burstGap after the last, and tells all that has happened since.
	burstTime = 10 * time.Minute
	burstGap  = 2 * time.Minute
	// tryLimit is how long one try may take; a command's is its own timeout.
	tryLimit = 20 * time.Second
	// A try in vain is repeated after firstPause, then after twice as long each
	// time, up to longestPause; a little more or less, at random.
	firstPause   = time.Second
	longestPause = 5 * time.Minute
	// A message is given up after giveUpAfter and at least giveUpTries.
	giveUpAfter = 24 * time.Hour
	giveUpTries = 10
	// recordLimit is how long a sender tries to have it recorded what became
	// of a message.
	recordLimit = 15 * time.Second
	recordPause = 300 * time.Millisecond
	// A message that another node was sending is left to it while that node
	// answers: it finishes what it has begun, and says so.
	inheritUnknown = 3 * time.Second
	inheritLook    = 500 * time.Millisecond
	// moveOnAfter is how many events a channel may be behind that are none of
	// its business: well before the history's bound cuts them off.
	moveOnAfter = cluster.HistoryLimit / 2
)

// sender sends one channel's messages, one after another, while its node leads.
type sender struct {
	n         *Notifier
	channel   policy.Channel
	id        string
	transport transport
	story     *story
	term      uint64

	waitsSince time.Time // when something to tell was first seen; zero: nothing is
	inherited  time.Time // when a message of another run was first seen
}

// run works until ctx ends; what it is sending then it finishes within life.
func (s *sender) run(ctx, life context.Context) {
	s.n.onBoard(s.id, func(b *board) { b.next = time.Time{} }) // another policy may have mended it
	for ctx.Err() == nil {
		view, changed := s.n.cfg.Log.View()
		seen := s.story.read(s.n.cfg.Log)
		var pause time.Duration // 0: until something changes
		if c := view.Channel(s.id); c.GetClaim() != nil {
			s.waitsSince = time.Time{}
			pause = s.deliver(ctx, life, view, c)
		} else {
			pause = s.claim(ctx, view, c, seen)
		}
		if pause < 0 {
			continue
		}
		if pause == 0 {
			pause = time.Hour
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// again is a pause that says: look at once.
const again = -1

// claim opens a message if there is something to tell and it is time to. It
// returns how long to wait until the next look.
func (s *sender) claim(ctx context.Context, view cluster.View, c *hadv1.NotifyChannel, seen uint64) time.Duration {
	after := c.GetSent()
	if c == nil { // a channel begins with the policy that names it
		after = max(view.Policy.GetIndex(), 1) - 1
	}
	r := &hadv1.NotifyClaim{Term: s.term, Channel: s.id, After: after, Through: seen, Instance: s.n.cfg.Self}
	items := s.story.between(after, seen, s.channel.Events)
	switch {
	case c == nil:
		r.Nothing, r.Through = true, after
	case len(items) > 0 || c.GetCut() > 0:
		if s.waitsSince.IsZero() {
			s.waitsSince = time.Now()
		}
		if wait := time.Until(later(s.waitsSince.Add(settle), spaced(c.GetRecent()))); wait > 0 {
			return wait
		}
	case seen > after && s.behind(after) > moveOnAfter:
		r.Nothing = true
	default:
		s.waitsSince = time.Time{}
		return 0
	}
	if _, err := s.n.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_NotifyClaim{NotifyClaim: r}}); err != nil {
		if ctx.Err() == nil {
			s.n.cfg.Logger.Debug("a message could not be claimed", "channel", s.id, "error", err)
		}
		return firstPause
	}
	return again
}

// behind is how many events there are after an entry.
func (s *sender) behind(after uint64) int {
	events, _ := s.n.cfg.Log.History(after)
	return len(events)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// spaced is when the next message may come after the latest ones. Their times are
// of several nodes' wall clocks; one that is wrong delays a message by no more
// than burstGap.
func spaced(recent []*timestamppb.Timestamp) time.Time {
	if len(recent) < cluster.NotifyRecent {
		return time.Time{}
	}
	now := time.Now()
	first, last := recent[0].AsTime(), recent[len(recent)-1].AsTime()
	if now.Sub(first) > burstTime || last.After(now) {
		return time.Time{}
	}
	return last.Add(burstGap)
}

// deliver tries to send the message under way, when it is time to, and settles
// it. It returns how long to wait until the next look.
func (s *sender) deliver(ctx, life context.Context, view cluster.View, c *hadv1.NotifyChannel) time.Duration {
	index := c.GetClaimIndex()
	own := proto.Equal(c.GetClaim().GetInstance(), s.n.cfg.Self)
	var b board
	s.n.onBoard(s.id, func(at *board) {
		if at.claim != index {
			*at = board{claim: index, note: at.note}
			s.inherited = time.Now()
		}
		b = *at
	})
	if b.done {
		return s.record(life, c)
	}
	if !own && b.attempts == 0 {
		if wait := s.leaveToOther(c.GetClaim().GetInstance()); wait > 0 {
			return wait
		}
	}
	if wait := time.Until(b.next); wait > 0 {
		return wait
	}
	if ctx.Err() != nil {
		return 0
	}
	m := s.message(view, c)
	m.repeat = b.unsure || !own
	if len(m.items) == 0 && m.cut == 0 {
		s.settled(hadv1.NotifyMark_OUTCOME_SENT, nil) // a newer version thought it worth telling
		return s.record(life, c)
	}
	err := s.try(life, m)
	var partly *partlyError
	switch {
	case err == nil, errors.As(err, &partly):
		s.settled(hadv1.NotifyMark_OUTCOME_SENT, err)
		return s.record(life, c)
	case life.Err() != nil:
		return 0
	}
	if s.failed(err) && time.Since(c.GetClaimedAt().AsTime()) > giveUpAfter {
		s.settled(hadv1.NotifyMark_OUTCOME_GAVE_UP, err)
		return s.record(life, c)
	}
	return again
}

// leaveToOther returns how long to leave a message to the run that was sending it.
func (s *sender) leaveToOther(other *hadv1.Instance) time.Duration {
	since := time.Since(s.inherited)
	switch s.n.cfg.Runs(other) {
	case There:
		if since < s.limit()+recordLimit {
			return inheritLook
		}
	case Unknown:
		if since < inheritUnknown {
			return inheritLook
		}
	case Gone:
	}
	return 0
}

// message is the one that a claim stands for.
func (s *sender) message(view cluster.View, c *hadv1.NotifyChannel) *message {
	return &message{
		id: messageID(view, s.id, c.GetClaimIndex()), cluster: s.n.cfg.Cluster, clusterID: view.Birth.GetClusterId(),
		channel: s.id, node: s.n.cfg.Self.GetNode(), at: c.GetClaimedAt().AsTime(),
		items: s.story.between(c.GetSent(), c.GetClaim().GetThrough(), s.channel.Events), cut: c.GetCutClaimed(),
	}
}

// messageID names a message for receivers: the same at every try of whoever
// makes it, and never that of another.
func messageID(view cluster.View, channel string, claim uint64) string {
	return fmt.Sprintf("had-%s-%s-%d", view.Birth.GetClusterId(), strings.ReplaceAll(channel, ".", "-"), claim)
}

// limit is how long a try may take.
func (s *sender) limit() time.Duration {
	if s.channel.Kind == policy.Exec {
		return s.channel.Timeout + 5*time.Second // the program is given up before
	}
	return tryLimit
}

// try sends once.
func (s *sender) try(life context.Context, m *message) error {
	limit := s.limit()
	ctx, cancel := context.WithTimeoutCause(life, limit, fmt.Errorf("no success within %s", limit))
	defer cancel()
	return s.transport.send(ctx, m)
}

// settled notes what became of the message under way.
func (s *sender) settled(outcome hadv1.NotifyMark_Outcome, err error) {
	s.n.onBoard(s.id, func(b *board) {
		b.done, b.outcome, b.note, b.why = true, outcome, "", ""
		switch {
		case err != nil && outcome == hadv1.NotifyMark_OUTCOME_SENT:
			b.note = oneLine(err)
		case err != nil:
			b.why = oneLine(err)
		}
	})
	switch {
	case outcome == hadv1.NotifyMark_OUTCOME_GAVE_UP:
		s.n.cfg.Logger.Error("a notification was given up", "channel", s.id, "error", err)
	case err != nil:
		s.n.cfg.Logger.Warn("a notification was not taken for everybody", "channel", s.id, "error", err)
	default:
		s.n.cfg.Logger.Info("notified", "channel", s.id)
	}
}

// failed notes a try in vain, and reports whether there were enough of them to
// give up.
func (s *sender) failed(err error) bool {
	var enough bool
	var unsure *maybeSentError
	s.n.onBoard(s.id, func(b *board) {
		pause := min(firstPause<<min(b.attempts, 20), longestPause)
		pause += time.Duration(float64(pause) * (rand.Float64() - 0.5) / 2) //nolint:gosec // it spreads tries
		if asked, ok := errors.AsType[*laterError](err); ok {
			pause = max(pause, asked.after)
		}
		b.attempts++
		b.failed, b.next = err, time.Now().Add(pause)
		b.unsure = b.unsure || errors.As(err, &unsure)
		enough = b.attempts >= giveUpTries
		if b.attempts == 1 {
			s.n.cfg.Logger.Warn("a notification failed; it is tried again", "channel", s.id, "error", err)
		}
	})
	return enough
}

// record has it committed what became of a message. The leader may be another by
// now.
func (s *sender) record(life context.Context, c *hadv1.NotifyChannel) time.Duration {
	mark := &hadv1.NotifyMark{
		Channel: s.id, Claim: c.GetClaimIndex(), By: s.n.cfg.Self.GetNode(),
		Events: uint32(len(s.story.between(c.GetSent(), c.GetClaim().GetThrough(), s.channel.Events))), //nolint:gosec // the history is bounded
	}
	s.n.onBoard(s.id, func(b *board) { mark.Outcome, mark.Why = b.outcome, b.why })
	ctx, cancel := context.WithTimeout(life, recordLimit)
	defer cancel()
	for ctx.Err() == nil {
		err := s.n.cfg.Record(ctx, &hadv1.Command{Record: &hadv1.Command_NotifyMark{NotifyMark: mark}})
		if err == nil || refusedByLog(err) {
			return recordPause // it is applied here by then, and wakes the sender
		}
		s.n.cfg.Logger.Debug("what became of a notification could not be recorded yet", "channel", s.id, "error", err)
		sleep(ctx, recordPause)
	}
	return firstPause
}

// channelNamed returns the channels of a policy that a name means: "ops",
// "email.ops", or all for "".
func channelsNamed(p *policy.Policy, name string) []policy.Channel {
	if p == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(p.Channels), func(c policy.Channel) bool {
		return name != "" && name != c.Name && name != c.ID()
	})
}
