package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	hadv1 "had/proto/had/v1"
)

// courier carries the journal into the log. A delivery whose answer got lost
// is sent again; State.Apply takes each report once.
type courier struct {
	journal Outbox
	log     Log
	peers   Peers
	logger  hclog.Logger
	busy    chan struct{} // capacity 1: one delivery at a time, or order is lost
}

const (
	deliverAtOnce = 64
	retryDelay    = 500 * time.Millisecond
	answerLimit   = 2 * time.Second // for the leader to commit a delivery, while it leads
)

var errNoLeader = errors.New("no leader is known")

// Run delivers until ctx ends.
func (c *courier) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	var told string
	for {
		changed, leadership := c.journal.Changed(), c.log.LeadershipChanged()
		err := c.deliver(ctx)
		wait := time.Minute
		if err != nil {
			wait = retryDelay
			if err.Error() != told && ctx.Err() == nil {
				c.logger.Debug("reports wait in the journal", "count", c.journal.PendingCount(), "error", err)
			}
			told = err.Error()
		}
		retry.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
		case <-changed:
		case <-leadership:
		}
	}
}

// flush delivers everything now, within the limit; without a leader it gives
// up at once.
func (c *courier) flush(ctx context.Context, limit time.Duration) error {
	return c.flushTo(ctx, limit, errNoLeader)
}

// flushLast is flush for a daemon that ends: a leader that is being elected is
// worth a wait, for it may be the successor, who waits for the release.
func (c *courier) flushLast(ctx context.Context, limit time.Duration) error {
	return c.flushTo(ctx, limit, nil)
}

func (c *courier) flushTo(ctx context.Context, limit time.Duration, hopeless error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		leadership := c.log.LeadershipChanged()
		err := c.deliver(ctx)
		if err == nil || hopeless != nil && errors.Is(err, hopeless) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-leadership:
		case <-time.After(retryDelay / 10):
		}
	}
}

// deliver sends what is pending, oldest first, until nothing is left.
func (c *courier) deliver(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		reports := c.journal.Pending(deliverAtOnce)
		if len(reports) == 0 {
			return nil
		}
		if view, _ := c.log.View(); view.Birth == nil {
			return errors.New("the log doesn't know its members yet")
		}
		cmd := &hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: reports}}}
		if err := carry(ctx, c.log, c.peers, cmd); err != nil {
			return err
		}
		if err := c.journal.Ack(reports[len(reports)-1].GetSeq()); err != nil {
			return fmt.Errorf("trim the journal: %w", err)
		}
	}
}
