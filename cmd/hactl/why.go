package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newWhy() *cobra.Command {
	return &cobra.Command{
		Use:   "why [EPOCH]",
		Short: "Show why the owner changed, step by step",
		Long: `Show how an epoch came to its owner, out of the replicated log: what happened to
the owner before it and by which evidence, who took over, how long each step
took on both sides, and how long nobody had the addresses. Without EPOCH it is
the newest; if nobody owns now, it also says what is being waited for.

Times are by the clocks of the nodes that did the steps. Steps that took less
than a millisecond are left out; -o json has them all.`,
		Example: `  hactl why
  hactl why 1042
  hactl why -o json | jq '.without_owner'`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var epoch uint64
			if len(args) == 1 {
				n, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil || n == 0 {
					return usageError(fmt.Sprintf("%q is no epoch: hactl history shows them behind a #", args[0]), nil, cmd)
				}
				epoch = n
			}
			return c.why(cmd.Context(), epoch)
		},
	}
}

func (c *cli) why(ctx context.Context, epoch uint64) error {
	events, dropped, err := c.fetchHistory(ctx)
	if err != nil {
		return err
	}
	var now *hadv1.StatusResponse
	if epoch == 0 {
		if now, err = c.fetchStatus(ctx); err != nil {
			return err
		}
	}
	change := changeOf(events, epoch)
	switch {
	case change == nil && epoch != 0 && dropped > 0:
		return fail(exitRefused, "the log keeps nothing of epoch %d any more", epoch)
	case change == nil && epoch != 0:
		return fail(exitRefused, "there was no epoch %d: hactl history shows them behind a #", epoch)
	case c.json():
		return c.printValue(whyDocumentOf(change, now))
	}
	return c.print(renderWhy(change, now, c.view()))
}

// fetchHistory returns all events that are kept, and how many are no longer.
func (c *cli) fetchHistory(ctx context.Context) (events []*hadv1.Event, dropped uint64, err error) {
	cl, err := c.connect()
	if err != nil {
		return nil, 0, err
	}
	defer cl.close()
	at := &cursor{}
	sub := &subscription[hadv1.HistoryResponse]{
		client: cl, open: at.open(cl, &hadv1.HistoryRequest{}), patience: c.limit(readTimeout),
		handle: func(m *hadv1.HistoryResponse) (bool, error) {
			events, dropped = append(events, at.fresh(m.GetEvents())...), m.GetEventsDropped()
			return m.GetComplete(), nil
		},
	}
	err = sub.run(ctx)
	return events, dropped, err
}

// whyDocument is an ownership change in JSON.
type whyDocument struct {
	SchemaVersion int         `json:"schema_version"`
	Epoch         uint64      `json:"epoch"` // 0: there was none yet
	Owner         string      `json:"owner"`
	At            *time.Time  `json:"at"`      // when the epoch was opened
	Cause         string      `json:"cause"`   // as the log has it
	Outcome       string      `json:"outcome"` // acquiring, serving, failed or ended
	Previous      *whyBefore  `json:"previous"`
	Steps         []whyStep   `json:"steps"`
	WithoutOwner  *whyWithout `json:"without_owner"`
	Now           *whyNow     `json:"now"` // null when an epoch was asked for
}

type whyBefore struct {
	Epoch uint64 `json:"epoch"`
	Owner string `json:"owner"`
	Fate  string `json:"fate"` // handed_over, released, forced, silent, rebooted or unknown
	Text  string `json:"text"`
}

type whyStep struct {
	At         *time.Time `json:"at"`
	OffsetMs   float64    `json:"offset_ms"`
	DurationMs *float64   `json:"duration_ms"`
	Node       string     `json:"node"`
	Text       string     `json:"text"`
	OK         bool       `json:"ok"`
}

type whyWithout struct {
	LeastMs float64 `json:"least_ms"`
	MostMs  float64 `json:"most_ms"`
	How     string  `json:"how"`
}

type whyNow struct {
	State           string  `json:"state"`
	Owner           string  `json:"owner"`
	Why             string  `json:"why"`
	WaitRemainingMs float64 `json:"wait_remaining_ms"`
	Confirmed       bool    `json:"confirmed"`
	Next            string  `json:"next"`
}

func whyDocumentOf(c *change, now *hadv1.StatusResponse) whyDocument {
	doc := whyDocument{SchemaVersion: schemaVersion, Steps: []whyStep{}}
	if now != nil {
		o := now.GetOwnership()
		doc.Now = &whyNow{
			State: word(o.GetState()), Why: o.GetWhy(), WaitRemainingMs: o.GetWaitRemainingMs(),
			Confirmed: now.GetFreshness().GetConfirmed(), Next: now.GetNext(),
		}
		if o.GetState() == hadv1.Ownership_STATE_OWNED {
			doc.Now.Owner = o.GetOwner()
		}
	}
	if c == nil {
		return doc
	}
	doc.Epoch, doc.Owner, doc.Cause, doc.Outcome = c.epoch, c.owner(), c.acquired.GetAcquired().GetCause(), c.outcome()
	if at := c.acquired.GetAt(); at.IsValid() {
		t := at.AsTime()
		doc.At = &t
	}
	if p := c.previous; p != nil {
		fate, text := c.fate()
		doc.Previous = &whyBefore{p.epoch, p.owner(), fate, text}
	}
	all, zero := c.facts()
	for _, f := range all {
		s := whyStep{OffsetMs: inMs(f.at.Sub(zero)), Node: f.node, Text: f.text, OK: !f.bad, At: &f.at}
		if f.took >= 0 {
			took := inMs(f.took)
			s.DurationMs = &took
		}
		doc.Steps = append(doc.Steps, s)
	}
	if g, known := c.gap(); known {
		doc.WithoutOwner = &whyWithout{inMs(g.least), inMs(g.most), g.how}
	}
	return doc
}

func inMs(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
