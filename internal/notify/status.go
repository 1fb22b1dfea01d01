package notify

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	hadv1 "had/proto/had/v1"
)

// failingFor is how long a channel fails before that is a warning.
const failingFor = time.Minute

// Status is how the channels of the policy fare, as a leader knows it; nil on
// others.
func (n *Notifier) Status() (out []*hadv1.NotifyStatus) {
	p, err := n.cfg.Policy()
	if err != nil || p == nil {
		return nil
	}
	n.mu.Lock()
	s := n.story
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	view, _ := n.cfg.Log.View()
	seen := s.read(n.cfg.Log)
	for _, c := range p.Channels {
		at := view.Channel(c.ID())
		st := &hadv1.NotifyStatus{Channel: c.ID(), Target: n.transport(c).target()}
		if at != nil {
			st.Waiting = uint32(len(s.between(at.GetSent(), seen, c.Events))) //nolint:gosec // the history is bounded
			if r := at.GetRecent(); len(r) > 0 {
				st.SentAt = r[len(r)-1]
			}
		}
		n.onBoard(c.ID(), func(b *board) {
			st.Error = b.note
			if b.attempts > 0 && b.claim == at.GetClaimIndex() {
				st.FailingSince, st.Attempts, st.Error, st.NextTry = at.GetClaimedAt(), uint32(b.attempts), oneLine(b.failed), protoTime(b.next) //nolint:gosec // a try a second
			}
		})
		out = append(out, st)
	}
	return out
}

// Warnings are what a person should know of the channels, whole sentences.
func Warnings(all []*hadv1.NotifyStatus, now time.Time) (out []string) {
	for _, st := range all {
		switch since := st.GetFailingSince(); {
		case since != nil && now.Sub(since.AsTime()) >= failingFor:
			out = append(out, fmt.Sprintf("notify %s has failed for %s, %d events wait: %s", st.GetChannel(), now.Sub(since.AsTime()).Round(time.Second), st.GetWaiting(), st.GetError()))
		case since == nil && st.GetError() != "":
			out = append(out, fmt.Sprintf("notify %s: the latest message was %s", st.GetChannel(), st.GetError()))
		}
	}
	return out
}

// NoChannelError says that the policy has no channel of a name, and which it has.
type NoChannelError struct {
	Name  string
	Known []string
}

func (e *NoChannelError) Error() string {
	switch {
	case len(e.Known) == 0:
		return "the policy has no notify block: nobody is told anything"
	default:
		return fmt.Sprintf("the policy has no channel %q; it has %s", e.Name, strings.Join(e.Known, ", "))
	}
}

// Test sends a test through the channels that a name means, all at once, and
// waits for what comes of it. The error is an *NoChannelError.
func (n *Notifier) Test(ctx context.Context, name string) ([]*hadv1.NotifyTestResult, error) {
	p, err := n.cfg.Policy()
	if err != nil {
		return nil, err
	}
	channels := channelsNamed(p, name)
	if len(channels) == 0 {
		unknown := &NoChannelError{Name: name}
		for _, c := range channelsNamed(p, "") {
			unknown.Known = append(unknown.Known, c.ID())
		}
		return nil, unknown
	}
	view, _ := n.cfg.Log.View()
	results := make([]*hadv1.NotifyTestResult, len(channels))
	var wg sync.WaitGroup
	for i, c := range channels {
		s := &sender{n: n, channel: c, id: c.ID(), transport: n.transport(c)}
		m := &message{
			id:      fmt.Sprintf("had-%s-%s-%s-test-%s", view.Birth.GetClusterId(), c.Kind, c.Name, rand.Text()),
			cluster: n.cfg.Cluster, clusterID: view.Birth.GetClusterId(), channel: s.id, node: n.cfg.Self.GetNode(), at: time.Now(), test: true,
		}
		wg.Go(func() {
			started := time.Now()
			err := s.try(ctx, m)
			results[i] = &hadv1.NotifyTestResult{
				Channel: s.id, Target: s.transport.target(), TookMs: float64(time.Since(started)) / float64(time.Millisecond),
			}
			if err != nil {
				results[i].Error = oneLine(err)
			}
		})
	}
	wg.Wait()
	return results, nil
}
