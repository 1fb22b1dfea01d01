package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newMove() *cobra.Command {
	req := &hadv1.MoveRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "move",
		Short: "Hand the addresses over to another node",
		Long: `Hand the addresses over to another node and wait until it serves. Each step
is shown on stderr as it happens; the last line, on stdout, says the gap.

The target is asked first whether it could take over: if not, nothing changes
and the exit code is 3. If the outcome isn't known in time the exit code is 5
and the operation's ID is shown, by which history tells what became of it.`,
		Example: `  hactl move --to beta --reason "kernel update on alpha"
  hactl move                 # to the best eligible node by the policy's prefer
  hactl move --to beta -o json | jq .gap_ms`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Operation = strings.ToLower(rand.Text()[:12])
			return c.move(cmd.Context(), req)
		},
	}
	cmd.Flags().StringVar(&req.Target, "to", "", "the `NODE` that shall own (default: the best eligible one)")
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().Bool("yes", false, "accepted for scripts: a move never asks")
	c.completeFlag(cmd, "to", c.nodeNames)
	return cmd
}

// nodeNames returns the nodes that may own, for completion: nothing when the
// daemon doesn't answer at once.
func (c *cli) nodeNames(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := c.fetchStatus(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range s.GetNodes() {
		if !n.GetWitness() {
			names = append(names, n.GetName())
		}
	}
	return names
}

func (c *cli) move(ctx context.Context, req *hadv1.MoveRequest) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	allowed := c.limit(moveTimeout)
	ctx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()

	m := &moveProgress{operation: req.GetOperation(), target: req.GetTarget()}
	after := uint64(0)
	r, err := cl.Move(ctx, req)
	awaitDeadline(ctx, err)
	switch {
	case err == nil:
		m.accept(r)
		after = r.GetIndex()
		fmt.Fprintf(c.err, "moving from %s to %s (operation %s)\n", orNobody(m.from), clean(m.target), m.operation)
	case ctx.Err() != nil:
		return c.moveUnsettled(ctx, m, allowed)
	case outcomeUnknown(err):
		// The order may be in the log; if so the history shows it.
		fmt.Fprintf(c.err, "hactl: %s: looking for operation %s in the history\n", oneLine(asFailure(err).Error()), m.operation)
	default:
		return err
	}

	at := &cursor{}
	sub := &subscription[hadv1.HistoryResponse]{
		client:  cl,
		open:    at.open(cl, &hadv1.HistoryRequest{AfterIndex: after, Follow: true}),
		persist: true,
		lost:    c.reportLoss(),
		handle: func(h *hadv1.HistoryResponse) (bool, error) {
			for _, e := range at.fresh(h.GetEvents()) {
				if m.observe(e) {
					fmt.Fprint(c.err, renderEvent(e, c.plainView(), timeOfDay))
				}
			}
			return m.result != "", nil
		},
	}
	switch err := sub.run(ctx); {
	case err == nil:
		return c.moveSettled(m)
	case ctx.Err() != nil:
		return c.moveUnsettled(ctx, m, allowed)
	default:
		return fail(exitUnknown, "the outcome of move %s isn't known: %w", m.operation, err)
	}
}

// plainView is for stderr, which may be a file when stdout is a terminal.
func (c *cli) plainView() view { return view{width: plainWidth, zone: c.zone} }

func (c *cli) moveSettled(m *moveProgress) error {
	var err error
	switch {
	case c.json():
		err = c.printValue(m.document())
	case m.result == moveMoved:
		err = c.print(m.sentence() + "\n")
	}
	switch {
	case err != nil:
		return err
	case m.result == moveOther:
		return fail(exitFailed, "not moved to %s: %s", m.target, m.why)
	case m.result != moveMoved:
		return fail(exitFailed, "not moved to %s: %s; hactl status shows who owns now", m.target, m.why)
	}
	return nil
}

// moveUnsettled says where to look for the outcome of a move that wasn't
// waited for to its end.
func (c *cli) moveUnsettled(ctx context.Context, m *moveProgress, allowed time.Duration) error {
	m.settle(moveUnknown, "")
	if c.json() {
		if err := c.printValue(m.document()); err != nil {
			return err
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fail(exitInterrupted, "move %s goes on without being watched: hactl history --follow shows it", m.operation)
	}
	return fail(exitUnknown, "the outcome of move %s isn't known after %s: hactl history shows it", m.operation, allowed)
}

func orNobody(node string) string {
	if node == "" {
		return "nobody"
	}
	return clean(node)
}
