package daemon

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
)

// herald puts into this node's log, a line each, who leads and which nodes answer:
// what raft has to say of it fills pages.
type herald struct {
	leadership func() cluster.Leadership
	changed    func() <-chan struct{}
	answers    func() failover.Answers
	self       string
	logger     hclog.Logger

	said     string          // of leadership
	answered map[string]bool // what was said of each node, while this one leads
}

func (n *node) herald() *herald {
	return &herald{
		leadership: n.raft.Leadership, changed: n.raft.LeadershipChanged, answers: n.controller.Answers,
		self: n.cfg.File.Node, logger: n.cfg.Logger,
	}
}

// lookAround is how often a leader's knowledge of the others is looked at: as often
// as they are asked.
const lookAround = 2 * time.Second

func (h *herald) run(ctx context.Context) error {
	for {
		changed := h.changed()
		h.leader()
		h.others()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(clock.UntilBeat(lookAround)):
		}
	}
}

// leader says who leads, when that is another than it was.
func (h *herald) leader() {
	l := h.leadership()
	var say, who string
	switch {
	case l.Leading:
		say, who = "this node leads", h.self
	case l.Leader != "":
		say, who = l.Leader+" leads", l.Leader
	default:
		say = "no leader is known"
	}
	if say == h.said {
		return
	}
	first := h.said == ""
	h.said = say
	switch {
	case who != "":
		h.logger.Info(say, "term", l.Term)
	case !first: // at the start nobody is known yet
		h.logger.Warn(say+": an election is under way, or no majority of the nodes can reach each other", "term", l.Term)
	}
}

// others says which nodes have stopped or begun to answer. A new leader has asked
// nobody yet, and takes them for well.
func (h *herald) others() {
	if !h.leadership().Leading {
		h.answered = nil
		return
	}
	now := h.answers()
	if h.answered == nil {
		h.answered = map[string]bool{}
	}
	for _, node := range slices.Sorted(maps.Keys(now.Fresh)) {
		answers := now.Fresh[node]
		before, known := h.answered[node]
		if !known && !answers && now.Peers[node].Err == "" {
			continue // not asked yet
		}
		h.answered[node] = answers
		switch {
		case answers == before && known:
		case !answers:
			h.logger.Warn(node+" doesn't answer", "error", now.Peers[node].Err)
		case known:
			h.logger.Info(node + " answers again")
		}
	}
}
