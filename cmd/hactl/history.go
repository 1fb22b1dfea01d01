package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newHistory() *cobra.Command {
	req := &hadv1.HistoryRequest{}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show what happened, newest last",
		Long: `Show what happened, from the replicated log: every change of owner with its
cause and how long each step took, every hook that ran, every policy and move.

A line is: when it happened by that node's clock, the node, the epoch, what.
What reached the log more than a second late shows both times. With -o json
each line is one event, in the order of the log.`,
		Example: `  hactl history --last 50
  hactl history --follow
  hactl history --last 0 -o json | jq -c 'select(.hook)'`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.history(cmd.Context(), req) },
	}
	cmd.Flags().Uint32Var(&req.Last, "last", 20, "only the newest `N` events (0: all that are kept)")
	cmd.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with new events until Ctrl-C")
	cmd.Flags().Uint64Var(&req.Epoch, "epoch", 0, "only what belongs to this epoch")
	return cmd
}

func (c *cli) history(ctx context.Context, req *hadv1.HistoryRequest) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()

	list := &eventList{cli: c, tellDropped: req.GetLast() == 0}
	sub := &subscription[hadv1.HistoryResponse]{
		client:   cl,
		open:     list.cursor.open(cl, req),
		patience: c.limit(readTimeout),
		handle: func(m *hadv1.HistoryResponse) (bool, error) {
			return m.GetComplete() && !req.GetFollow(), list.add(m)
		},
	}
	if req.GetFollow() {
		sub.lost = c.reportLoss()
	}
	if err := sub.run(ctx); err != nil {
		return err
	}
	if !list.cursor.seen && req.GetEpoch() != 0 {
		fmt.Fprintf(c.err, "hactl: no event that is kept belongs to epoch %d\n", req.GetEpoch())
	}
	return list.flush()
}

// reportLoss returns a function that says on stderr, once a loss, that the
// daemon is being waited for.
func (c *cli) reportLoss() func(error) {
	last := ""
	return func(err error) {
		text := "the daemon ended the answer"
		if err != nil {
			text = oneLine(asFailure(err).Error())
		}
		if text != last {
			fmt.Fprintf(c.err, "hactl: %s: waiting for it\n", text)
		}
		last = text
	}
}

// eventList prints events: those that were there already in the order of
// their times, since reports of a node that was cut off come late, and new
// ones as they arrive.
type eventList struct {
	*cli
	cursor  cursor
	backlog []*hadv1.Event
	live    bool
	// tellDropped asks for a word on events that the log no longer has: once,
	// and only if all were asked for.
	tellDropped bool
}

func (l *eventList) add(m *hadv1.HistoryResponse) error {
	if dropped := m.GetEventsDropped(); dropped > 0 && l.tellDropped {
		l.tellDropped = false
		fmt.Fprintf(l.err, "hactl: %s no longer kept\n", plural(int(dropped), "older event is", "older events are"))
	}
	fresh := l.cursor.fresh(m.GetEvents())
	if l.json() {
		l.live = true
	}
	if !l.live {
		l.backlog = append(l.backlog, fresh...)
		if m.GetComplete() {
			return l.flush()
		}
		return nil
	}
	return l.printEvents(fresh)
}

func (l *eventList) flush() error {
	l.live = true
	slices.SortStableFunc(l.backlog, func(a, b *hadv1.Event) int {
		return a.GetAt().AsTime().Compare(b.GetAt().AsTime())
	})
	all := l.backlog
	l.backlog = nil
	return l.printEvents(all)
}

func (l *eventList) printEvents(events []*hadv1.Event) error {
	var b strings.Builder
	for _, e := range events {
		if l.json() {
			b.Write(document(e))
			b.WriteByte('\n')
		} else {
			b.WriteString(renderEvent(e, l.view(), toTheMilli))
		}
	}
	return l.print(b.String())
}

// cursor remembers the last event seen, so that a stream that is opened again
// repeats and omits nothing.
type cursor struct {
	seen  bool
	index uint64
	sub   uint32
}

// fresh returns the events after the cursor and moves it behind them.
func (c *cursor) fresh(events []*hadv1.Event) []*hadv1.Event {
	var out []*hadv1.Event
	for _, e := range events {
		if c.seen && (e.GetIndex() < c.index || e.GetIndex() == c.index && e.GetSub() <= c.sub) {
			continue
		}
		c.seen, c.index, c.sub = true, e.GetIndex(), e.GetSub()
		out = append(out, e)
	}
	return out
}

// open returns what starts a subscription for req, from the cursor on.
func (c *cursor) open(cl *client, req *hadv1.HistoryRequest) func(context.Context, ...grpc.CallOption) (grpc.ServerStreamingClient[hadv1.HistoryResponse], error) {
	return func(ctx context.Context, opts ...grpc.CallOption) (grpc.ServerStreamingClient[hadv1.HistoryResponse], error) {
		next := &hadv1.HistoryRequest{AfterIndex: req.GetAfterIndex(), Last: req.GetLast(), Follow: req.GetFollow(), Epoch: req.GetEpoch()}
		if c.seen {
			// The log entry of the last event may hold more of them.
			next.AfterIndex, next.Last = c.index-1, 0
		}
		return cl.History(ctx, next, opts...)
	}
}
