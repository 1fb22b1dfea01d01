package notify

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// cutOffAfter is how long a node is without quorum before it says so itself.
const cutOffAfter = 30 * time.Second

func protoTime(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// outage is a time in which this node can't reach a majority.
type outage struct {
	since  time.Time          // zero: there is none
	told   context.CancelFunc // ends the sending of the notice; nil: it is not time for one yet
	notice sync.WaitGroup
}

func (o *outage) end() {
	if o.told != nil {
		o.told()
	}
	o.since, o.told = time.Time{}, nil
}

// watchQuorum sends this node's own notice when it can't reach a majority for a
// while: nobody who leads would, of it. When it can again, the log is told. A
// node that is asked to stop keeps quiet.
func (n *Notifier) watchQuorum(life, stopping context.Context) {
	var o outage
	defer o.notice.Wait()
	defer o.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := n.cfg.Log.LeadershipChanged()
		timer.Reset(n.lookForQuorum(life, &o))
		select {
		case <-life.Done():
			return
		case <-stopping.Done():
			return
		case <-changed:
		case <-timer.C:
		}
	}
}

// lookForQuorum returns when to look again at the latest.
func (n *Notifier) lookForQuorum(life context.Context, o *outage) time.Duration {
	if l := n.cfg.Log.Leadership(); l.Leading || l.Leader != "" {
		if o.told != nil { // what isn't sent by now the history tells
			n.reportCutOff(life, o.since)
		}
		o.end()
		return time.Hour
	}
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if o.told != nil {
		return time.Hour
	}
	if wait := time.Until(o.since.Add(cutOffAfter)); wait > 0 {
		return wait
	}
	ctx, cancel := context.WithCancel(life)
	o.told = cancel
	n.sendCutOff(ctx, o.since, &o.notice)
	return time.Hour
}

func (n *Notifier) reportCutOff(ctx context.Context, since time.Time) {
	err := n.cfg.Report(ctx, &hadv1.Notice{Kind: hadv1.Notice_KIND_CUT_OFF, Node: n.cfg.Self.GetNode(), Since: protoTime(since)})
	if err != nil {
		n.cfg.Logger.Warn("that this node was cut off could not be reported", "error", err)
	}
}

// sendCutOff sends the notice over every channel, each on its own, until it has
// arrived or ctx ends.
func (n *Notifier) sendCutOff(ctx context.Context, since time.Time, sending *sync.WaitGroup) {
	p, err := n.cfg.Policy()
	if err != nil || p == nil {
		return
	}
	view, _ := n.cfg.Log.View()
	node := n.cfg.Self.GetNode()
	for _, c := range p.Channels {
		it := Item{
			Index: view.Applied, At: time.Now(), Topic: policy.TopicCutOff, Severity: Critical, Node: node,
			Title: node + " is without quorum",
			Text: fmt.Sprintf("%s has reached no majority of the nodes since %s: it owns nothing, and can't tell what the others do. This is its own notice; the other nodes may send theirs.",
				node, clockTime(since)),
		}
		if !wants(c, it.Topic) {
			continue
		}
		m := &message{
			id:      fmt.Sprintf("had-%s-%s-%s-cutoff-%d", view.Birth.GetClusterId(), c.Kind, c.Name, since.UnixNano()) + "-" + node,
			cluster: n.cfg.Cluster, clusterID: view.Birth.GetClusterId(), channel: c.ID(), node: node, at: time.Now(), items: []Item{it},
		}
		s := &sender{n: n, channel: c, id: c.ID(), transport: n.transport(c)}
		sending.Go(func() { s.insist(ctx, m) })
	}
}

func wants(c policy.Channel, t policy.Topic) bool {
	return c.Events == nil || slices.Contains(c.Events, t)
}

// insist sends a message that is in no log until it has arrived.
func (s *sender) insist(ctx context.Context, m *message) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		err := s.try(ctx, m)
		if err == nil {
			s.n.cfg.Logger.Info("notified that this node is without quorum", "channel", s.id)
			return
		}
		s.n.cfg.Logger.Debug("the notice that this node is without quorum was not sent yet", "channel", s.id, "error", err)
		sleep(ctx, pause)
	}
}
